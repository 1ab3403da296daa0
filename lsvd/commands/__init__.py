"""The commands of `python -m lsvd`, a module each.

A module's docstring is what --help says first. configure(parser) adds its options, run(options) does what they ask and
returns the exit status (None for 0); what takes long to import is imported in there. What cannot be done is a
ValueError or an OSError: lsvd.__main__ turns it into a sentence.
"""

COMMANDS = {
    "edit": "edit the picture of a prompt",
    "explore": "explore a model's latent space in the browser",
    "survey": "measure how pictures respond to their singular values",
    "study": "measure the edits of the studies editing, strength and ablation, or try the statistics",
    "evaluate": "measure the shipped readers and generators",
    "train": "train the shipped models from the renderer alone",
    "tables": "print measured tables as Markdown",
    "cache": "show or empty the cache",
}

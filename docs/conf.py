"""Sphinx's settings."""

import inspect
import re
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

MATHML = "http://www.w3.org/1998/Math/MathML"
ElementTree.register_namespace("", MATHML)

project = "lsvd"
author = "The lsvd authors"
project_copyright = author
extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["build.py"]
html_theme = "furo"
html_title = "lsvd"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_sourcelink = html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#56B4E9"},
}
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]  # their stills are shown
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
add_module_names = False


def written(app, what, name, obj, options, lines) -> None:
    """Docstrings are plain text with `code`: what reStructuredText would take for markup is escaped."""
    text = inspect.cleandoc("\n".join(lines))
    parts = re.split(r"(`[^`]+`)", text)
    lines[:] = "".join(
        f"`{part}`" if i % 2 else re.sub(r"([*_|\\`])", r"\\\1", part) for i, part in enumerate(parts)
    ).splitlines()
    # an indented block is code, as it stands
    lines[:] = [line for block in _blocks(lines) for line in block]


def _blocks(lines):
    indented = []
    for line in lines:
        if line.startswith("    "):
            indented.append(line)
            continue
        if indented:
            yield ["", "::", "", *(each.replace("\\", "") for each in indented), ""]
            indented = []
        yield [line]
    if indented:
        yield ["", "::", "", *(each.replace("\\", "") for each in indented)]


def mathml(formula: str, as_block: bool) -> str:
    """A formula as MathML, which browsers show by themselves: no script is loaded from elsewhere.

    docutils puts the index of a letter with a hat below the letter; here it goes to its lower right.
    """
    root = ElementTree.fromstring(tex2mathml(formula, as_block=as_block))
    for stack in list(root.iter(f"{{{MATHML}}}munderover")):
        letter, index, accent = stack
        if letter.tag == f"{{{MATHML}}}mi":  # sums keep their limits
            stack.tag, hat = f"{{{MATHML}}}msub", ElementTree.Element(f"{{{MATHML}}}mover")
            hat.extend([letter, accent])
            stack[:] = [hat, index]
    return ElementTree.tostring(root, encoding="unicode")


def inline(self, node) -> None:
    """A formula in a line of text."""
    self.body.append(mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def block(self, node) -> None:
    """A formula on a line of its own."""
    self.body.append(mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app) -> None:
    """Register what Sphinx does not bring along."""
    app.connect("autodoc-process-docstring", written)
    app.add_html_math_renderer("mathml", (inline, None), (block, None))

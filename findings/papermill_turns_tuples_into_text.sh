#!/usr/bin/env bash
# papermill 2.7.0: a parameter that is a tuple arrives in the notebook as text, and the notebook's metadata say otherwise.
#
# Guess: a tuple arrives as a tuple or a list, as a list does, or is refused.
# Behaviour: papermill writes parameters into a cell as source. Its translator knows None, bool, int, float, dict and list,
#   and writes everything else as a string of what str() says. A tuple passes without a warning, at the top and inside of
#   lists and dicts. The record of the run, metadata.papermill.parameters, goes through JSON and holds a list.
# Seen: size=(8, 8) arrives as the string '(8, 8)', so size[0] is '(' and "for seed in seeds" walks over characters; the
#   record says [8, 8]; the notebook runs to its end.
#
# PYTHON names an interpreter that has these versions; without it they are installed into a temporary folder.
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$home/env"; PYTHON="$home/env/bin/python"
  "$PYTHON" -m pip install -q papermill==2.7.0 ipykernel==7.4.0
fi
cd "$home"
"$PYTHON" - <<'PY'
import json, warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")
import nbformat, papermill

assert version("papermill") == "2.7.0", version("papermill")
cells = [
    nbformat.v4.new_code_cell("size = None\nlisted = None\nnested = None", metadata={"tags": ["parameters"]}),
    nbformat.v4.new_code_cell("import json\nprint(json.dumps([size, listed, nested, size[0]]))"),
]
kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), "in.ipynb")
given = {"size": (8, 8), "listed": [8, 8], "nested": {"size": (8, 8)}}
papermill.execute_notebook("in.ipynb", "out.ipynb", parameters=given, progress_bar=False)
done = nbformat.read("out.ipynb", as_version=4)
size, listed, nested, first = json.loads(done.cells[-1].outputs[0]["text"])
record = done.metadata.papermill.parameters
print(f"given {given}\narrived: size {size!r}, listed {listed!r}, nested {nested!r}; size[0] is {first!r}")
print(f"the record says size = {record['size']}")
assert (size, listed, nested, first) == ("(8, 8)", [8, 8], {"size": "(8, 8)"}, "(")
assert record["size"] == [8, 8]
PY

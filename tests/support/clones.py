"""Small clones for tests of the Makefile: a little package, and a stand-in for papermill.

Their notebooks are executed in the process that would start the kernel.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from processes import heeding

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = """#!/bin/sh
case "$*" in
  "-m tools."* | tools/clone.py) exec {python} "$@" ;;
  *) printf '%s\\n' "$@" >> commands.txt ;;
esac
"""
COMMAND = """def main(arguments):
    with open("commands.txt", "a") as file:
        print(*arguments, file=file)
"""
PAPERMILL = '''"""Executes a notebook here and now."""
import json, os

def execute_notebook(source, target, parameters, **options):
    root = os.getcwd()
    with open("runs.txt", "a") as file:
        file.write(os.path.basename(source)[:2] + "\\\\n")
    os.chdir(options["cwd"])
    names = {}
    with open(os.path.join(root, source)) as file:
        notebook = json.load(file)
    for cell in notebook["cells"]:
        exec("".join(cell["source"]), names)
        names |= parameters
        with open(os.path.join(root, target), "w") as file:
            json.dump(notebook, file)
'''.replace("\\\\n", "\\n")
IMPORTS = "from lsvd.paths import outputs\nfrom lsvd.storage.files import update_csv, write_bytes\nimport json\n"
NOTEBOOKS = {
    "00_one": """
from lsvd import first
told = {"backbone": backbone, "device": device, "count": count, "names": names}
write_bytes(outputs("figures", "00 first.png"), json.dumps(told).encode())
write_bytes(outputs("figures", ".00.tmp"), b"")
""",
    "01_two": """
def later():
    from lsvd.deep import second
for i in (1, 2):
    write_bytes(outputs("tables", f"01_{i}.csv"), b"x")
update_csv(outputs("tables", "verdicts.csv"), [{"claim": "one", "value": 0.5}], ["claim"], ["one", "two"])
""",
    "02_none": """
update_csv(outputs("tables", "verdicts.csv"), [{"claim": "two", "value": 0.5}], ["claim"], ["one", "two"])
""",
}
PARAMETERS = {
    "00_one": 'backbone = "mini-sd"; device = "cpu"; count = 2; share = 0.5; names = ["a"]; '
    'words = {"a": "b"}; quiet = False',
    "01_two": 'backbone = "mini-sd"',
    "02_none": "",
}


def write_notebook(path, source, parameters=""):
    declared = nbformat.v4.new_code_cell(parameters, id="0", metadata={"tags": ["parameters"]})
    cells = [declared, nbformat.v4.new_code_cell(IMPORTS + source, id="1")]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def small_clone(home):
    """A clone in the folder `home`, with the Makefile and what it reads. Returns the folder."""
    for folder in (
        "env/bin",
        "lsvd/storage",
        "lsvd/deep",
        "lsvd/weights/m",
        "notebooks",
        "measurements/a",
        "papermill",
    ):
        (home / folder).mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, home / name)
    for path in [*(ROOT / "lsvd").glob("*.py"), *(ROOT / "lsvd/storage").glob("*.py")]:
        shutil.copy(path, home / path.relative_to(ROOT))
    (home / "lsvd/__main__.py").write_text(COMMAND)
    shutil.copytree(ROOT / "tools", home / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (home / "lsvd/first.py").write_text("from lsvd import paths\npaths.measurements('a')\n")
    (home / "lsvd/deep/__init__.py").touch()
    (home / "lsvd/deep/second.py").write_text("from . import third\n")
    (home / "lsvd/deep/third.py").touch()
    (home / "lsvd/unused.py").touch()
    (home / "lsvd/weights/m/model.safetensors").write_bytes(b"weights")
    (home / "measurements/a/one.safetensors").write_bytes(b"measured")
    (home / "papermill/__init__.py").write_text(PAPERMILL)
    (home / "env/bin/python").write_text(COMMANDS.format(python=sys.executable))
    (home / "env/bin/python").chmod(0o755)
    for name, source in NOTEBOOKS.items():
        write_notebook(home / "notebooks" / f"{name}.ipynb", source, PARAMETERS[name])
    return home


# what an outer make passes on, `make test`, is not for this one
OUTER = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "GNUMAKEFLAGS", "PY", "LSVD_OUTPUTS", "LSVD_MEASUREMENTS"}
VARIABLES = ("PYTHON", "TORCH_INDEX", "USE_ENV", "PARAMS", "BACKBONE", "DEVICE", "NOTEBOOKS", "CELL_TIMEOUT", "WORKERS")
VARIABLES += ("TESTS", "MODELS")


def environment(**extra):
    return {name: value for name, value in os.environ.items() if name not in {*OUTER, *VARIABLES}} | extra


def make(home, *arguments, **extra):
    command = ["make", "USE_ENV=env", *arguments]
    return subprocess.run(command, cwd=home, env=environment(**extra), capture_output=True, text=True)


def complaint(done):
    """The one sentence on stderr of a make that failed."""
    [sentence] = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    return sentence


def reproduce(home, *arguments, **extra):
    """Run `make reproduce`; the numbers of the notebooks that ran."""
    (home / "runs.txt").write_text("")
    done = make(home, "reproduce", *arguments, **extra)
    assert done.returncode == 0, done.stderr
    assert "build/notebooks: 3 up to date" in done.stdout and not done.stderr
    return sorted((home / "runs.txt").read_text().split())


def figure(home):
    """What the first notebook was told."""
    return json.loads((home / "outputs/figures/00 first.png").read_text())


def start(home, *arguments, **extra):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = ["make", "USE_ENV=env", *arguments]
    return heeding(command, cwd=home, env=environment(**extra), start_new_session=True, **pipes)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found

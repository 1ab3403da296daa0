"""Executes one notebook in its own process: with parameters by papermill, or as stored.

python -m tools.execute SOURCE TARGET SECONDS [PARAMETERS]: SECONDS is the limit of a cell, PARAMETERS are JSON. Without
them the notebook is executed as stored. TARGET is written in the end, and when a cell fails.
"""

import json
import logging
import os
import sys
import threading
import time
from typing import Any

KERNEL = "python3"
WIDGET = "application/vnd.jupyter.widget-view+json"


def run(source: str, target: str, seconds: int, parameters: dict[str, Any]) -> None:
    """Execute a notebook in its folder with parameters from papermill."""
    import papermill

    papermill.execute_notebook(
        source,
        target,
        parameters,
        kernel_name=KERNEL,
        cwd=os.path.dirname(source),
        progress_bar=False,
        execution_timeout=seconds,
    )


def store(source: str, target: str, seconds: int) -> None:
    """Execute a notebook in its folder, and write it in its stored form.

    That form has no times, each printed text in one piece however fast it came, and the kernel's own name.
    """
    import nbformat
    from ipykernel.kernelspec import get_kernel_dict
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor, ExecutePreprocessor

    notebook = nbformat.read(source, as_version=4)
    spec = get_kernel_dict()
    notebook.metadata["kernelspec"] = {"name": KERNEL, **{name: spec[name] for name in ("display_name", "language")}}
    execution = ExecutePreprocessor(timeout=seconds, kernel_name=KERNEL, record_timing=False, store_widget_state=False)
    try:
        execution.preprocess(notebook, {"metadata": {"path": os.path.dirname(source)}})
    finally:
        # only now are there outputs to join
        CoalesceStreamsPreprocessor().preprocess(notebook, {})
        forget_widgets(notebook)
        nbformat.write(notebook, target)


def forget_widgets(notebook: Any) -> None:
    """Give all widgets in the outputs the same name: their own are random, and end with the kernel."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if WIDGET in output.get("data", {}):
                output.data[WIDGET]["model_id"] = "not kept"


def end_with(parent: int) -> None:
    """End this process once its parent is gone, for whatever reason; the kernel watches this process likewise."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def sentence(error: Exception) -> str:
    """Why a notebook did not finish, in one line."""
    name = getattr(error, "ename", None) or type(error).__name__
    text = " ".join(str(getattr(error, "evalue", None) or error).split())
    cell = f"cell [{error.exec_count}]: " if getattr(error, "exec_count", None) else ""
    return f"{cell}{name}: {text}" if text else f"{cell}{name}"


def main() -> int:
    """Execute; 0, or 1 after one line on stderr."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    logging.disable(logging.ERROR)  # errors are reported in one line below
    source, target, seconds, *parameters = sys.argv[1:]
    try:
        if parameters:
            run(source, target, int(seconds), json.loads(parameters[0]))
        else:
            store(source, target, int(seconds))
    except Exception as error:
        sys.stderr.write(sentence(error) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

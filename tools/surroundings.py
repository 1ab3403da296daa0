"""The environment of executed notebooks: the same whatever a person's settings of IPython and matplotlib."""

import os
from pathlib import Path

# ipykernel warns in every notebook that it runs over TCP, and prints tracebacks when a kernel ends within a cell.
IPYTHON = """c = get_config()  # noqa: F821
c.IPKernelApp.log_level = "CRITICAL"
c.IPKernelApp.exec_PYTHONSTARTUP = False
"""

QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # transformers remarks on every import that torchvision is missing, which is not needed
    "TRANSFORMERS_VERBOSITY": "error",
}


def set_up(folder: Path) -> None:
    """Set this process's environment, which kernels inherit; settings of IPython and matplotlib lie in `folder`."""
    ipython, matplotlib, runtime = (folder / name for name in ("ipython", "matplotlib", "jupyter"))
    profile = ipython / "profile_default"
    for place in (profile, matplotlib, runtime):
        place.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text(IPYTHON)
    (matplotlib / "matplotlibrc").write_text("# matplotlib's defaults; lsvd.figures.style sets what differs\n")
    os.environ |= {
        **QUIET,
        "IPYTHONDIR": str(ipython),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "MPLCONFIGDIR": str(matplotlib),
        "MATPLOTLIBRC": str(matplotlib / "matplotlibrc"),
        # kernels named python3 that a person installed elsewhere are not this environment's
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    # A backend chosen outside would keep a kernel from drawing inline.
    os.environ.pop("MPLBACKEND", None)

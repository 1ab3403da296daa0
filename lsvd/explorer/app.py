"""The explorer as an app: Voilà serves it on the loopback address, with a token, and a kernel for each browser tab."""

import json
import os
import secrets
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path

HOST = "127.0.0.1"
TITLE = "explorer"
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; connect-src 'self' ws: blob: data:"
PATIENCE = 60.0  # seconds to wait for the server before opening the browser
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}


def serve(
    cell: str,
    *,
    port: int = 0,
    theme: str = "light",
    browser: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve a cell that shows a widget, until Ctrl-C or SIGTERM.

    port: 0 for any free port. say: called with the address, and with how to stop. Raises ValueError if Voilà is not
    installed or the port is taken.
    """
    try:
        from voila.app import Voila
    except ImportError as error:
        raise ValueError(
            "the app needs Voilà: install it with `pip install voila`, or explore in JupyterLab"
        ) from error
    port, token = free(port), secrets.token_urlsafe(24)
    address = f"http://{HOST}:{port}/?token={token}"
    os.environ |= QUIET  # of the kernels
    with tempfile.TemporaryDirectory(prefix="lsvd-") as folder:
        notebook = Path(folder) / f"{TITLE}.ipynb"
        notebook.write_text(json.dumps(written(cell)), encoding="utf-8")
        app = Voila()
        options = [f"--Voila.ip={HOST}", f"--port={port}", f"--token={token}", "--Voila.port_retries=0"]
        options += ["--no-browser", "--Voila.log_level=ERROR", f"--theme={theme}"]
        # the policy keeps Voilà's page from loading anything from elsewhere, such as fonts
        app.tornado_settings = {"headers": {"Content-Security-Policy": POLICY}}
        app.initialize([str(notebook), *options])
        say(f"The explorer is at {address}")
        say("Each browser tab has a kernel of its own. Ctrl-C here stops it.")
        if browser:
            threading.Thread(target=opened, args=(address, port), daemon=True).start()
        app.start()


def free(port: int) -> int:
    """The port, or a free one for 0. Raises ValueError for a port that is taken or not allowed."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"port {port} cannot be used: choose another, or leave it out") from error
        return probe.getsockname()[1]


def opened(address: str, port: int) -> None:
    """Open the address in the browser as soon as the server answers."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            webbrowser.open(address)
            return


def written(cell: str) -> dict:
    """A notebook of one cell."""
    code = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": cell, "id": TITLE}
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    return {"cells": [code], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}

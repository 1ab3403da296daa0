#!/usr/bin/env bash
# ipykernel 7.4.0: torch.set_grad_enabled(False) in a cell does not hold in the callbacks of widgets.
#
# Guess: what a cell sets for the process holds for all code that the kernel runs later, widgets' callbacks included:
#   torch.set_grad_enabled(False) in the first cell keeps sampling without gradients wherever it is called from.
# Behaviour: JupyterLab 4.4 and later sends the messages of widgets to a subshell, which is a thread of its own. Grad mode
#   and numpy's errstate belong to a thread and begin there with their defaults. Torch's default dtype belongs to the
#   process, and holds. A slider's callback that samples thus keeps the graph of every step, though a cell says otherwise.
# Seen: in the cell grad mode is off; in a subshell of the same kernel it is on, and division by 0 warns instead of raising.
#
# PYTHON names an interpreter that has these versions; without it they are installed into a temporary folder.
set -euo pipefail
if [ -z "${PYTHON:-}" ]; then
  home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
  python3 -m venv "$home/env"; PYTHON="$home/env/bin/python"
  "$PYTHON" -m pip install -q torch==2.13.0 numpy==2.4.6 ipykernel==7.4.0 jupyter_client==8.10.0
fi
"$PYTHON" - <<'PY'
from importlib.metadata import version

from jupyter_client.manager import start_new_kernel

assert version("ipykernel") == "7.4.0", version("ipykernel")


def answer(channel, message):
    while True:
        reply = channel.get_msg(timeout=120)
        if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
            return reply["content"]


def value(client, code, expression, subshell=None):
    """What an expression is after some code, in the main shell or in a subshell."""
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "stop_on_error": True}
    message = client.session.msg("execute_request", content | {"user_expressions": {"value": expression}})
    if subshell:
        message["header"]["subshell_id"] = subshell
    client.shell_channel.send(message)
    return answer(client.shell_channel, message)["user_expressions"]["value"]["data"]["text/plain"]


SETUP = "import numpy, torch; torch.set_grad_enabled(False); numpy.seterr(divide='raise'); torch.set_default_dtype(torch.float64)"
LOOKS = {"grad mode": "torch.is_grad_enabled()", "errstate": "numpy.geterr()['divide']", "dtype": "torch.get_default_dtype()"}
manager, client = start_new_kernel(extra_arguments=["--IPKernelApp.log_level=ERROR"])
try:
    request = client.session.msg("create_subshell_request", {})
    client.control_channel.send(request)
    subshell = answer(client.control_channel, request)["subshell_id"]
    value(client, SETUP, "None")
    for what, look in LOOKS.items():
        print(f"{what}: {value(client, '', look)} in a cell, {value(client, '', look, subshell)} in a subshell")
    seen = [value(client, "", look, shell) for shell in (None, subshell) for look in LOOKS.values()]
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
assert seen == ["False", "'raise'", "torch.float64", "True", "'warn'", "torch.float64"], "the behaviour changed"
PY

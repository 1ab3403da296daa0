"""The app's own part: its address, its notebook, and what it says when it cannot be served."""

import socket
import sys

import nbformat
import pytest

from lsvd.__main__ import main
from lsvd.commands.explore import shown
from lsvd.explorer import app


def test_its_notebook_is_one_cell():
    notebook = nbformat.from_dict(app.written("1 + 1"))
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells] == ["1 + 1"]


def test_a_port_that_is_free_is_found():
    port = app.free(0)
    assert 1024 <= port < 2**16 and app.free(port) == port


@pytest.mark.parametrize("port", [-1, 2**16, 10**9])
def test_a_port_that_cannot_be_is_refused(port, capsys):
    assert main(["explore", "--no-browser", "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"lsvd: port {port} cannot be used: choose another, or leave it out\n"


def test_a_port_that_is_taken_is_refused(capsys):
    with socket.socket() as taken:
        taken.bind((app.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["explore", "--no-browser", "--port", str(port)]) == 1
    assert "choose another" in capsys.readouterr().err


def test_without_voila_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "voila.app", None)
    assert main(["explore", "--no-browser"]) == 1
    assert "pip install voila" in capsys.readouterr().err
    assert main(["explore", "--device", "abacus"]) == 1
    assert "no device 'abacus'" in capsys.readouterr().err


def test_what_cannot_be_shown_is_a_sentence_on_the_page(capsys):
    assert shown("sd99", "cpu") is None and shown("mini-sd", "cpu", steps=0) is None
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("lsvd: there is no backbone 'sd99'") and second.startswith("lsvd: the number of steps")

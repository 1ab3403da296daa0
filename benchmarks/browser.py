"""JupyterLab and the app in a real browser: headless Chromium, driven by Playwright."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
SECONDS = 180  # until anything must have happened, on a machine that does other things as well
TOKEN = "a-token-of-the-tests"


def missing() -> str:
    """What the browser tests lack, and how to install it; "" if nothing."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "there is no Playwright: pip install playwright"
    if not executable():
        return "there is no Chromium: apt-get install chromium, or python -m playwright install chromium"
    return ""


def executable() -> str | None:
    """The path of a Chromium: the system's, or one that Playwright has installed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found:
        return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).is_file() else None


@contextmanager
def chromium() -> Iterator:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def new_page(browser, width: int = 1280, height: int = 1000, **settings):
    """A page that waits as long as anything may take here."""
    page = browser.new_page(viewport={"width": width, "height": height}, **settings)
    page.set_default_timeout(1000 * SECONDS)
    return page


def open_app(page, address: str) -> None:
    """Open the app: the answer comes when its kernel has drawn the widget."""
    page.goto(address, wait_until="commit")


@contextmanager
def lab(folder: Path) -> Iterator[str]:
    """JupyterLab on a folder of notebooks; yields the address of its root, to which "lab/tree/NAME?token=" is added."""
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += [f"--IdentityProvider.token={TOKEN}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    settings = folder.parent / "settings"
    quiet = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True, exist_ok=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    environment = {"JUPYTERLAB_SETTINGS_DIR": str(settings), "JUPYTERLAB_WORKSPACES_DIR": str(folder.parent / "spaces")}
    address = f"http://127.0.0.1:{port}"
    with running(command, environment):
        answers(port)
        yield address


@contextmanager
def app(*options: str) -> Iterator[str]:
    """The app; yields its address, with its token."""
    command = [sys.executable, "-m", "lsvd", "explore", "--no-browser", *options]
    with running(command, {}, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=\S+", said)
        assert address, said
        answers(int(address[1]))
        yield address.group()


@contextmanager
def running(command: list[str], variables: dict[str, str], **pipes) -> Iterator[subprocess.Popen]:
    """A server, which is ended afterwards with all that it started."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **pipes}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def answers(port: int) -> None:
    """Wait until a server listens. Nothing is asked of it: for a page of the app, a kernel would be started."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)


def free_port() -> int:
    """A port that nobody uses."""
    from lsvd.explorer.app import free

    return free(0)


def notebook(path: Path, *cells: str) -> None:
    """Write a notebook of these code cells."""
    code = [
        {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": cell, "id": f"cell-{i}"}
        for i, cell in enumerate(cells)
    ]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    whole = {"cells": code, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(whole))


def open_lab(page, address: str, name: str) -> None:
    """Open a notebook in JupyterLab, with nothing at its sides."""
    page.goto(f"{address}/lab/tree/{name}?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook-cell")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    if page.locator("#jp-left-stack:visible").count():
        page.keyboard.press("Control+b")


def run_all(page) -> None:
    """Run all cells, by the menu; once more if none begins, as when the kernel is not quite there."""
    prompts = page.locator(".jp-InputPrompt")
    before, end = prompts.all_text_contents(), time.monotonic() + SECONDS
    while time.monotonic() < end:
        page.locator(".lm-MenuBar-item", has_text="Run").click()
        page.locator(".lm-Menu-item", has_text="Run All Cells").first.click()
        for _ in range(100):
            page.wait_for_timeout(100)
            if prompts.all_text_contents() != before:
                return
    raise TimeoutError("JupyterLab runs no cell")


class Explored:
    """The explorer in a page: what a person does with it, and sees."""

    def __init__(self, page, nth: int = 0):
        self.page = page
        self.root = page.locator(".lsvd-explorer").nth(nth)
        self.root.wait_for()
        self.settle()

    def settle(self, after: int = -1) -> None:
        """Wait until what was asked for is there: more than `after` requests, and the last of them answered."""
        end = time.monotonic() + SECONDS
        while True:
            state = self.root.evaluate("e => [Number(e.dataset.submitted), Number(e.dataset.answered)]")
            if state[0] > after and state[0] == state[1]:
                self.page.wait_for_timeout(60)  # a frame
                return
            if time.monotonic() > end:
                raise TimeoutError(f"the explorer is at {state}; it says {self.note!r}")
            self.page.wait_for_timeout(20)

    def asked(self) -> int:
        """The number of requests so far."""
        return int(self.root.get_attribute("data-submitted"))

    @contextmanager
    def answer(self) -> Iterator[None]:
        """What is done within is waited for."""
        before = self.asked()
        yield
        self.settle(before)

    @property
    def note(self) -> str:
        """The sentence on the screen."""
        return self.root.locator(".note").text_content() or ""

    def tab(self, name: str) -> None:
        """Open a panel."""
        self.root.get_by_role("tab", name=name, exact=True).click()

    def field(self, label: str):
        """A control by its label, as a screen reader finds it."""
        return self.root.get_by_label(label, exact=True).locator("visible=true").first

    def fill(self, label: str, text: str) -> None:
        """Type into a field."""
        self.field(label).fill(text)

    def slide(self, label: str, value: float) -> None:
        """Move a slider to a value and let go, as a drag does."""
        script = """(e, value) => {
            e.value = value;
            e.dispatchEvent(new Event("input", {bubbles: true}));
            e.dispatchEvent(new Event("change", {bubbles: true}));
        }"""
        with self.answer():
            self.field(label).evaluate(script, value)

    def press(self, name: str) -> None:
        """Press a button, and wait for what it leads to."""
        with self.answer():
            self.root.get_by_role("button", name=name, exact=True).locator("visible=true").first.click()

    def picture(self, name: str) -> list[int]:
        """The pixels of a picture on the screen, RGBA, row by row; empty if it is not shown."""
        script = """async (e) => {
            if (!e || e.closest("[hidden]") || !e.src) return [];
            await e.decode();
            const canvas = document.createElement("canvas");
            canvas.width = e.naturalWidth;
            canvas.height = e.naturalHeight;
            const context = canvas.getContext("2d");
            context.drawImage(e, 0, 0);
            return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data);
        }"""
        return self.root.locator(f"[data-picture={name}] img").evaluate(script)

    def download(self, name: str) -> Path:
        """Press a button that saves a file; returns where the browser has put it."""
        with self.page.expect_download() as waiting:
            self.root.get_by_role("button", name=name, exact=True).locator("visible=true").first.click()
        return Path(waiting.value.path())

    def choose(self, button: str, path: Path) -> None:
        """Press a button that opens a file, and choose one that leads to something."""
        with self.answer():
            self.offer(button, path)

    def offer(self, button: str, path: Path) -> None:
        """As `choose`, without waiting."""
        with self.page.expect_file_chooser() as waiting:
            self.root.get_by_role("button", name=button, exact=True).click()
        waiting.value.set_files(path)

"""The explorer as a widget, for JupyterLab, VS Code, Colab and Voilà: a session and what the browser shows of it."""

import base64
import io
from pathlib import Path
from typing import Any

import anywidget
import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from PIL import Image

from lsvd.backbones import loading
from lsvd.backbones.models import Backbone
from lsvd.explorer.session import ACTIONS, PICTURES, Session
from lsvd.explorer.showing import Reader
from lsvd.figures import sheets
from lsvd.paths import PACKAGE
from lsvd.storage.files import write_bytes

FRONT = PACKAGE / "explorer"


class Explorer(anywidget.AnyWidget):
    """Moves through a model's latent space: draw, timeline, triplets, edits, a picture of one's own.

    model: a backbone, or a name that lsvd.load knows. reader: reads attributes off its pictures, such as
    lsvd.testbed.reader.load("portraits"); None for none. request: what to draw first: prompt, negative, seed, steps,
    guidance, scheduler. It is drawn at once, in its own thread. `session` is everything but the widget:
    session.act("draw", prompt="a cat") does what the button does.
    """

    _esm = (FRONT / "front.js").read_text(encoding="utf-8")
    _css = (FRONT / "front.css").read_text(encoding="utf-8")

    view = traitlets.Dict().tag(sync=True)
    progress = traitlets.Dict().tag(sync=True)
    source, result, target, difference = (traitlets.Bytes().tag(sync=True) for _ in range(4))
    estimate, channels, tiles, film = (traitlets.Bytes().tag(sync=True) for _ in range(4))

    def __init__(self, model: Backbone | str | Path, reader: Reader | None = None, **request: Any):
        backbone = model if isinstance(model, Backbone) else loading.load(model)
        self.session = Session(backbone, reader, self._changed)
        super().__init__(view=self.session.view(), progress=self.session.progress)
        self.on_msg(self._asked)
        self.session.start(**request)

    def code(self) -> str:
        """The cell of plain Python that draws what is on the screen."""
        return self.session.code()

    def wait(self, seconds: float | None = None) -> "Explorer":
        """The explorer, once its drawing is done. Raises TimeoutError if that takes longer."""
        if not self.session.wait(seconds):
            raise TimeoutError(f"the explorer still draws after {seconds:g} seconds: wait longer, or stop it")
        return self

    def picture(self) -> Image.Image:
        """The picture on the screen: the result, or the source where nothing is changed.

        Raises ValueError where there is none yet.
        """
        data = self.session.pictures["result"] or self.session.pictures["source"]
        if not data:
            raise ValueError("there is no picture yet: wait() for it")
        return Image.open(io.BytesIO(data)).convert("RGB")

    def save(self, path: str | Path) -> Path:
        """Write the picture on the screen as a PNG file that notes its recipe and its code. Returns the path.

        Raises ValueError where there is no finished picture, lsvd.storage.files.WriteError if it cannot be written.
        """
        return write_bytes(path, self.session.saved_picture()[1])

    def figure(self) -> Figure:
        """The pictures on the screen as a figure, for a notebook that is read without a kernel."""
        labels = self.session.seen.get("labels", {})
        shown = {name: self.session.pictures[name] for name in ("source", "result", "target", "difference")}
        shown = {name: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for name, data in shown.items() if data}
        if not shown:
            raise ValueError("there is no picture yet: wait() for it")
        pictures = torch.stack([torch.from_numpy(array.copy()).permute(2, 0, 1) / 255 for array in shown.values()])
        titles = [labels.get(name, name).replace(", ", ",\n").replace(" to ", "\nto ") for name in shown]
        return sheets.grid(pictures[None], columns=titles, size=1.6)

    def __repr__(self) -> str:
        return f"Explorer({self.session.backbone.name!r})"

    def close(self) -> None:
        """End the work, and take the widget off the screen."""
        self.session.close()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and a still of its pictures for places without widgets, such as an untrusted notebook."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None and self.session.pictures["source"] and not self.session.progress["busy"]:
            figure = self.figure()
            figure.savefig(still := io.BytesIO(), format="png", dpi=72, bbox_inches="tight")
            plt.close(figure)
            data["image/png"] = base64.b64encode(still.getvalue()).decode()
        return bundle

    def _asked(self, widget: Any, content: dict[str, Any], buffers: list[memoryview]) -> None:
        """Do the browser's action; files come as buffers."""
        values = dict(content)
        action = values.pop("do", "")
        if action == "draw":
            values = values.get("request", {})
        if buffers:
            values["source" if action == "restore" else "data"] = bytes(buffers[0])
        if action not in ACTIONS:
            return
        answer = self.session.act(action, **values)
        if action.startswith("saved_") and answer is not None:
            name, data = answer
            self.send({"save": name}, [data])

    def _changed(self, names: Any) -> None:
        """Called by the session, in any thread, when something on the screen has changed."""
        # the session's own lock, since widgets have none
        with self.session.lock, self.hold_sync():
            for name in names:
                if name in PICTURES:
                    setattr(self, name, self.session.pictures[name])
                elif name == "view":
                    self.view = self.session.view()
                else:
                    self.progress = dict(self.session.progress)

"""The explorer without its widget: everything that the person sees and does, as plain Python.

A session holds the recipe that the controls show, draws it in its own thread, and keeps the contents of the screen:
pictures as bytes, everything else as values that JSON can hold. Actions never raise for bad input: they leave a
sentence in `message`, and the last picture stays.
"""

import hashlib
import io
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lsvd.avi import attribute as attributes
from lsvd.backbones.models import Backbone
from lsvd.explorer import code, recipe, showing
from lsvd.explorer.drawing import Moment, Studio, scale
from lsvd.explorer.methods import METHODS
from lsvd.explorer.recipe import SLIDERS, Recipe, Triplets, Upload, Used
from lsvd.explorer.showing import Reader
from lsvd.explorer.watch import Stopped, Watch
from lsvd.explorer.work import Worker, sentence
from lsvd.sampling.trajectory import Trajectory

UNDO = 100
INVERTED_GUIDANCE = 3.0  # with more, few pictures can be inverted; see notebook 08
PICTURES = ("source", "result", "target", "difference", "estimate", "channels", "tiles", "film")


@dataclass(frozen=True)
class Job:
    """A numbered recipe to draw. live: while a slider moves; the first estimate is enough then."""

    recipe: Recipe
    live: bool = False
    number: int = 0


class Session:
    """The actions of a person on a model, and what the screen shows.

    reader: reads attributes off the model's pictures; None if nothing does. changed: called, in any thread, with the
    names of changes: "view", "progress", or one of PICTURES. lock: held while anything here changes.
    """

    def __init__(
        self,
        backbone: Backbone,
        reader: Reader | None = None,
        changed: Callable[[Sequence[str]], None] = lambda names: None,
    ):
        self.backbone, self.reader, self.changed = backbone, reader, changed
        self.studio = Studio(backbone)
        self.recipe = self._committed = Recipe.of(backbone)
        self.drawn: Recipe | None = None
        self.message, self.remarks = {"kind": "", "text": ""}, []
        self.progress: dict[str, Any] = {"busy": False, "label": "", "done": 0, "total": 0, "left": None}
        self.pictures: dict[str, bytes] = dict.fromkeys(PICTURES, b"")
        self.seen: dict[str, Any] = {}
        self._last: tuple[dict[str, bytes], dict[str, Any]] = (dict(self.pictures), {})
        self._past: list[Recipe] = []
        self._future: list[Recipe] = []
        self._closeup: Any = None  # the moment and channel on the screen
        self._submitted = self._answered = 0
        self.lock = threading.RLock()
        self._worker = Worker(self._work, self._ended, self._remark)

    # Actions

    def act(self, name: str, /, **values: Any) -> Any:
        """Do an action by its name. An error ends up in `message`."""
        try:
            if name not in ACTIONS:
                raise ValueError(f"there is no action {name!r}")
            return getattr(self, name)(**values)
        except Exception as error:
            self._say("error", sentence(error))
            return None

    def start(self, **request: Any) -> None:
        """Draw the first picture, with the backbone's defaults. Raises ValueError for bad values."""
        with self.lock:
            self.recipe = self._committed = self._put({f"request.{name}": value for name, value in request.items()})
            self._submit()

    def draw(self, **request: Any) -> None:
        """Draw a request; missing values stay as they are. A stopped drawing goes on."""
        with self.lock:
            new = self._put({f"request.{name}": value for name, value in request.items()})
            self._commit(replace(new, request=replace(new.request, until=None)))

    def set(self, path: str, value: Any, live: bool = False) -> None:
        """Set one control, such as "triplets.factors.0" or "edit.strength". live: while it is still moving."""
        head = path.split(".")[0]
        if head == "edit" and "edit" in self._missing():
            raise ValueError(self._missing()["edit"])
        with self.lock:
            new = self._put({path: value})
            if head in ("triplets", "edit"):
                new = replace(new, shown=head)
            if live:
                self.recipe = new
                self._submit(live=True)
            else:
                self._commit(new)

    def undo(self) -> None:
        """Back to the recipe before the last change."""
        self._travel(self._past, self._future, "there is nothing to undo")

    def redo(self) -> None:
        """Forward again after `undo`."""
        self._travel(self._future, self._past, "there is nothing to redo")

    def reset(self, part: str = "triplets") -> None:
        """Set the triplets, or the edit's settings, back to their defaults; prompt and attributes stay."""
        with self.lock:
            if part == "triplets":
                channel = self.recipe.triplets.channel
                self._commit(replace(self.recipe, triplets=Triplets(channel=channel), shown="triplets"))
            elif part == "edit":
                now = self.recipe.edit
                first = Recipe.of(self.backbone).edit
                first = replace(first, method=now.method, target=now.target, attributes=now.attributes)
                self._commit(replace(self.recipe, edit=first))
            else:
                raise ValueError(f"there is nothing to reset in {part!r}")

    def stop(self) -> None:
        """End the drawing at its next step, and keep the part drawn so far."""
        self._worker.stop()

    def upload(self, name: str, data: bytes) -> None:
        """Explore the person's own picture: it is inverted to noise, with the prompt of the request."""
        picture, digest = opened(data), hashlib.sha256(data).hexdigest()
        with self.lock:
            self.studio.uploads[digest] = picture
            new, previous = self.recipe, self.recipe.upload
            if previous is None or previous.digest != digest:
                iterations = previous.iterations if previous else Upload("", "").iterations
                new = replace(new, upload=Upload(Path(name).name or "picture.png", digest, iterations))
                guidance = new.request.guidance
                if guidance is not None and guidance > INVERTED_GUIDANCE:
                    new = replace(new, request=replace(new.request, guidance=INVERTED_GUIDANCE))
                new = replace(new, request=replace(new.request, until=None), triplets=Triplets())
            self._commit(new)

    def forget(self) -> None:
        """Leave the uploaded picture, and draw from the prompt again."""
        with self.lock:
            first = Recipe.of(self.backbone).request
            request = replace(self.recipe.request, guidance=first.guidance, until=None)
            self._commit(replace(self.recipe, upload=None, request=request))

    def open_attribute(self, name: str, data: bytes) -> None:
        """Add a saved attribute to those of the edit."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / safe(name)
            path.write_bytes(data)
            try:
                attribute = attributes.load(path)
            except ValueError as error:
                raise ValueError(str(error).replace(str(path), Path(name).name)) from error
        self._use(Path(name).name, data, attribute)

    def learn(self) -> None:
        """Keep the attribute that the edit has learned, and use it."""
        name, data, attribute = self._learned()
        self._use(name, data, attribute)

    def drop_attribute(self, digest: str) -> None:
        """Leave an attribute out of the edit."""
        with self.lock:
            edit = self.recipe.edit
            remaining = tuple(used for used in edit.attributes if used.digest != digest)
            self._commit(replace(self.recipe, edit=replace(edit, attributes=remaining)))

    def restore(self, source: str | bytes) -> None:
        """Restore the recipe of a cell, or of a picture that was saved here."""
        restored, unchanged = code.restored(source, self.backbone)
        with self.lock:
            self._commit(restored)
        if not unchanged:
            self._say("remark", "The code above the last line was changed by hand: only the last line is restored.")

    # What is kept

    def saved_picture(self) -> tuple[str, bytes]:
        """Name and bytes of a PNG file of the picture on the screen, which notes its recipe and its code."""
        with self.lock:
            data = self.pictures["result"] or self.pictures["source"]
            if self.drawn is None or not data:
                raise ValueError("there is no picture yet: draw one")
            if self.seen.get("growing"):
                raise ValueError("the picture is not finished: draw it to its end, then save it")
            with Image.open(io.BytesIO(data)) as picture:
                data = code.png(picture, self.drawn, self.backbone)
            words = self.drawn.edit.target if self.drawn.shown == "edit" else self.drawn.request.prompt
            return f"{slug(words or self.backbone.name)}-{self.drawn.request.seed}.png", data

    def saved_attribute(self, digest: str = "") -> tuple[str, bytes]:
        """Name and bytes of the safetensors file of an attribute: of one in use, or of what the edit has learned."""
        if digest:
            [name] = [used.name for used in self.recipe.edit.attributes if used.digest == digest] or [""]
            if not name:
                raise ValueError("this attribute is not in use any more: learn it again")
            return name, packed(self.studio.attributes[digest])
        name, data, _ = self._learned()
        return name, data

    def saved_code(self) -> tuple[str, bytes]:
        """Name and bytes of a file with the code of what is on the screen."""
        return "explored.py", self.code().encode()

    def code(self) -> str:
        """The cell of plain Python that draws what is on the screen; "" before the first picture."""
        return code.cell(self.drawn, self.backbone) if self.drawn else ""

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the drawing is done; False if it takes longer."""
        return self._worker.wait(seconds)

    def close(self) -> None:
        """End the work."""
        self._worker.close()

    # What is seen

    def view(self) -> dict[str, Any]:
        """Everything on the screen but the pictures, as values that JSON can hold."""
        with self.lock:
            shape = self.backbone.latent_shape
            return {
                "model": self._model(),
                "recipe": asdict(self.recipe),
                "seen": dict(self.seen),
                "answered": self._answered,
                "submitted": self._submitted,
                "message": dict(self.message),
                "remarks": list(self.remarks),
                "undo": bool(self._past),
                "redo": bool(self._future),
                "code": self.code(),
                "sliders": min(SLIDERS, *shape[1:]),
                "learns": METHODS[self.recipe.edit.method].learn is not None,
                "missing": self._missing(),
                "files": self._files(),
            }

    def _model(self) -> dict[str, Any]:
        backbone, entry = self.backbone, self.backbone.entry
        text = backbone.kind == "text-to-image"
        methods = METHODS if text else {}
        return {
            "name": backbone.name,
            "prompts": text,
            "reads": self.reader is not None,
            "channels": backbone.latent_shape[0],
            "rank": min(backbone.latent_shape[1:]),
            "T": backbone.T,
            "size": list(backbone.size),
            "schedulers": list(recipe.schedulers(backbone)),
            "methods": [
                {"name": name, "label": m.label, "note": m.note, "controls": list(m.controls)}
                for name, m in methods.items()
            ],
            "about": f"{backbone.name}: {entry.stands_for and 'stands in for ' + entry.stands_for or backbone.kind}",
        }

    def _missing(self) -> dict[str, str]:
        """What this model cannot do, and why."""
        name = self.backbone.name
        missing = {}
        if self.backbone.kind != "text-to-image":
            missing["prompts"] = f"{name} is unconditional: it takes no prompts and no guidance."
            missing["edit"] = f"{name} takes no prompts, so there is nothing to edit towards: load a model that does."
        if self.reader is None:
            missing["reader"] = f"No reader knows the pictures of {name}, so what changed is for your eyes to tell."
        return missing

    def _files(self) -> list[str]:
        """The files that the code cell reads."""
        if self.drawn is None:
            return []
        files = [self.drawn.upload.name] if self.drawn.upload else []
        if self.drawn.shown == "edit" and self.drawn.edit.method == "attributes":
            files += [used.name for used in self.drawn.edit.attributes]
        return files

    # Inside

    def _put(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with other values. Raises ValueError for the first invalid one."""
        new, backbone = self.recipe, self.backbone
        # steps are checked against their scheduler
        for path in sorted(values, key=lambda path: path == "request.steps"):
            new = new.put(path, values[path], backbone)
            backbone = self.studio.model(new.request)
        return new

    def _commit(self, new: Recipe) -> None:
        """Show another recipe, which `undo` takes back."""
        if new != self._committed:
            self._past = [*self._past[-UNDO:], self._committed]
            self._future = []
        self.recipe = self._committed = new
        self._submit()

    def _travel(self, back: list[Recipe], forth: list[Recipe], end: str) -> None:
        with self.lock:
            if not back:
                raise ValueError(end)
            forth.append(self._committed)
            self.recipe = self._committed = back.pop()
            self._submit()

    def _submit(self, live: bool = False) -> None:
        if not live:
            self.message, self.remarks = {"kind": "", "text": ""}, []
        watch = Watch(self._report, every=0.4, preview=live)
        self._submitted += 1
        self.progress = {"busy": True, "label": "", "done": 0, "total": 0, "left": None}
        self._worker.submit(Job(self.recipe, live, self._submitted), watch)
        self._tell("view", "progress")

    def _use(self, name: str, data: bytes, attribute: attributes.Attribute) -> None:
        digest = hashlib.sha256(data).hexdigest()
        with self.lock:
            self.studio.attributes[digest] = attribute
            edit = self.recipe.edit
            if digest not in {used.digest for used in edit.attributes}:
                edit = replace(edit, attributes=(*edit.attributes, Used(name, digest)))
            self._commit(replace(self.recipe, shown="edit", edit=replace(edit, method="attributes")))

    def _learned(self) -> tuple[str, bytes, attributes.Attribute]:
        """Name, file and attribute of the edit on the screen. Raises ValueError where there is none."""
        drawn, method = self.drawn, METHODS[self.recipe.edit.method]
        if method.learn is None:
            raise ValueError(f"{method.label} learns no attribute: edit by AVI")
        if drawn is None or drawn.shown != "edit" or drawn.edit.method != self.recipe.edit.method or self._worker.busy:
            raise ValueError("there is no finished edit on the screen: make one, then keep what it learned")
        with torch.no_grad():
            attribute = method.learn(self.studio.bench(drawn, Watch()), drawn.edit)
        return f"{slug(drawn.edit.target)}.safetensors", packed(attribute), attribute

    # In the worker's thread

    def _work(self, job: Job, watch: Watch) -> None:
        now = job.recipe
        try:
            self._show(job, watch)
        except Stopped:
            part = self.studio.take_partial(now) if not self.studio.has_source(now) else None
            if part is None:
                self._say("remark", "Stopped: this is the estimate so far. Any change, or Draw, goes on.")
                return
            with self.lock:
                self.recipe = self._committed = part
            self._show(Job(part), Watch(self._report))
            t = part.request.until
            self._say("remark", f"Stopped at t = {t:g}: this is the estimate there. Draw goes on from it.")

    def _show(self, job: Job, watch: Watch) -> None:
        """Draw a recipe, and show each result as soon as it is there."""
        now, studio = job.recipe, self.studio
        backbone = studio.model(now.request)
        start = time.monotonic()
        if not studio.has_source(now):
            growing = "source" if now.upload is None else None
            watch.look = lambda estimate: self._grow(growing, backbone.decode(estimate)) if growing else None
            if now.upload is not None and now.upload.digest in studio.uploads:
                self._grow("source", backbone.decode(backbone.encode(studio.uploads[now.upload.digest])))
        walk = studio.source(now, watch)
        before = studio.picture(now, walk)
        self._put_pictures(source=showing.png(showing.image(before)))
        self._look_closely(now, walk)
        watch.check()
        watch.look = lambda estimate: self._grow("result", backbone.decode(estimate), before)
        edited = studio.edited(now, watch)
        after = None if edited is None else studio.picture(now, edited)
        self._settle(now, walk, before, after, start)
        if job.live:
            return
        watch.look = lambda estimate: None
        if now.shown == "edit" and "target" in METHODS[now.edit.method].controls:
            target = studio.target(now, watch)
            self._put_pictures(target=showing.png(showing.image(studio.picture(now, target))))
        film = studio.film(now, walk)
        if film is not None and self.seen.get("film of") != repr(studio.key(now)):
            with self.lock:
                self.seen |= {"film of": repr(studio.key(now)), "film": film[0]}
            self._put_pictures(film=showing.png(showing.strip(film[1])))

    def _look_closely(self, now: Recipe, walk: Trajectory) -> None:
        """The timestep of timeline and triplets: estimate, channels, spectrum, rank-one pictures."""
        if walk.schedule.fractions is None:  # of a scheduler whose timesteps have no place on the slider
            with self.lock:
                self.seen |= {"timesteps": [], "fractions": []}
            return
        moment, channel, pictures = self.studio.moment(now, walk), now.triplets.channel, {}
        view = (moment, channel)
        if view != self._closeup:  # unchanged while a triplet's slider moves
            pictures["channels"] = showing.png(showing.mosaic(moment.code))
            pictures["estimate"] = b"" if moment.estimate is None else showing.png(showing.image(moment.estimate))
            pictures["tiles"] = showing.png(tiles(moment, channel))
        with self.lock:
            whole = walk.schedule.whole
            timesteps = walk.schedule.timesteps[whole].tolist()
            fractions = walk.schedule.fractions[whole].tolist()
            S = moment.parts.S if channel is None else moment.parts.S[channel : channel + 1]
            scaled = scale(moment.parts, now.triplets).S
            scaled = scaled if channel is None else scaled[channel : channel + 1]
            low, high = self.studio.noise(now).tolist()
            self.seen |= {
                "t": moment.t,
                "timesteps": timesteps,
                "fractions": fractions,
                "spectrum": {
                    "values": S.mean(0).tolist(),
                    "scaled": scaled.mean(0).tolist(),
                    "low": low,
                    "high": high,
                },
                "energy": (S.square().sum(0) / S.square().sum()).tolist(),
            }
            self._closeup = view
        self._put_pictures(**pictures)

    def _settle(self, now: Recipe, walk: Trajectory, before: Tensor, after: Tensor | None, start: float) -> None:
        """Show a finished result, with everything that compares it with the source."""
        pictures = {"source": showing.png(showing.image(before)), "result": b"", "difference": b""}
        if after is not None:
            pictures["result"] = showing.png(showing.image(after))
            pictures["difference"] = showing.png(showing.difference(before, after))
        readings = showing.readings(self.reader, before, after) if self.reader is not None else []
        inversion = None
        if now.upload is not None:
            distance = float(self.studio.inverted(now, Watch()).distance[0])
            inversion = {"name": now.upload.name, "distance": distance}
        method = METHODS[now.edit.method]
        has_target = now.shown == "edit" and "target" in method.controls
        if not has_target or (
            self.drawn
            and (self.drawn.edit.target, self.studio.key(self.drawn)) != (now.edit.target, self.studio.key(now))
        ):
            pictures["target"] = b""
        with self.lock:
            self.drawn = now
            self.seen |= {
                "growing": "",
                "labels": self._labels(now, walk),
                "readings": readings,
                "inversion": inversion,
                "seconds": round(time.monotonic() - start, 2),
            }
        self._put_pictures(**pictures)

    def _labels(self, now: Recipe, walk: Trajectory) -> dict[str, str]:
        """The captions of the pictures."""
        request = now.request
        source = f"{request.prompt!r}" if request.prompt else self.backbone.name
        source = f"your picture, as {source}" if now.upload else f"{source}, seed {request.seed}"
        if request.until is not None and now.upload is None:
            source += f", stopped at t = {request.until:g}"
        result = ""
        if now.shown == "triplets" and not now.triplets.idle:
            result = f"triplets scaled at t = {self.studio.timestep(now, walk):g}"
        elif now.shown == "edit":
            method = METHODS[now.edit.method]
            result = f"{method.label} to {now.edit.target!r}" if "target" in method.controls else method.label
            if "strength" in method.controls:
                result += f", strength {now.edit.strength:g}"
        return {"source": source, "result": result, "target": f"{now.edit.target!r} alone", "difference": "what moved"}

    def _grow(self, name: str, picture: Tensor, before: Tensor | None = None) -> None:
        """Show an estimate while drawing goes on."""
        pictures = {name: showing.png(showing.image(picture))}
        if before is not None:
            pictures["difference"] = showing.png(showing.difference(before, picture))
        else:
            pictures |= {"result": b"", "difference": b"", "target": b""}
        with self.lock:
            self.seen |= {"growing": name}
        self._put_pictures(**pictures)

    def _put_pictures(self, **pictures: bytes) -> None:
        changed = [name for name, data in pictures.items() if self.pictures[name] != data]
        with self.lock:
            self.pictures |= pictures
        self._tell("view", *changed)

    def _report(self, label: str, done: int, total: int, left: float | None) -> None:
        with self.lock:
            self.progress = {"busy": True, "label": label, "done": done, "total": total, "left": left}
        self._tell("progress")

    def _ended(self, job: Job, error: str | None) -> None:
        with self.lock:
            if job.number != self._submitted:
                return  # another one waits already
            self.progress = self.progress | {"busy": False, "left": None}
            self._answered = job.number
            if error is None:
                changed = []
            elif error:
                self.message = {"kind": "error", "text": error}
                pictures, seen = self._last
                self._closeup = None
                changed = [name for name in PICTURES if self.pictures[name] != pictures[name]]
                self.pictures, self.seen = dict(pictures), dict(seen)
            else:
                changed = []
                if not job.live:
                    self._last = dict(self.pictures), dict(self.seen)
        self._tell("progress", "view", *changed)

    def _remark(self, text: str) -> None:
        with self.lock:
            if text not in self.remarks:
                self.remarks.append(text)

    def _say(self, kind: str, text: str) -> None:
        with self.lock:
            self.message = {"kind": kind, "text": text}
        self._tell("view")

    def _tell(self, *names: str) -> None:
        self.changed(names)


ACTIONS = ("draw", "set", "undo", "redo", "reset", "stop", "upload", "forget", "open_attribute")
ACTIONS += ("learn", "drop_attribute", "restore", "saved_picture", "saved_attribute", "saved_code")


def tiles(moment: Moment, channel: int | None) -> Image.Image:
    """The rank-one pictures of the first triplets and the picture of the rest, side by side, each by its own scale."""
    pictures = [showing.mosaic(layer, channel) for layer in moment.layers()]
    width, height = pictures[0].size
    canvas = Image.new("RGB", (width * len(pictures), height))
    for i, picture in enumerate(pictures):
        canvas.paste(picture, (i * width, 0))
    return canvas


def opened(data: bytes) -> Image.Image:
    """The picture in a file's bytes. Raises ValueError, in one sentence, where there is none."""
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except Exception as error:
        raise ValueError("this file is not a picture that can be read here: choose a PNG, JPEG or WebP file") from error
    return picture


def packed(attribute: attributes.Attribute) -> bytes:
    """The bytes of an attribute's file."""
    with tempfile.TemporaryDirectory() as folder:
        return attribute.save(Path(folder) / "attribute.safetensors").read_bytes()


def safe(name: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.-]+", "-", Path(name).name)[-80:] or "file"


def slug(words: str) -> str:
    """Words as the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:40] or "picture"

"""The reader: a small network that reads every factor of a scene off a picture. All experiments measure with it."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lsvd import paths
from lsvd.backbones import checksums
from lsvd.storage.files import replace_folder
from lsvd.testbed.scenes import SCENES
from lsvd.testbed.scenes.scene import Scene, Values

FOLDER = paths.WEIGHTS / "readers"
SIZES = {"portraits": 128}
DEFAULT_SIZE = 64


@dataclass(frozen=True)
class Reading:
    """What the reader sees in n pictures.

    `levels`: for each categorical factor the most likely level, shape (n,), int64. `probabilities`: the same factors,
    shape (n, levels). `numbers`: for each continuous factor its value in its own unit, shape (n,), float32.
    """

    levels: dict[str, Tensor]
    probabilities: dict[str, Tensor]
    numbers: dict[str, Tensor]

    @property
    def values(self) -> Values:
        """Levels and numbers together, in the form that Scene.visible and Scene.render take."""
        return {**self.levels, **self.numbers}


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.body(x))


def _down(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, after), nn.SiLU()
    )


class Reader(nn.Module):
    """Reads all factors of `scene` off pictures of shape (n, 3, H, W) in [0, 1], resized to `size` by `size` inside.

    The last feature map is flattened rather than averaged, because pose, position and size are matters of place; the
    picture's own colours join it at low resolution, because group normalisation forgets absolute brightness.
    Raises ValueError if `size` is not a multiple of 32.
    """

    def __init__(self, scene: Scene, size: int | None = None, widths=(32, 48, 96, 128), features: int = 64):
        super().__init__()
        size = SIZES.get(scene.name, DEFAULT_SIZE) if size is None else size
        if size < 32 or size % 32:
            raise ValueError(f"the reader's size is {size}; choose a multiple of 32")
        self.scene, self.size, self.widths, self.n_features = scene, size, tuple(widths), features
        # Four pixels of a large picture become one place with four times the channels: no detail is lost to the stride.
        self.fold = 2 if size >= 128 else 1
        side = size // self.fold // 8
        axis = torch.linspace(-1, 1, size // self.fold)
        places = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
        self.register_buffer("places", places[None], persistent=False)
        a, b, c, d = widths
        self.trunk = nn.Sequential(
            nn.Conv2d(3 * self.fold**2 + 2, a, 3, padding=1),
            nn.SiLU(),
            _down(a, b),
            _Block(b),
            _down(b, c),
            _Block(c),
            _down(c, d),
            _Block(d),
            nn.Conv2d(d, 24, 1),
            nn.SiLU(),
        )
        self.hidden = nn.Sequential(nn.Linear(27 * side * side, 192), nn.SiLU(), nn.Linear(192, features))
        self.heads = nn.ModuleDict({f.name: nn.Linear(features, len(f.levels) or 1) for f in scene.factors})

    def features(self, pictures: Tensor) -> Tensor:
        """Penultimate features, shape (n, n_features), in which Fréchet distances are taken.

        Raises ValueError for pictures of another shape or with values that are not finite.
        """
        x = self._resize(pictures) * 2 - 1
        low = F.adaptive_avg_pool2d(x, self.places.shape[-1] // 8)
        folded = F.pixel_unshuffle(x, self.fold)
        deep = self.trunk(torch.cat([folded, self.places.to(x.dtype).expand(len(x), -1, -1, -1)], 1))
        return self.hidden(torch.cat([deep, low], 1).flatten(1))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """For each factor, its logits, shape (n, levels), or its value scaled to [-1, 1], shape (n,)."""
        return self._heads(self.features(pictures))

    def loss(self, pictures: Tensor, values: Values, visible: dict[str, Tensor]) -> Tensor:
        """Mean over factors of the cross entropy, or four times the squared error of the value scaled to [-1, 1].

        A factor counts only in the pictures in which it is visible, shape (n,) bool: the rest it could only guess.
        """
        total = pictures.new_zeros(())
        out = self(pictures)
        for f in self.scene.factors:
            seen = visible[f.name].to(pictures.dtype)
            if f.levels:
                term = F.cross_entropy(out[f.name].float(), values[f.name], reduction="none")
            else:
                low, high = f.range
                term = 4 * (out[f.name].float() - (2 * (values[f.name] - low) / (high - low) - 1)) ** 2
            total = total + (term * seen).sum() / seen.sum().clamp_min(1)
        return total / len(self.scene.factors)

    @torch.no_grad()
    def read(self, pictures: Tensor, *, batch: int = 128) -> Reading:
        """Read every factor off the pictures, wherever they are; a factor that is not visible gets a guess.

        See Scene.visible. The reading is on the CPU.
        """
        out = [self(p.to(self.places.device)) for p in pictures.split(batch)]
        joined = {name: torch.cat([o[name] for o in out]).float().cpu() for name in out[0]}
        levels, probabilities, numbers = {}, {}, {}
        for f in self.scene.factors:
            if f.levels:
                probabilities[f.name] = joined[f.name].softmax(-1)
                levels[f.name] = probabilities[f.name].argmax(-1)
            else:
                low, high = f.range
                numbers[f.name] = low + (high - low) * (joined[f.name].clamp(-1, 1) + 1) / 2
        return Reading(levels, probabilities, numbers)

    def _heads(self, features: Tensor) -> dict[str, Tensor]:
        active = F.silu(features)
        out = {name: head(active) for name, head in self.heads.items()}
        return {f.name: out[f.name] if f.levels else out[f.name].squeeze(-1) for f in self.scene.factors}

    def _resize(self, pictures: Tensor) -> Tensor:
        if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.shape[2] != pictures.shape[3]:
            raise ValueError(f"the reader takes pictures of shape (n, 3, H, H), not {tuple(pictures.shape)}")
        if not torch.isfinite(pictures).all():
            raise ValueError("the pictures hold values that are not finite, so nothing can be read off them")
        side = pictures.shape[-1]
        if side < self.size:
            return F.interpolate(pictures, size=self.size, mode="bilinear", antialias=False)
        return pictures if side == self.size else F.interpolate(pictures, size=self.size, mode="area")

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors (float16) into `folder`, whole or not at all."""
        config = {
            "scene": self.scene.name,
            "size": self.size,
            "widths": list(self.widths),
            "features": self.n_features,
            "factors": _table(self.scene),
        }
        weights = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in self.state_dict().items()}
        with replace_folder(Path(folder)) as new:
            (new / "config.json").write_text(json.dumps(config, indent=1) + "\n")
            (new / "model.safetensors").write_bytes(save_tensors(weights))


def _table(scene: Scene) -> list[dict]:
    """The factors that the heads stand for, as plain data."""
    return [{"name": f.name, "levels": list(f.levels), "range": list(f.range or ())} for f in scene.factors]


def load(scene: Scene | str, device="cpu", folder: str | Path | None = None) -> Reader:
    """The shipped reader of a scene (or of a scene's name), ready to read, in float32.

    Raises FileNotFoundError if there is none, and ValueError if its files are damaged or belong to another scene or to
    other factors than the scene has today.
    """
    if isinstance(scene, str):
        if scene not in SCENES:
            raise ValueError(f"there is no scene {scene!r}; the scenes are {', '.join(SCENES)}")
        scene = SCENES[scene]
    folder = FOLDER / scene.name if folder is None else Path(folder)
    again = f"train it by `python -m lsvd train reader-{scene.name}`"
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"the reader of {scene.name} has no {folder / name}: {again}")
    try:
        config = json.loads((folder / "config.json").read_text())
        same = config["scene"] == scene.name and config["factors"] == _table(scene)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / 'config.json'} is damaged ({error}): restore it, or {again}") from error
    if not same:
        raise ValueError(f"the reader in {folder} was trained for other factors than {scene.name} has now: {again}")
    try:
        with torch.random.fork_rng(devices=[]):  # first weights, which are replaced
            reader = Reader(scene, config["size"], config["widths"], config["features"])
        weights = load_tensors((folder / "model.safetensors").read_bytes())
        reader.load_state_dict({k: v.float() for k, v in weights.items()})
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{folder / 'model.safetensors'} is truncated or damaged ({first}): restore it, or {again}"
        ) from error
    checksums.verify(folder, f"restore it, or {again}")
    return reader.to(device).eval()


def degrade(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures as a generator might have drawn them: softened, noisy, blotchy, slightly off in colour.

    Each picture, shape (n, 3, H, W), gets each fault with its own strength, and one in four stays as it is. H must be
    even. Takes a CPU generator and gives the same result on every device.
    """
    n, _, height, width = pictures.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float32).to(pictures)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(pictures)

    hit = (uniform(n, 1, 1, 1) > 0.25).to(pictures.dtype)
    half = F.avg_pool2d(pictures, 2)
    small = F.interpolate(half, size=(height, width), mode="bilinear")
    blurred = F.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    out = torch.lerp(pictures, blurred, uniform(n, 1, 1, 1) * hit)
    out = torch.lerp(out, small, (uniform(n, 1, 1, 1) < 0.3).to(out.dtype) * hit)
    gain = 1 + 0.04 * (2 * uniform(n, 3, 1, 1) - 1)
    shift = 0.03 * (2 * uniform(n, 3, 1, 1) - 1)
    blotches = F.interpolate(normal(n, 3, height // 8, width // 8), size=(height, width), mode="bilinear")
    faults = out * gain + shift + 0.03 * uniform(n, 1, 1, 1) * blotches
    faults = faults + 0.05 * uniform(n, 1, 1, 1) ** 2 * normal(n, 3, height, width)
    return torch.lerp(out, faults, hit).clamp(0, 1)

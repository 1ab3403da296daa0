"""Low-rank guidance towards fixed targets as an object, kept in a small file, for any source."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lsvd.checks import check_text
from lsvd.guidance.settings import DEFAULT, LowRank, check_strength
from lsvd.storage.files import read_bytes, write_bytes

FORMAT = "lsvd guidance 1"  # raise the number when what is stored changes


@dataclass(frozen=True)
class Direction:
    """Target prompts with their strengths, and the settings: an edit by low-rank guidance without its source.

    It fits every backbone and every source prompt, since nothing in it was learned.
    """

    targets: Mapping[str, float]
    settings: LowRank = DEFAULT

    def __post_init__(self):
        if not isinstance(self.targets, Mapping):
            raise ValueError("a direction's targets are prompts with their strengths: give a mapping")
        for prompt in self.targets:
            check_text(prompt, "a target prompt")
        self.settings.targets(self.targets)

    def scaled(self, strength: float) -> "Direction":
        """The same, `strength` times as strong."""
        check_strength(strength)
        return replace(self, targets={prompt: strength * c for prompt, c in self.targets.items()})

    def save(self, path: str | Path) -> Path:
        """Write it to a JSON file, whole or not at all. Returns the path. Raises lsvd.storage.files.WriteError."""
        notes = {"format": FORMAT, "targets": dict(self.targets), "settings": asdict(self.settings)}
        return write_bytes(path, (json.dumps(notes, indent=2, ensure_ascii=False) + "\n").encode())


def is_direction(data: bytes) -> bool:
    """Whether the bytes of a file say that it holds a direction, of any version."""
    return b'"lsvd guidance' in data[:64]


def together(directions: Sequence[Direction]) -> Direction:
    """Several directions as one: all of their targets. Raises ValueError if their settings differ."""
    if len({direction.settings for direction in directions}) != 1:
        raise ValueError("these directions differ in rank or window: save them with the same, or edit one by one")
    targets: dict[str, float] = {}
    for direction in directions:
        for prompt, strength in direction.targets.items():
            targets[prompt] = targets.get(prompt, 0.0) + strength
    return Direction(targets, directions[0].settings)


def load(path: str | Path) -> Direction:
    """The direction in a file that `Direction.save` wrote.

    Raises FileNotFoundError if there is none, and ValueError if the file holds something else or is damaged.
    """
    try:
        notes = json.loads(read_bytes(path))
        if notes["format"] != FORMAT:
            raise ValueError(f"its format is {notes['format']!r}, not {FORMAT!r}")
        return Direction(notes["targets"], LowRank(**notes["settings"]))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {path}: save a direction first") from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no direction of low-rank guidance ({error}): save it again") from error

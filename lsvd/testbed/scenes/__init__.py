"""The three scenes by name."""

from .cats import CATS
from .churches import CHURCHES
from .portraits import PORTRAITS
from .scene import Scene

SCENES: dict[str, Scene] = {scene.name: scene for scene in (PORTRAITS, CATS, CHURCHES)}

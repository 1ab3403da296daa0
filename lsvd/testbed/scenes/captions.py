"""Captions of portraits in plain English, with attributes left out at random, and prompts for evaluation.

A caption is put together from what it mentions, in one fixed order: "a pencil sketch of an old man with a beard and
glasses, smiling, looking left". What it does not mention may be anything; a style other than "photo" is always named.
"""

import torch
from torch import Tensor

from .portraits import PORTRAITS
from .scene import Values

EMPTY = 0.10
"""The share of empty captions, for classifier-free guidance."""

SHORT = 0.30
"""The share of short captions among those of `balanced`."""

STYLES = {"photo": "", "drawing": "a drawing of ", "sketch": "a pencil sketch of ", "poster": "a poster of "}
NOUNS = {"female": "woman", "male": "man"}
BEARDS = {"none": "no beard", "moustache": "a moustache", "full": "a beard"}
GLASSES = {"none": "no glasses", "glasses": "glasses"}
SMILES = {"neutral": "serious", "smiling": "smiling"}
SKINS = {"light": "light skin", "dark": "dark skin"}
SIDES = {"left": "looking left", "right": "looking right"}

# How often a caption mentions a factor; a pair where presence and absence differ (absent, present).
MENTIONED = {
    "gender": 0.75,
    "age": 0.60,
    "hair_length": 0.35,
    "hair_colour": 0.50,
    "beard": (0.15, 0.65),
    "glasses": (0.20, 0.65),
    "smile": 0.50,
    "background": 0.50,
    "clothes": 0.30,
    "pattern": 0.30,
    "freckles": (0.0, 0.55),
    "earrings": (0.0, 0.55),
    "skin": 0.60,
    "yaw": 0.50,
}


def _names(values: Values) -> list[dict[str, str]]:
    """For each picture, the names of what can be seen in it; numbers become words at their extremes only."""
    seen = {name: mask.tolist() for name, mask in PORTRAITS.visible(values).items()}
    columns = {name: value.tolist() for name, value in values.items()}
    pictures = []
    for i in range(len(columns["yaw"])):
        names = {f.name: f.levels[columns[f.name][i]] for f in PORTRAITS.factors if f.levels and seen[f.name][i]}
        skin, yaw = columns["skin"][i], columns["yaw"][i]
        if seen["skin"][i] and not 0.3 <= skin <= 0.7:
            names["skin"] = "light" if skin < 0.3 else "dark"
        if abs(yaw) > 12:
            names["yaw"] = "left" if yaw < 0 else "right"
        pictures.append(names)
    return pictures


def _article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def describe(names: dict[str, str]) -> str:
    """One caption that mentions just these factors, given as factor name to level name.

    >>> describe({"age": "old", "gender": "male", "beard": "full", "glasses": "glasses", "smile": "smiling"})
    'an old man with a beard and glasses, smiling'
    """
    noun = NOUNS.get(names.get("gender", ""), "person")
    text = STYLES[names.get("style", "photo")] + _article(f"{names['age']} {noun}" if "age" in names else noun)
    having = []
    hair = [names[k] for k in ("hair_length", "hair_colour") if k in names]
    if hair:
        having.append(" ".join([*hair, "hair"]))
    for factor, words in (("skin", SKINS), ("beard", BEARDS), ("glasses", GLASSES)):
        if factor in names:
            having.append(words[names[factor]])
    having += [names[k] for k in ("freckles", "earrings") if names.get(k, "none") != "none"]
    if having:
        text += " with " + " and ".join([", ".join(having[:-1]), having[-1]] if having[1:] else having)
    if "clothes" in names or "pattern" in names:
        shirt = " ".join([*(names[k] for k in ("pattern", "clothes") if k in names), "shirt"])
        text += f", wearing {_article(shirt)}"
    if "smile" in names:
        text += f", {SMILES[names['smile']]}"
    if "yaw" in names:
        text += f", {SIDES[names['yaw']]}"
    if "background" in names:
        text += f", {names['background']} background"
    return text


def _mention(values: Values, generator: torch.Generator) -> list[dict[str, str]]:
    draws = torch.rand(len(values["yaw"]), len(MENTIONED), generator=generator)
    mentioned = []
    for names, row in zip(_names(values), draws.tolist(), strict=True):
        kept = {"style": names["style"]}
        for (factor, often), draw in zip(MENTIONED.items(), row, strict=True):
            if isinstance(often, tuple):
                often = often[names.get(factor, "none") != "none"]
            if factor in names and draw < often:
                kept[factor] = names[factor]
        mentioned.append(kept)
    return mentioned


def captions(values: Values, generator: torch.Generator) -> list[str]:
    """One caption for each picture of `values` (as PORTRAITS.sample returns it), 10% of them empty; CPU generator."""
    empty = torch.rand(len(values["yaw"]), generator=generator) < EMPTY
    texts = [describe(names) for names in _mention(values, generator)]
    return ["" if skip else text for skip, text in zip(empty.tolist(), texts, strict=True)]


def balanced(values: Values, generator: torch.Generator) -> list[str]:
    """As `captions`, but whatever a short or an empty caption leaves out keeps the shares that PORTRAITS draws it with.

    A caption of `captions` mentions glasses more often than their absence, so that people "without a word" wear them
    less often than all people do. Here a SHORT part mentions none, one or two factors, chosen before looking at the
    picture: nearly all captions as short as "a person" or "an old person" are of this kind. Only photos have empty
    captions: "" and "a person" then mean the same, and classifier-free guidance from one to the other, however
    strong, favours no level of any factor.
    """
    n, factors = len(values["yaw"]), tuple(MENTIONED)
    empty = torch.rand(n, generator=generator) < EMPTY
    short = torch.rand(n, generator=generator) < SHORT
    counts = torch.randint(3, (n,), generator=generator).tolist()
    orders = torch.rand(n, len(factors), generator=generator).argsort(1).tolist()
    texts = []
    for i, (names, mentioned) in enumerate(zip(_names(values), _mention(values, generator), strict=True)):
        if short[i]:
            chosen = {"style", *(factors[k] for k in orders[i][: counts[i]])}
            mentioned = {name: level for name, level in names.items() if name in chosen}
        texts.append("" if empty[i] and names["style"] == "photo" else describe(mentioned))
    return texts


def prompts(n: int, generator: torch.Generator) -> tuple[list[str], dict[str, Tensor]]:
    """n prompts for evaluation, all in style "photo", and what they ask for.

    Returns the texts and, for each categorical factor, its level's index, shape (n,) int64, or -1 if not mentioned.
    """
    values = PORTRAITS.sample(n, generator, style="photo")
    mentioned = _mention(values, generator)
    asked = {
        f.name: torch.tensor([f.levels.index(names[f.name]) if f.name in names else -1 for names in mentioned])
        for f in PORTRAITS.factors
        if f.levels
    }
    return [describe(names) for names in mentioned], asked


def words() -> list[str]:
    """Every word that a caption can contain, sorted."""
    phrases = [*STYLES.values(), *NOUNS.values(), *BEARDS.values(), *GLASSES.values(), *SMILES.values()]
    phrases += [*SKINS.values(), *SIDES.values(), "a an person with and hair wearing shirt background"]
    for name in ("age", "hair_length", "hair_colour", "background", "clothes", "pattern", "freckles", "earrings"):
        phrases += [level for level in PORTRAITS.factor(name).levels if level != "none"]
    return sorted({word for phrase in phrases for word in phrase.split()})

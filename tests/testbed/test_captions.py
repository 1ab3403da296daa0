"""Captions say what is there, in English, and leave things out at random.

A grammar of its own, written out here, reads each caption back: what it does not read whole is not a caption.
"""

import doctest
import itertools
import re

import pytest
import torch
from scipy.stats import binom, fisher_exact

from lsvd.testbed import renderings
from lsvd.testbed.scenes import captions
from lsvd.testbed.scenes.portraits import PORTRAITS

N = 20_000
SURE = 1 - 1e-6  # of a bound; the seeds are fixed, so that one that holds once holds always

A = r"(?:an (?=[aeiou])|a (?![aeiou]))"
ITEM = (
    r"(?:(?:(?P<hair_length>short|medium|long) )?(?:(?P<hair_colour>black|brown|red|blonde|grey) )?(?P<hair>hair)"
    r"|(?P<skin>light|dark) skin|(?P<beard>no beard|a moustache|a beard)|(?P<glasses>no glasses|glasses)"
    r"|(?P<freckles>freckles)|(?P<earrings>earrings))"
)
NAMELESS = re.sub(r"\?P<\w+>", "?:", ITEM)
CAPTION = re.compile(
    rf"(?:a (?P<style>drawing|pencil sketch|poster) of )?{A}(?:(?P<age>young|old) )?(?P<gender>woman|man|person)"
    rf"(?: with (?P<having>(?:{NAMELESS}(?:, {NAMELESS})* and )?{NAMELESS}))?"
    rf"(?P<wearing>, wearing {A}(?:(?P<pattern>plain|striped|dotted) )?"
    r"(?:(?P<clothes>white|red|navy|teal|purple) )?shirt)?"
    r"(?:, (?P<smile>serious|smiling))?(?:, looking (?P<yaw>left|right))?"
    r"(?:, (?P<background>blue|green|yellow|pink|grey) background)?"
)
LEVELS = {
    "style": {None: "photo", "pencil sketch": "sketch"},
    "gender": {"woman": "female", "man": "male"},
    "beard": {"no beard": "none", "a moustache": "moustache", "a beard": "full"},
    "glasses": {"no glasses": "none"},
    "smile": {"serious": "neutral"},
}


def read(caption):
    """What a caption mentions, as factor name to level name; fails unless all of it can be read."""
    found = CAPTION.fullmatch(caption)
    assert found, f"no English that the grammar knows: {caption!r}"
    told = found.groupdict()
    assert not told.pop("wearing") or told["pattern"] or told["clothes"], caption
    for item in re.split(", | and ", told.pop("having") or ""):
        own = re.fullmatch(ITEM, item).groupdict() if item else {}
        assert not own.pop("hair", None) or own["hair_length"] or own["hair_colour"], caption
        for name, word in own.items():
            assert not word or not told.get(name), f"{name} twice in {caption!r}"
            told[name] = word or told.get(name)
    if told["gender"] == "person":
        told["gender"] = None
    return {name: LEVELS.get(name, {}).get(word, word) for name, word in told.items() if word or name == "style"}


@pytest.fixture(scope="module")
def drawn():
    """The factors of N pictures, their captions, and what was read from each; None for an empty one."""
    values = PORTRAITS.sample(N, renderings.generator(11))
    texts = captions.captions(values, renderings.generator(12))
    return values, texts, [read(text) if text else None for text in texts]


def bounds(n, p):
    return binom.interval(SURE, n, p)


def shown(values, i):
    """What can be seen in picture i and has a word, as factor name to level name."""
    style = PORTRAITS.factor("style").levels[values["style"][i]]
    names = {f.name: f.levels[values[f.name][i]] for f in PORTRAITS.factors if f.levels}
    skin, yaw = values["skin"][i].item(), values["yaw"][i].item()
    if not 0.3 <= skin <= 0.7:
        names["skin"] = "light" if skin < 0.3 else "dark"
    if abs(yaw) > 12:
        names["yaw"] = "left" if yaw < 0 else "right"
    colourless = {"skin", "hair_colour", "background", "clothes", "pattern", "freckles", "earrings"}
    hidden = {"photo": set(), "drawing": set(), "sketch": colourless, "poster": colourless | {"beard"}}[style]
    return {name: level for name, level in names.items() if name not in hidden}


def test_every_caption_agrees_with_the_picture(drawn):
    values, texts, told = drawn
    seen = set()
    for i, caption in enumerate(told):
        if caption is not None:
            there = shown(values, i)
            assert caption.items() <= there.items(), texts[i]
            seen |= caption.items()
    every = {(f.name, level) for f in PORTRAITS.factors for level in f.levels}
    every |= {("skin", "light"), ("skin", "dark"), ("yaw", "left"), ("yaw", "right")}
    assert every - seen == {("freckles", "none"), ("earrings", "none")}


def test_the_grammar_notices_what_is_wrong():
    for wrong in (
        "a old man",
        "an woman",
        "a man with",
        "a man with hair",
        "a man with glasses and a beard,",
        "a man with a beard, glasses",
        "a man with glasses and no glasses",
        "a man wearing a red shirt",
        "a man, wearing a shirt",
        "a man, smiling, with glasses",
        "a photo of a man",
        "",
    ):
        with pytest.raises(AssertionError):
            read(wrong)
    assert read("a person") == {"style": "photo"}


def test_a_tenth_is_empty(drawn):
    values, texts, _ = drawn
    empty = torch.tensor([text == "" for text in texts])
    low, high = bounds(N, 0.10)
    assert 0.085 * N < low <= empty.sum() <= high < 0.115 * N
    # whatever the picture shows
    for name in ("gender", "glasses", "style", "background"):
        for level in values[name].unique():
            mask = values[name] == level
            low, high = bounds(int(mask.sum()), 0.10)
            assert low <= empty[mask].sum() <= high, (name, int(level))


def mentions(drawn):
    """For each factor that may be left out: pictures that could mention it, and those that do, as (N,) masks."""
    values, _, told = drawn
    could, does, level = {}, {}, {}
    there = [shown(values, i) if told[i] is not None else {} for i in range(N)]
    for name in captions.MENTIONED:
        could[name] = torch.tensor([name in names for names in there])
        does[name] = torch.tensor([name in (caption or {}) for caption in told])
        level[name] = [names.get(name) for names in there]
    return could, does, level


def test_each_attribute_is_left_out_as_often_as_stated(drawn):
    could, does, level = mentions(drawn)
    for name, often in captions.MENTIONED.items():
        for value in {*level[name]} - {None}:
            mask = torch.tensor([own == value for own in level[name]])
            p = often[value != "none"] if isinstance(often, tuple) else often
            low, high = bounds(int(mask.sum()), p)
            assert low <= does[name][mask].sum() <= high, (name, value)
            assert p == 0 or high - low < 0.25 * mask.sum(), "too few pictures to tell"


def test_attributes_are_left_out_independently(drawn):
    could, does, level = mentions(drawn)
    # within one level where its presence decides how often it is mentioned
    for name in ("beard", "glasses", "freckles", "earrings"):
        could[name] &= torch.tensor([own not in (None, "none") for own in level[name]])
    for one, two in itertools.combinations(captions.MENTIONED, 2):
        both = could[one] & could[two]
        a, b = does[one][both], does[two][both]
        table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
        assert min(map(min, table)) > 50, "too few pictures to tell"
        assert fisher_exact(table).pvalue > 1 - SURE, (one, two)


def test_captions_of_the_same_picture_differ_and_are_repeatable():
    values = {
        name: value.expand(200) for name, value in PORTRAITS.sample(1, renderings.generator(0), style="photo").items()
    }
    texts = captions.captions(values, renderings.generator(1))
    assert len(set(texts)) > 100
    assert (
        texts
        == captions.captions(values, renderings.generator(1))
        != captions.captions(values, renderings.generator(2))
    )


@pytest.mark.parametrize("text", ["", "a person", "an old person"])
def test_what_short_balanced_captions_leave_out_has_the_shares_of_the_renderings(text):
    values = PORTRAITS.sample(60_000, renderings.generator(13))
    texts = captions.balanced(values, renderings.generator(14))
    mask = torch.tensor([own == text for own in texts])
    assert (values["style"][mask] == PORTRAITS.index("style", "photo")).all()
    for f in PORTRAITS.factors:
        if f.levels and f.name != "style" and not (f.name == "age" and "old" in text):
            p = torch.tensor(f.p or (1.0,) * len(f.levels))
            for share, count in zip(p / p.sum(), values[f.name][mask].bincount(minlength=len(p)), strict=True):
                # those "with freckles" that a caption of two factors names count as said, hence 3 points
                slack = 0.03 * int(mask.sum()) if text == "an old person" else 0
                low, high = bounds(int(mask.sum()), float(share))
                assert low - slack <= count <= high + slack, (f.name, count / mask.sum())


def test_balanced_captions_are_captions(drawn):
    values, _, _ = drawn
    texts = captions.balanced(values, renderings.generator(15))
    assert (
        texts
        == captions.balanced(values, renderings.generator(15))
        != captions.balanced(values, renderings.generator(16))
    )
    for i, text in enumerate(texts):
        assert text == "" or read(text).items() <= shown(values, i).items(), text
    bare = sum(text == "a person" for text in texts) / (values["style"] == 0).sum()
    low, high = (x / N for x in bounds(N, captions.SHORT / 3 * (1 - captions.EMPTY)))
    assert low - 0.01 < bare < high + 0.04  # and those of one or two factors that have no word


def test_prompts_ask_for_what_they_say():
    texts, asked = captions.prompts(2000, renderings.generator(5))
    for i, text in enumerate(texts):
        told = read(text)
        assert told["style"] == "photo"
        named = {name: PORTRAITS.factor(name).levels[index[i]] for name, index in asked.items() if index[i] >= 0}
        assert {name: level for name, level in told.items() if name not in ("skin", "yaw")} == named


def test_words_are_those_of_captions(drawn):
    used = {word for text in drawn[1] for word in re.findall(r"\w+", text)}
    assert used == set(captions.words())


# Each level of each factor alone, and how they join.
EXAMPLES = {
    "a person": {},
    "a woman": {"gender": "female"},
    "a man": {"gender": "male"},
    "a young person": {"age": "young"},
    "an old person": {"age": "old"},
    "a person with short hair": {"hair_length": "short"},
    "a person with red hair": {"hair_colour": "red"},
    "a person with long black hair": {"hair_length": "long", "hair_colour": "black"},
    "a person with light skin": {"skin": "light"},
    "a person with dark skin": {"skin": "dark"},
    "a person with no beard": {"beard": "none"},
    "a person with a moustache": {"beard": "moustache"},
    "a person with a beard": {"beard": "full"},
    "a person with no glasses": {"glasses": "none"},
    "a person with glasses": {"glasses": "glasses"},
    "a person with freckles": {"freckles": "freckles"},
    "a person with earrings": {"earrings": "earrings"},
    "a person, serious": {"smile": "neutral"},
    "a person, smiling": {"smile": "smiling"},
    "a person, looking left": {"yaw": "left"},
    "a person, looking right": {"yaw": "right"},
    "a person, pink background": {"background": "pink"},
    "a person, wearing a navy shirt": {"clothes": "navy"},
    "a person, wearing a striped shirt": {"pattern": "striped"},
    "a person, wearing a dotted teal shirt": {"clothes": "teal", "pattern": "dotted"},
    "a drawing of a person": {"style": "drawing"},
    "a pencil sketch of an old woman": {"style": "sketch", "gender": "female", "age": "old"},
    "a poster of a young man": {"style": "poster", "gender": "male", "age": "young"},
    "a man with grey hair and glasses": {"gender": "male", "hair_colour": "grey", "glasses": "glasses"},
    "an old woman with medium grey hair, dark skin, no glasses, freckles and earrings, wearing a plain red shirt, "
    "smiling, looking right, blue background": {
        "background": "blue",
        "yaw": "right",
        "smile": "smiling",
        "clothes": "red",
        "pattern": "plain",
        "earrings": "earrings",
        "freckles": "freckles",
        "glasses": "none",
        "skin": "dark",
        "hair_colour": "grey",
        "hair_length": "medium",
        "age": "old",
        "gender": "female",
    },
}


@pytest.mark.parametrize(("text", "names"), EXAMPLES.items(), ids=range(len(EXAMPLES)))
def test_describe(text, names):
    assert captions.describe(names) == text
    assert read(text) == {"style": "photo", **names}


def test_every_level_alone_is_english():
    for f in PORTRAITS.factors:
        for level in f.levels:
            told = read(captions.describe({f.name: level}))
            unsaid = level == "none" and f.name in ("freckles", "earrings")
            assert told == {"style": "photo"} | ({} if unsaid else {f.name: level}), (f.name, level)


def test_the_documentations_examples():
    tried = doctest.testmod(captions)
    assert tried.attempted > 0 and tried.failed == 0

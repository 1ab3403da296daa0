"""README and site: the site builds without a warning, links lead somewhere, and numbers are the measured ones."""

import csv
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from lsvd.studies import tables

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").glob("*.md"))
NUMBER = r"[+-]?\d+\.\d+"
INTERVAL = re.compile(rf"({NUMBER})\s\[({NUMBER}),\s({NUMBER})\]")


class Page(HTMLParser):
    """What a page of HTML names and refers to."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag in ("img", "script", "link", "source", "iframe"):
            self.loaded += [attributes[key] for key in ("src", "href") if key in attributes]


def broken(pages: dict[Path, Page], root: Path) -> list[str]:
    """The links and pictures of pages that lead nowhere, and what is loaded from elsewhere."""
    wrong = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    wrong.append(f"{path.name} loads {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchored = not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].ids
            if not target.is_file() or not target.is_relative_to(root) or not anchored:
                wrong.append(f"{path.name} points to {link}")
    return wrong


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Page]:
    folder = tmp_path_factory.mktemp("site").resolve() / "docs"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "docs/build.py", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in folder.rglob("*.html")}


def test_every_link_and_picture_of_the_site_leads_somewhere(site):
    [index] = [path for path in site if path.relative_to(path.parents[0]).name == "index.html"]
    assert broken(site, index.parent) == []
    names = {str(path.relative_to(index.parent).with_suffix("")) for path in site}
    assert {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")} < names
    assert {path.stem for path in PAGES} < names
    text = "".join(path.read_text(encoding="utf-8") for path in site)
    assert "<!-- " not in "".join(re.findall(r"<article.*?</article>", text, re.DOTALL)), "a mark was not filled"
    # an old name is not shown
    modules = {str(p.relative_to(ROOT).with_suffix("")).replace("/", ".") for p in (ROOT / "lsvd").rglob("[!_]*.py")}
    assert [module for module in sorted(modules - {"lsvd.trajectory"}) if f'id="module-{module}"' not in text] == []


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ('<p id="x"></p><a href="#x">', []),
        ('<a href="https://example.org/"><img src="data:image/png;base64,">', []),
        ('<a href="#y">', ["a.html points to #y"]),
        ('<a href="b.html">', ["a.html points to b.html"]),
        ('<a href="../b.html">', ["a.html points to ../b.html"]),
        ('<img src="x.png">', ["a.html points to x.png"]),
        ('<script src="https://example.org/x.js">', ["a.html loads https://example.org/x.js"]),
    ],
)
def test_the_check_of_links_finds_what_it_looks_for(tmp_path, body, wrong):
    root = tmp_path.resolve() / "site"
    root.mkdir()
    (root.parent / "b.html").touch()
    (root / "a.html").write_text(body)
    assert broken({root / "a.html": Page(root / "a.html")}, root) == wrong


def test_an_index_stands_beside_a_letter_with_a_hat(site):
    page = next(path for path in site if path.name == "09_predictions.html").read_text(encoding="utf-8")
    hats = re.findall(r"<msub>\s*<mover>\s*<mi>x</mi>\s*<mo[^>]*>ˆ</mo>\s*</mover>\s*<mn>0</mn>", page)
    assert hats and "<munderover>" not in page


def test_every_figure_is_in_the_gallery_once():
    shown = re.findall(r"outputs/figures/(\S+)", (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(path.name for path in (ROOT / "outputs" / "figures").glob("[!.]*"))


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_links_between_the_sources_lead_somewhere(path):
    """As GitHub shows them."""
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if ":" in target or target.startswith("api/"):  # elsewhere, or pages that only the site has
            continue
        file = (path.parent / target) if target else path
        assert file.exists(), f"{path.name} points to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{path.name} points to {link}"


# Numbers


@pytest.fixture
def committed(monkeypatch):
    """Tables are the committed ones, wherever tests write to."""
    monkeypatch.setenv("LSVD_OUTPUTS", str(ROOT / "outputs"))


def unit(number: str) -> float:
    """One of a number's last digit."""
    return 10.0 ** -len(number.partition(".")[2])


def near(shown: str, measured: str) -> bool:
    """Whether two texts differ by a unit of their numbers' last digits at most: 0.001 for shares, 0.1 for others."""
    if re.sub(NUMBER, "#", shown) != re.sub(NUMBER, "#", measured):
        return False
    pairs = zip(re.findall(NUMBER, shown), re.findall(NUMBER, measured), strict=True)
    return all(abs(float(a) - float(b)) <= 1.01 * unit(a) and unit(a) == unit(b) for a, b in pairs)


@pytest.mark.parametrize("name", ["found", "comparison"])
def test_the_tables_of_the_readme_are_the_measured_ones(name, committed):
    [shown] = re.findall(rf"^<!-- {name} -->$(.*?)^<!-- /{name} -->$", README, re.MULTILINE | re.DOTALL)
    sentence = f"README.md and outputs/tables differ: paste the output of `python -m lsvd tables {name}`"
    assert near(shown.strip(), tables.text(name)), sentence


def test_effects_that_are_told_from_their_null_show_it(committed):
    # an effect that is told from its null is more than what may differ
    for name in tables.JUDGED:
        for row in tables.read(name):
            value, low, high, null = (float(row[key]) for key in ("effect", "low", "high", "null"))
            digits = INTERVAL.search(tables.interval(row, ("effect", "low", "high"))).group(1)
            assert low <= null <= high or abs(value - null) > unit(digits) or not row["verdict"].startswith("holds")


@pytest.mark.parametrize(
    ("shown", "measured", "same"),
    [
        ("0.123 [0.100, 0.200] | holds", "0.124 [0.100, 0.199] | holds", True),
        ("0.123 [0.100, 0.200] | holds", "0.125 [0.100, 0.200] | holds", False),
        ("0.123 [0.100, 0.200] | holds", "0.123 [0.100, 0.200] | does not hold", False),
        ("30.1", "30.2", True),
        ("30.1", "30.3", False),
        ("0.12", "0.123", False),
    ],
)
def test_what_counts_as_the_same_number(shown, measured, same):
    assert near(shown, measured) == same


def measured_intervals() -> list[tuple[float, float, float]]:
    """Every value with its ends in outputs/tables, and in what the notebooks print."""
    found = []
    for path in sorted((ROOT / "outputs" / "tables").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                names = [name for name in row if re.fullmatch(rf"{NUMBER}(e-\d+)?", row[name] or "")]
                triples = zip(names, names[1:], names[2:], strict=False)
                found += [tuple(float(row[name]) for name in t) for t in triples if t[1].endswith("low")]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        outputs = [
            out for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] for out in cell.get("outputs", [])
        ]
        text = "".join("".join(out.get("text", "")) for out in outputs)
        found += [tuple(map(float, numbers)) for numbers in INTERVAL.findall(text)]
    return found


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_intervals_in_the_text_are_measured_ones(path):
    text = re.sub(r"^<!-- (\w+) -->$.*?^<!-- /\1 -->$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    measured = measured_intervals()
    for numbers in INTERVAL.findall(text):
        off = max(map(unit, numbers))
        fits = [m for m in measured if all(abs(float(a) - b) <= 1.01 * off for a, b in zip(numbers, m, strict=True))]
        assert fits, f"{path.name}: no table and no notebook has {numbers[0]} [{numbers[1]}, {numbers[2]}]"


def test_distances_of_the_models_are_told_in_multiples_of_their_floors(committed):
    text = " ".join((ROOT / "docs" / "models.md").read_text(encoding="utf-8").split())
    shown = re.search(r"In multiples of their floors.*?mini-clip's\.", text).group()
    rows = [row for row in tables.read("backbones") if row["measure"].startswith("frechet distance")]
    expected = [float(row["value"]) / float(row["floor"]) for row in rows]
    expected = expected[::2] + expected[1::2]  # those in the reader's features before those in mini-clip's
    assert [float(x) for x in re.findall(NUMBER, shown)] == pytest.approx(expected, abs=0.06)


# The front page


def test_the_readme_is_short_and_shows_code_first():
    lines = README.splitlines()
    assert len(lines) <= 130
    assert max(lines.index("```python"), lines.index("```sh")) < 60
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len(block.strip().splitlines()) <= 5


def test_the_code_of_the_readme_runs():
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    names = {}
    exec(block.replace("range(8)", "[7], steps=5"), names)
    assert names["pictures"].shape == (1, 3, 128, 128)


def test_columns_of_a_table_are_as_many_in_every_row():
    for path in (ROOT / "README.md", *PAGES):
        rows = [line.count("|") if line.startswith("|") else 0 for line in path.read_text("utf-8").splitlines()]
        assert [pair for pair in pairwise(rows) if all(pair) and len(set(pair)) > 1] == [], path.name

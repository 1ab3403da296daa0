"""Data flows one way: core, testbed, studies; nothing reaches back, and no import is circular."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ("backbones", "sampling", "decomposition", "guidance", "avi", "statistics", "storage", "figures")
MODULES = {
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__"): path
    for path in (ROOT / "lsvd").rglob("*.py")
}


def imported(path: Path) -> set[str]:
    """The modules of lsvd that a file imports when it is imported itself."""
    found = set()
    for node in top_level(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(ROOT).parts[: -node.level]) if node.level else ""
            module = ".".join(filter(None, (package, node.module)))
            found |= {full if (full := f"{module}.{alias.name}") in MODULES else module for alias in node.names}
    return found & MODULES.keys()


def top_level(tree: ast.AST):
    """Every node that runs on import: functions' bodies and what is for type checkers are left out."""
    for node in ast.iter_child_nodes(tree):
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not guarded and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from top_level(node)


GRAPH = {name: imported(path) for name, path in MODULES.items()}


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize(
    ("above", "below"),
    [
        (CORE, ("testbed", "studies", "explorer", "commands", "__main__")),
        (("testbed",), ("studies", "figures", "commands", "__main__", "explorer")),
        (("explorer",), ("testbed", "studies", "commands", "__main__")),
        (("backbones",), ("sampling", "avi", "decomposition", "figures")),
        (("storage", "paths", "checks"), ("backbones", "sampling", "avi", "statistics", "figures")),
        (("sampling",), ("guidance", "avi", "figures")),
        (("guidance",), ("avi", "figures")),
        (("decomposition",), ("backbones", "sampling", "avi", "figures")),
    ],
)
def test_nothing_reaches_back(above, below):
    wrong = [f"{name} imports {other}" for name in GRAPH for other in GRAPH[name] if part(name) in above]
    assert [pair for pair in wrong if part(pair.split()[-1]) in below] == []


def test_no_import_is_circular():
    done, path = set(), []

    def walk(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in sorted(GRAPH[name]):
                walk(other)
            path.pop()
            done.add(name)

    for name in sorted(GRAPH):
        walk(name)


def test_only_one_module_asks_where_it_lies():
    asking = [name for name, path in MODULES.items() if "__file__" in path.read_text()]
    assert asking == ["lsvd.paths"]


def test_bars_have_one_module():
    """So that TQDM_DISABLE turns all of them off."""
    assert [name for name, path in MODULES.items() if "import tqdm" in path.read_text()] == ["lsvd.progress"]

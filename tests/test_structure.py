"""Imports point one way: data <- models <- methods <- the commands; utils imports none of them.

Only utils.reproduction, whose tables have their titles, stands above them, beside the commands.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked import has_imported

PROJECT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "utils": {"utils"},
    "data": {"data", "utils"},
    "models": {"models", "data", "utils"},
    "methods": {"methods", "models", "data", "utils"},
    "utils.reproduction": {"utils.reproduction", "methods", "models", "data", "utils"},
}
ROOMS = {"data", "models", "methods", "utils", "main", "attack", "tests", "benchmarks"}


def room(module: str) -> str:
    """The room of a module, by its dotted name."""
    first, second = [*module.split("."), ""][:2]
    return "utils.reproduction" if (first, second) == ("utils", "reproduction") else first


def files_of(name: str) -> list[Path]:
    files = (PROJECT / name.split(".")[0]).rglob("*.py")
    return [
        path
        for path in files
        if "datasets" not in path.parts
        and room(".".join(path.relative_to(PROJECT).with_suffix("").parts)) == name
    ]


def modules(path: Path) -> Iterator[str]:
    """What a file imports, by dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_point_one_way(name):
    files = files_of(name)
    assert files
    for path in files:
        ours = {one for one in map(room, modules(path)) if one.split(".")[0] in ROOMS}
        assert ours <= MAY_IMPORT[name], path


def test_the_rule_sees_an_import_in_any_of_its_forms(tmp_path):
    forms = "import utils.reproduction.cells", "from utils import reproduction, cli", "import utils"
    found = []
    for text in forms:
        (tmp_path / "a.py").write_text(text)
        found.append([room(one) for one in modules(tmp_path / "a.py")])
    assert found == [["utils.reproduction"], ["utils.reproduction", "utils"], ["utils"]]


PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow", "markdown_it": "markdown-it-py"}


def test_what_is_imported_is_named_in_requirements():
    files = [PROJECT / "main.py", PROJECT / "attack.py"]
    files += [path for name in MAY_IMPORT for path in files_of(name)]
    imported = {module.split(".")[0] for path in files for module in modules(path)}
    others = imported - ROOMS - sys.stdlib_module_names
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    assert {PACKAGES.get(name, name) for name in others} <= {line.split("==")[0] for line in lines}


def test_the_commands_start_without_what_only_pictures_need(fork):
    assert fork(has_imported, "main").end()[0] == 1
    assert fork(has_imported, "matplotlib").end()[0] == 0

"""Imports point one way: data <- models <- methods <- the commands; utils imports none of them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "utils": {"utils"},
    "data": {"data", "utils"},
    "models": {"models", "data", "utils"},
    "methods": {"methods", "models", "data", "utils"},
}
ROOMS = {"data", "models", "methods", "utils", "main", "attack", "tests", "benchmarks"}


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names & ROOMS


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_one_way(room):
    files = [path for path in (PROJECT / room).rglob("*.py") if "datasets" not in path.parts]
    assert files
    for path in files:
        assert imported(path) <= MAY_IMPORT[room], path


PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow", "markdown_it": "markdown-it-py"}


def test_what_is_imported_is_named_in_requirements():
    files = [PROJECT / "main.py", PROJECT / "attack.py"]
    for room in MAY_IMPORT:
        files += [p for p in (PROJECT / room).rglob("*.py") if "datasets" not in p.parts]
    modules = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add((node.module or "").split(".")[0])
    others = modules - ROOMS - sys.stdlib_module_names
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    assert {PACKAGES.get(name, name) for name in others} <= {line.split("==")[0] for line in lines}


def test_the_commands_start_without_what_only_pictures_need():
    script = "import sys, main, attack; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=PROJECT).returncode == 0

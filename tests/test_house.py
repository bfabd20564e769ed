"""How the repository is put together: what may import what, and how long a file may become."""
import ast
import functools
import graphlib
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A file imports from floors below its own, and within its own room. `data` holds scripts, in a folder of data.
FLOORS = [
    {"utils"},
    {"weights", "loss"},
    {"videos", "saliency_model", "swin_transformer"},
    {"model", "dataloader"},
    {"baselines"},
    {"prediction"},
    {"training", "scoring"},
    {"train", "predict", "test"},
    {"benchmarks", "examples", "data", "hubconf"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def listed():
    """The product's Python files, as git knows them; of an archive without git, all that are there."""
    run = subprocess.run(["git", "-C", ROOT, "ls-files", "*.py"], capture_output=True, text=True)
    names = run.stdout.split() or [str(path.relative_to(ROOT)) for room in FLOOR for path in
                                   (*ROOT.glob(f"{room}.py"), *ROOT.glob(f"{room}/*.py"))]
    return sorted(name for name in names if not name.startswith("tests/") and (ROOT / name).is_file())


FILES = listed()
MODULES = {name.removesuffix("/__init__.py").removesuffix(".py").replace("/", "."): name for name in FILES}


@functools.cache
def tree(name):
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def room(module):
    return module.partition(".")[0]


def imports(name):
    """The project's modules that a file imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module for alias in node.names}
    return {module for module in found if room(module) in FLOOR}


def test_every_file_has_its_room():
    assert {room(module) for module in MODULES} == set(FLOOR)


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    own = room(name.removesuffix(".py").replace("/", "."))
    upward = {module for module in imports(name) if room(module) != own and FLOOR[room(module)] >= FLOOR[own]}
    # A script may be called by what stands beside it on the top floor.
    assert not {module for module in upward if not FLOOR[own] == FLOOR[room(module)] == len(FLOORS) - 1}


def test_no_imports_in_a_circle():
    graph = {module: {imported for imported in imports(name) if imported in MODULES and imported != module} for module, name in MODULES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())                 # CycleError


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_imported_with_a_star_or_by_changing_the_path(name):
    for node in ast.walk(tree(name)):
        assert not (isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names))
        assert not (isinstance(node, ast.Attribute) and node.attr == "path" and isinstance(node.value, ast.Name) and node.value.id == "sys")


@pytest.mark.parametrize("name", FILES)
def test_a_file_can_be_read_in_one_sitting(name):
    lines, names = (ROOT / name).read_text(encoding="utf-8").splitlines(), tree(name).body
    assert len(lines) <= 650 and max(map(len, lines), default=0) <= 120
    assert sum(isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)) for node in names) <= 50

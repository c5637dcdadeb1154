"""The rooms of the house lie above one another, and nothing imports what is above it."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import fpt_lightning

PACKAGE = Path(fpt_lightning.__file__).parent

# from the top; rooms that share a line may import each other
ORDER = (
    {"__main__"},
    {"main", "completion"},
    {"experiments"},
    {"analysis"},
    {"packs"},
    {"cli", "command_line"},
    {"runs"},
    {"training"},
    {"models"},
    {"data"},
    {"config_files", "options"},
    {"errors", "files", "machine", "plain_yaml", "random_streams", "signals", "tensors"},
)
LEVELS = {room: level for level, rooms in enumerate(reversed(ORDER)) for room in rooms}

MOST_LINES, MOST_FILES = 300, 14  # of a file, of a folder

# the commands with options of their own, which the door imports by name
DOOR = {
    "fpt_lightning.experiments.commands",
    "fpt_lightning.analysis.attention",
    "fpt_lightning.analysis.layers",
    "fpt_lightning.completion",
}


def imported_modules(source: str) -> Iterator[str]:
    """Modules of ours that a file imports: anywhere in it, by a string too, or as a process with ``python -m``."""
    tree = ast.parse(source)
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that they can be found"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield from re.findall(r"\bfpt_lightning(?:\.\w+)+", node.value)
            if re.search(r"-m fpt_lightning(?![.\w])", node.value):
                yield "fpt_lightning.__main__"
        elif isinstance(node, ast.List | ast.Tuple):
            words = [part.value if isinstance(part, ast.Constant) else None for part in node.elts]
            if ("-m", "fpt_lightning") in pairwise(words):
                yield "fpt_lightning.__main__"


def room_of(module: str) -> str | None:
    """The room of a module of ours, or of what the package itself offers by name; None of others."""
    package, _, rest = module.partition(".")
    room = fpt_lightning._HOME.get(rest, rest).partition(".")[0]
    return room if package == "fpt_lightning" and room in LEVELS else None


def upward(room: str, source: str) -> list[str]:
    """What a file of a room imports from above it."""
    modules = {module: room_of(module) for module in imported_modules(source)}
    return [module for module, other in modules.items() if other is not None and LEVELS[other] > LEVELS[room]]


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_has_three_screens_at_most(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_a_folder_has_a_screen_of_files_at_most() -> None:
    files = Counter(str(path.parent.relative_to(PACKAGE)) for path in FILES if path.name != "__init__.py")
    assert {folder: count for folder, count in files.items() if count > MOST_FILES} == {}


def test_every_file_is_in_a_room_and_every_room_has_a_file() -> None:
    assert {_room(path) for path in FILES} == set(LEVELS)


@pytest.mark.parametrize("room", sorted(LEVELS))
def test_nothing_imports_from_above(room: str) -> None:
    found = {path.name: upward(room, path.read_text()) for path in FILES if _room(path) == room}
    assert not {name: modules for name, modules in found.items() if modules}


def test_the_door_finds_every_command_below() -> None:
    modules = {module for module in imported_modules((PACKAGE / "main.py").read_text()) if room_of(module)}
    assert modules >= DOOR


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("experiments", "def carry_out(order):\n    from fpt_lightning.main import main\n"),
        ("experiments", "from fpt_lightning import main\n"),
        ("experiments", "subprocess.run([sys.executable, '-m', 'fpt_lightning', 'run'])\n"),
        ("analysis", "import fpt_lightning.experiments.grid as grid\n"),
        ("data", "from fpt_lightning import FPTTrainer\n"),
        ("runs", "importlib.import_module('fpt_lightning.cli')\n"),
        ("data", "subprocess.run(['python', '-m', 'fpt_lightning.training.trainer'])\n"),
        ("data", "os.system('python -m fpt_lightning --version')\n"),
        ("errors", "if TYPE_CHECKING:\n    from fpt_lightning.config_files import find_config\n"),
    ],
)
def test_an_import_from_above_is_found(room: str, source: str) -> None:
    assert len(upward(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("main", "from fpt_lightning import __version__\n"),
        ("experiments", '"""Beside :mod:`fpt_lightning.main`."""\nfrom fpt_lightning.cli import FPTCLI\n'),
        ("data", "IDENTITY = 'fpt_lightning'\nimport torch\n"),
        ("command_line", "from fpt_lightning.config_files import find_config\n"),
    ],
)
def test_what_is_below_or_beside_may_be_imported(room: str, source: str) -> None:
    assert not upward(room, source)

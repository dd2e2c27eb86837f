"""CONTRIBUTING.md and the tree of the README: layers are those of the contract, and named files exist."""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def functions_of(module: Path) -> set[str]:
    tree = ast.walk(ast.parse(module.read_text(encoding="utf-8")))
    return {node.name for node in tree if isinstance(node, ast.FunctionDef)}


def test_the_layers_are_those_of_the_import_contract() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    layers = contracts["importlinter:contract:layers"]["layers"].replace("|", "\n").split()
    diagram = re.search(r"^```\n(.*?)^```$", section("How the code is laid out"), re.MULTILINE | re.DOTALL)
    assert diagram
    shown = [re.sub(r"^ \| ", "", line).split()[0] for line in diagram[1].splitlines()]
    assert [re.sub(r"/$|\.py$", "", name) for name in shown] == [layer.removeprefix("finch_hub.") for layer in layers]


def test_the_tree_of_the_readme_shows_the_rooms_and_files_of_the_package() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"^```\nfinch_hub/\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert tree
    package = {path.relative_to(ROOT / "finch_hub").as_posix() for path in (ROOT / "finch_hub").rglob("*")}
    parts = {"/".join(path.split("/")[start:]) for path in package for start in range(path.count("/") + 1)}
    others = {"__init__.py", "__main__.py", "__pycache__", "py.typed", "testing.py"}
    rooms = {path for path in package if "/" not in path} - others
    shown = set(re.findall(r"[\w/]+\.py|\w+(?=/)", tree[1]))
    assert rooms <= shown
    assert shown - parts == {"migrations"}


def test_files_of_the_list_of_questions_are_in_the_package() -> None:
    paths = re.findall(r"`([\w/]+(?:\.py|/))`", section("Where things are").replace("Paths are in `finch_hub/`.", ""))
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / "finch_hub" / path).exists()] == []


def test_the_way_of_a_training_names_files_and_functions_that_exist() -> None:
    text = section("The way of a training")
    paths = re.findall(r"`([\w/]+\.py)`", text)
    assert len(paths) > 12
    functions = set[str]().union(*(functions_of(ROOT / "finch_hub" / path) for path in paths))
    named = set(re.findall(r"`([a-z_]+)`", text))
    assert len(named) >= 8
    assert named - functions == set()


def test_every_place_of_a_new_part_exists() -> None:
    rows = [line for line in section("Add a part").splitlines() if line.startswith("| ")]
    assert len(rows) > 10
    for path in re.findall(r"`([\w./]+(?:/|\.py|\.md))`", "".join(rows)):
        assert (ROOT / path).exists() or (ROOT / "finch_hub" / path).exists(), path

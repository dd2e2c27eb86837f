"""Names in pages, docstrings and comments: every module, attribute and file that they mention exists."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("finch_hub", "tests", "benchmarks", "examples", "docs", "migrations", "scripts", ".ci")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
FILES = {
    path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else "")
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if "__pycache__" not in path.parts
}
FILES |= {f"{folder}/" for folder in FOLDERS} | {path.name for path in ROOT.iterdir() if path.is_file()}
SUFFIXES = {"/".join(parts[start:]) for file in FILES for parts in [file.split("/")] for start in range(len(parts))}

DOTTED = re.compile(r"\bfinch_hub(?:\.\w+)+")
PATHS = re.compile(r"`([\w.-]+(?:/[\w.-]+)*(?:\.py|\.txt|/))`|\b((?:docs|tests|benchmarks|finch_hub)/[\w./-]+\.\w+)")


def texts_of(source: Path) -> Iterator[str]:
    """Yield the docstrings and comments of a module."""
    text = source.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    yield from re.findall(r"(?:^|\s)# .*$", text, re.MULTILINE)


@functools.cache
def attributes_of(module: Path) -> set[str]:
    """Return the names that a module defines, imports or offers lazily."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name) | ast.alias(name=name):
                names.add(name)
            case ast.Constant(value=str(name)):
                names.add(name)
    return names


def exists(dotted: str) -> bool:
    place, names = ROOT, dotted.split(".")
    while names and (place / names[0]).is_dir():
        place /= names.pop(0)
    if names and (place / f"{names[0]}.py").is_file():
        place = place / f"{names.pop(0)}.py"
    module = place if place.is_file() else place / "__init__.py"
    return not names or names[0] in attributes_of(module)


def is_file(path: str) -> bool:
    """Return whether the path is that of a file or folder, from the root or from one of the package's folders."""
    return path in SUFFIXES


@functools.cache
def mentions() -> list[tuple[Path, str]]:
    """Return each page without its blocks of code, and each docstring and comment, with its file."""
    blocks = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    pages = [(page, blocks.sub("", page.read_text(encoding="utf-8"))) for page in PAGES]
    return pages + [(source, text) for source in SOURCES for text in texts_of(source)]


def test_names_of_modules_and_attributes_exist() -> None:
    found = [(file, name) for file, text in mentions() for name in DOTTED.findall(text)]
    assert len(found) > 10
    assert [f"{file.relative_to(ROOT)}: {name}" for file, name in found if not exists(name)] == []


def test_files_and_folders_exist() -> None:
    found = [
        (file, first or second) for file, text in mentions() for first, second in PATHS.findall(text) if first or second
    ]
    assert len(found) > 50
    assert [f"{file.relative_to(ROOT)}: {path}" for file, path in found if not is_file(path)] == []


@pytest.mark.parametrize("name", ["finch_hub.engine.bell", "finch_hub.hub.facade.Doorbell", "finch_hub.nothing.at.all"])
def test_a_name_that_does_not_exist_is_found(name: str) -> None:
    assert not exists(name)


def test_a_file_that_does_not_exist_is_found() -> None:
    assert is_file("workers/child.py")
    assert not is_file("workers/keeper.py")

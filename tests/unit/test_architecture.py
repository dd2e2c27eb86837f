"""The tree's rules: imports go down, no circles, one sentence a folder, files where they belong."""

from __future__ import annotations

import ast
import configparser
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "finch_hub"
# Packages whose `__init__` offers names on first use.
LAZY = {"finch_hub", "finch_hub/engine"}
# Files beside the folders; any other belongs into one of them.
LOOSE_FILES = {
    "engine": {"__init__.py"},
    "workers": {
        "__init__.py",
        "__main__.py",
        "child.py",
        "cleaning.py",
        "hostname.py",
        "listening.py",
        "maintenance.py",
        "worker.py",
    },
}
TYPE_ONLY = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from {0} import {1}\n"
LATE = "def load():\n    from {0} import {1}\n\n    return {1}\n"


def circle(graph: grimp.ImportGraph) -> list[str]:
    """Return the modules of one circle of imports, an empty list if there is none."""
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def lint(folder: Path, package: str, files: dict[str, str], contract: str) -> subprocess.CompletedProcess[str]:
    """Write a package and hold it against one of our contracts, as `make check` does."""
    for name, text in files.items():
        file = folder / package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        for parent in file.relative_to(folder).parents[:-1]:
            (folder / parent / "__init__.py").touch()
    ours = configparser.ConfigParser()
    ours.read(ROOT / ".importlinter", encoding="utf-8")
    config = configparser.ConfigParser()
    config["importlinter"] = {"root_package": package}
    section = f"importlinter:contract:{contract}"
    config[section] = {key: value.replace("finch_hub", package) for key, value in ours[section].items()}
    if contract == "layers":
        config[section]["layers"] = f"\n{package}.hub\n{package}.specs"
    with (folder / ".importlinter").open("w", encoding="utf-8") as stream:
        config.write(stream)
    return run_linter(folder)


def run_linter(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_the_package_has_no_circle_of_imports() -> None:
    """Counts late imports, those for types alone, and those of packages' `__init__`."""
    assert circle(grimp.build_graph("finch_hub", cache_dir=None)) == []


def test_the_package_keeps_all_contracts() -> None:
    ran = run_linter(ROOT)
    assert ran.returncode == 0, ran.stdout


def test_no_contract_has_an_exception() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter", encoding="utf-8")
    assert {"importlinter:contract:layers", "importlinter:contract:circles"} <= set(config.sections())
    exceptions = {"ignore_imports", "exclude_type_checking_imports", "skip_descendants"}
    for section in config.sections():
        assert not exceptions & set(config[section]), section
    assert config["importlinter:contract:circles"]["ancestors"].split() == ["finch_hub", "finch_hub.**"]


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": TYPE_ONLY.format("PACKAGE", "b"), "b.py": LATE.format("PACKAGE", "a")},
        {"left/a.py": TYPE_ONLY.format("PACKAGE.right", "b"), "right/c.py": LATE.format("PACKAGE.left", "d"),
         "left/d.py": "", "right/b.py": ""},
        {"deep/left/a.py": LATE.format("PACKAGE.deep.right", "b"), "deep/left/d.py": "",
         "deep/right/b.py": TYPE_ONLY.format("PACKAGE.deep.left", "d")},
    ],
    ids=["files", "folders", "folders within a folder"],
)  # fmt: skip
def test_a_circle_of_a_late_import_and_one_for_types_breaks_the_contract(
    files: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = f"tiny_{re.sub('[^a-z]', '_', request.node.callspec.id)}"
    ran = lint(tmp_path, name, {file: text.replace("PACKAGE", name) for file, text in files.items()}, "circles")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "BROKEN" in ran.stdout


def test_a_package_without_a_circle_keeps_the_contract(tmp_path: Path) -> None:
    files = {"a.py": TYPE_ONLY.format("tiny_plain", "b"), "b.py": "", "deep/c.py": LATE.format("tiny_plain", "a")}
    ran = lint(tmp_path, "tiny_plain", files, "circles")
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("imported", [TYPE_ONLY, LATE], ids=["for types", "late"])
def test_an_import_that_goes_up_breaks_the_contract(
    imported: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = f"tiny_layers_{request.node.callspec.id.replace(' ', '_')}"
    ran = lint(tmp_path, name, {"hub.py": "", "specs.py": imported.format(name, "hub")}, "layers")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "BROKEN" in ran.stdout


def test_a_circle_through_an_init_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No sibling contract sees this one: a package imports its module, which imports the package."""
    (tmp_path / "tiny_init").mkdir()
    (tmp_path / "tiny_init" / "__init__.py").write_text(TYPE_ONLY.format("tiny_init.a", "b"), encoding="utf-8")
    (tmp_path / "tiny_init" / "a.py").write_text("b = 1\n" + LATE.format("tiny_init", "c"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert set(circle(grimp.build_graph("tiny_init", cache_dir=None))) == {"tiny_init", "tiny_init.a"}


def test_every_init_is_one_sentence() -> None:
    wrong = []
    for file in PACKAGE.rglob("__init__.py"):
        if (folder := str(file.parent.relative_to(ROOT))) not in LAZY:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            sentence = ast.get_docstring(tree) or ""
            if len(tree.body) != 1 or len(re.findall(r"[.!?](?=\s|$)", sentence)) != 1:
                wrong.append(folder)
    assert wrong == []


@pytest.mark.parametrize("folder", LOOSE_FILES)
def test_no_file_lies_beside_the_folders_that_belongs_into_one(folder: str) -> None:
    assert {file.name for file in (PACKAGE / folder).glob("*.py")} == LOOSE_FILES[folder]


def find_unencoded(source: str) -> list[int]:
    """Return the lines that open, read or write text in the encoding of the machine's locale."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        match node.func:
            case ast.Attribute(value=ast.Name(id="os"), attr="fdopen") | ast.Name(id="open"):
                mode = node.args[1] if len(node.args) > 1 else named.get("mode", ast.Constant("r"))
            case ast.Attribute(value=ast.Name(id="os" | "tarfile" | "gzip" | "bz2" | "lzma" | "zipfile"), attr="open"):
                continue
            case ast.Attribute(attr="open"):
                mode = node.args[0] if node.args else named.get("mode", ast.Constant("r"))
                if not (isinstance(mode, ast.Constant) and re.fullmatch("[rwxabt+]+", str(mode.value))):
                    continue  # the method of another class, whose first argument is not a mode
            case ast.Attribute(
                attr="read_text" | "write_text" | "TextIOWrapper" | "FileHandler" | "RotatingFileHandler"
            ):
                mode = ast.Constant("r")
            case ast.Attribute(attr="NamedTemporaryFile" | "TemporaryFile" | "SpooledTemporaryFile"):
                mode = node.args[0] if node.args else named.get("mode", ast.Constant("w+b"))
            case ast.Attribute(attr="run" | "Popen" | "check_output" | "check_call" | "call"):
                if not {"text", "universal_newlines"} & set(named):
                    continue
                mode = ast.Constant("r")
            case _:
                continue
        is_binary = isinstance(mode, ast.Constant) and "b" in str(mode.value)
        if not is_binary and "encoding" not in named:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_text_has_an_encoding_and_not_that_of_the_locale(file: Path) -> None:
    assert find_unencoded(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "open('a')",
        "open('a', 'w')",
        "open('a', mode='a')",
        "path.open()",
        "path.open('x')",
        "path.read_text()",
        "(folder / 'Modelfile').write_text(card)",
        "path.read_text(errors='replace')",
        "os.fdopen(3)",
        "io.TextIOWrapper(stream)",
        "logging.FileHandler('log')",
        "logging.handlers.RotatingFileHandler(file, maxBytes=1)",
        "tempfile.NamedTemporaryFile('w')",
        "subprocess.run(command, text=True)",
        "subprocess.Popen(command, universal_newlines=True)",
    ],
)
def test_text_without_an_encoding_is_found(code: str) -> None:
    assert find_unencoded(code) == [1]
    assert find_unencoded(code[:-1] + (", " if code[-2] != "(" else "") + "encoding='utf-8')") == []


@pytest.mark.parametrize(
    "code",
    ["open('a', 'rb')", "path.open('xb')", "os.open(path, os.O_RDONLY)", "gzip.open('a', 'wb')", "store.open(path)",
     "os.fdopen(3, 'wb')", "tempfile.NamedTemporaryFile()", "subprocess.run(command)", "archive.open(member.info)"],
)  # fmt: skip
def test_bytes_need_no_encoding(code: str) -> None:
    assert find_unencoded(code) == []


def find_prints(code: str) -> list[int]:
    """Return the lines that print, or make a console."""
    printing = {"print", "Console", "click.echo", "click.secho", "click.confirm", "click.prompt"}
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if ast.unparse(call.func) in printing]


@pytest.mark.parametrize("folder", ["cli", "display", "hub"])
def test_texts_are_printed_in_one_place(folder: str) -> None:
    """Other places would have to remember that a text may steer a terminal. See decision 0137."""
    places = {PACKAGE / "cli/output.py", PACKAGE / "display/visible_console.py"}
    found = {
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in (PACKAGE / folder).rglob("*.py")
        if file not in places
        for line in find_prints(file.read_text(encoding="utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize("code", ["click.echo(text, err=True)", "print(text)", "Console(markup=False)"])
def test_a_print_is_found(code: str) -> None:
    assert find_prints(code) == [1]

"""Public names of `finch_hub.engine`, and the cost of importing them."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

from finch_hub import engine


def test_namespace_is_the_export_list() -> None:
    assert sorted(engine.__all__) == engine.__all__ == engine.__dir__()
    assert set(engine._MODULES) == set(engine.__all__)


@pytest.mark.parametrize("name", engine.__all__)
def test_every_name_can_be_imported(name: str) -> None:
    assert getattr(engine, name).__name__ == name


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(inspect.getsource(engine))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == engine._MODULES


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        engine.tarin  # noqa: B018


def test_importing_the_engine_loads_nothing_slow() -> None:
    code = "import sys, finch_hub.engine; print(*({'torch', 'transformers', 'peft', 'numpy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""

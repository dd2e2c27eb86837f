"""What `import finch_hub` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import finch_hub

HEAVY = ("torch", "transformers", "peft", "celery", "sqlalchemy", "pydantic", "numpy", "click", "rich")


def test_namespace_is_the_export_list() -> None:
    assert sorted(finch_hub.__all__) == finch_hub.__all__ == dir(finch_hub)
    homes = {*finch_hub._HOMES, "errors"}
    assert homes == set(finch_hub.__all__)


@pytest.mark.parametrize("name", finch_hub.__all__)
def test_every_name_is_there_under_its_own_name(name: str) -> None:
    value = getattr(finch_hub, name)
    assert getattr(value, "__name__").rsplit(".", 1)[-1] == name  # noqa: B009


def test_type_checkers_see_the_same_names() -> None:
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(finch_hub))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == finch_hub._HOMES


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Hubb'"):
        finch_hub.Hubb  # noqa: B018
    assert finch_hub.__version__.count(".") == 2


def test_importing_loads_nothing_heavy() -> None:
    code = f"import finch_hub, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

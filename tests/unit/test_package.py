"""Public names of `finch_hub`, and the cost of importing them."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

import finch_hub

SLOW = {"torch", "transformers", "peft", "celery", "kombu", "sqlalchemy", "alembic", "numpy", "click", "rich"}


def loaded_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1].split())


def test_namespace_is_the_export_list() -> None:
    assert sorted(finch_hub.__all__) == finch_hub.__all__ == dir(finch_hub)
    assert {*finch_hub._MODULES, "errors"} == set(finch_hub.__all__)


@pytest.mark.parametrize("name", finch_hub.__all__)
def test_every_name_can_be_imported_under_its_own_name(name: str) -> None:
    value = getattr(finch_hub, name)
    assert getattr(value, "__name__").rsplit(".", 1)[-1] == name  # noqa: B009


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(inspect.getsource(finch_hub))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == finch_hub._MODULES


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Hubb'"):
        finch_hub.Hubb  # noqa: B018
    assert finch_hub.__version__.count(".") == 2


def test_importing_the_package_loads_nothing_slow() -> None:
    assert not loaded_after("import finch_hub") & {*SLOW, "pydantic", "pluggy"}


@pytest.mark.parametrize(
    "code",
    [
        "from finch_hub import Hub; Hub().settings",
        "from finch_hub.plugins.catalog import load_catalog; load_catalog()",
        "from finch_hub import AdapterVersion, Event, Example, Job, JobState, LoRAConfig, Requirements, TrainingConfig",
        "from finch_hub import CompositionReport, ConflictReport, EvaluationReport, TrainingReport, errors",
    ],
)
def test_values_settings_and_catalog_load_no_torch_no_queue_and_no_database(code: str) -> None:
    assert not loaded_after(code) & (SLOW - {"numpy"})


@pytest.mark.parametrize("module", ["finch_hub", "finch_hub.cli.main"])
def test_windows_is_refused_with_the_reason(module: str) -> None:
    code = f"import sys; import os, importlib; sys.platform = 'win32'; importlib.import_module({module!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("ImportError: Finch Hub does not run on Windows: it needs POSIX")

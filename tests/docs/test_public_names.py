"""What `finch_hub` shows, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import finch_hub

HEAVY = {
    "torch",
    "transformers",
    "peft",
    "celery",
    "kombu",
    "sqlalchemy",
    "alembic",
    "pydantic",
    "pluggy",
    "click",
    "rich",
}


def loaded_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1].split())


def test_the_list_of_names_is_what_can_be_imported() -> None:
    assert sorted(finch_hub.__all__) == finch_hub.__all__ == finch_hub.__dir__()
    for name in finch_hub.__all__:
        assert getattr(finch_hub, name) is not None
    with pytest.raises(AttributeError, match="Hbu"):
        finch_hub.Hbu  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_after("import finch_hub") & HEAVY


@pytest.mark.parametrize(
    "code",
    [
        "from finch_hub import Hub; Hub().settings",
        "from finch_hub.plugins.catalog import load_catalog; load_catalog()",
        "from finch_hub import LoRAConfig, TrainingConfig, Example, errors",
    ],
)
def test_light_uses_load_no_torch_no_queue_and_no_database(code: str) -> None:
    assert not loaded_after(code) & {"torch", "transformers", "peft", "celery", "sqlalchemy", "click", "rich"}

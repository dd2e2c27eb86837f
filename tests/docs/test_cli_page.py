"""docs/cli.md is what the commands say of themselves now."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from scripts import command_walk

ROOT = Path(__file__).parents[2]


def test_the_page_is_the_generated_one() -> None:
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text() == module.build_page(), "run `make docs`"


def test_the_walk_over_the_installed_package_calls_every_command() -> None:
    """The walk takes minutes and runs rarely. A new command that it misses is seen here."""
    source = Path(command_walk.__file__).read_text(encoding="utf-8")
    calls = [", ".join(f'"{word}"' for word in name.split()) for name in command_walk.documented_commands()]
    assert [call for call in calls if call not in source] == []

"""The user's settings do not reach the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_PRINT = "import os; print(*sorted(name for name in os.environ if name.startswith('FINCH_')))"


def test_a_test_and_its_children_see_no_setting_of_the_user() -> None:
    expected = {"FINCH_HOME", *(name for name in os.environ if name.startswith("FINCH_TEST_"))}
    assert {name for name in os.environ if name.startswith("FINCH_")} == expected
    ran = subprocess.run([sys.executable, "-c", _PRINT], check=True, capture_output=True, text=True)
    assert set(ran.stdout.split()) == expected


def test_exported_settings_are_hidden_and_those_for_tests_stay(tmp_path: Path) -> None:
    """Runs the test above as an operator would who exported the settings of a hub in use."""
    exported = {
        "FINCH_DATABASE_URL": f"sqlite:///{tmp_path / 'in-use.db'}",
        "FINCH_CONFIG": str(tmp_path / "finch.toml"),
        "FINCH_LEASE_SECONDS": "soon",
        "FINCH_TEST_KEPT": "1",
    }
    test = f"{__file__}::test_a_test_and_its_children_see_no_setting_of_the_user"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    ran = subprocess.run(command, env={**os.environ, **exported}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout

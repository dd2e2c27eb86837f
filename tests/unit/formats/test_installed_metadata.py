"""Metadata of distributions: what cannot be read is passed over, whoever asks for it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.plugins import STRATEGY, install, run_command

from finch_hub.formats.installed_metadata import find_version

PROGRAM = """
import importlib.metadata
from finch_hub.formats.installed_metadata import read_leniently
read_leniently()
points = importlib.metadata.entry_points(group="finch_hub")
import pydantic, torch, fsspec
print(*sorted(point.value for point in points if "_test_" in point.value))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of plugins, of which all but one have entry points that cannot be read."""
    folder = tmp_path / "plugins"
    install(folder, "whole", STRATEGY.format(name="whole"))
    install(folder, "torn", STRATEGY.format(name="torn"), point="[finch_hub]\nfinch_test_torn\n")
    for name in ("pipe", "endless", "bytes"):
        install(folder, name, STRATEGY.format(name=name))
        (folder / f"{name}-1.0.dist-info" / "entry_points.txt").unlink()
    os.mkfifo(folder / "pipe-1.0.dist-info" / "entry_points.txt")
    (folder / "endless-1.0.dist-info" / "entry_points.txt").symlink_to("/dev/zero")
    (folder / "bytes-1.0.dist-info" / "entry_points.txt").write_bytes(b"[finch_hub]\n\xff")
    return folder


def test_libraries_that_look_for_entry_points_do_not_hang_or_fail(folder: Path) -> None:
    path = os.pathsep.join([str(folder), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["finch_test_whole"]


def test_command_works_beside_metadata_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    ran = run_command(folder, tmp_path / "home", "plugins", "list")
    assert ran.returncode == 8
    assert "whole" in ran.stdout
    problems = [line for line in (ran.stdout + ran.stderr).splitlines() if "its metadata cannot be read" in line]
    assert len(problems) == 4


def test_find_version_of_installed_and_of_other_packages() -> None:
    assert find_version("pip") == importlib.metadata.version("pip")
    assert find_version("no-such-package") is None

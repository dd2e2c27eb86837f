"""The locks in the repository: complete, exact, with hashes, and what the installer reads from them."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

from scripts import lockfile, suitability

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
USE, DEVELOPMENT, CPU, CUDA = (
    lockfile.read(ROOT / name)
    for name in ("requirements.lock", "requirements-dev.lock", "requirements-cpu.lock", "requirements-cuda.lock")
)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-cuda.lock"])
def test_each_pin_has_hashes_and_sizes(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    pins = lockfile.read(ROOT / name)
    assert len(pins) == len(re.findall(r"^[A-Za-z]", text, re.MULTILINE))
    for pin in pins.values():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\n$", pin.text), pin
        assert pin.download_bytes > 0, pin
        assert pin.disk_bytes > 0, pin


@pytest.mark.parametrize(
    ("requirements", "pins"),
    [
        (PROJECT["project"]["dependencies"], {**USE, **CPU}),
        (PROJECT["build-system"]["requires"], USE),
        (PROJECT["dependency-groups"]["dev"], {**USE, **DEVELOPMENT}),
        (PROJECT["project"]["optional-dependencies"]["cuda"], CUDA),
    ],
)
def test_the_locks_fulfill_what_the_project_requires(requirements: list[str], pins: dict[str, lockfile.Pin]) -> None:
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate():
            pin = pins[lockfile.normalize(requirement.name)]
            assert requirement.specifier.contains(pin.version), f"{requirement}: {pin.version} (run make lock)"


def test_no_package_is_in_two_locks_except_torch() -> None:
    assert USE.keys().isdisjoint(DEVELOPMENT)
    assert USE.keys().isdisjoint(CUDA)
    assert "torch" not in {**USE, **DEVELOPMENT}
    assert CPU["torch"].version == CUDA["torch"].version


def test_what_only_developing_needs_is_not_installed_for_use() -> None:
    assert not {"mypy", "moto", "boto3", "pyarrow", "pytest", "psycopg", "ruff"} & USE.keys()


@pytest.mark.parametrize("text", sorted(lockfile.MARKERS))
def test_the_installer_evaluates_markers_as_pip_does(text: str) -> None:
    assert lockfile.MARKERS[text]() == Marker(text).evaluate()


@pytest.mark.parametrize(
    ("version", "platform", "words"),
    [
        ((3, 9), "linux", "needs Python 3.11 or newer: .* is 3.9 \\(set PYTHON"),
        ((2, 7), "darwin", "needs Python 3.11 or newer"),
        ((3, 99), "linux", "wheels up to Python 3.14"),
        ((3, 11), "win32", "does not run on win32: .* WSL"),
    ],
)
def test_unsuitable_python_or_system_is_refused(version: tuple[int, int], platform: str, words: str) -> None:
    assert re.search(words, suitability.find_obstacle(version, platform) or "")


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_suitable_python_is_accepted(platform: str) -> None:
    assert suitability.find_obstacle((3, 11), platform) is None


def test_python_without_the_module_for_environments_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find_spec(name))
    assert "apt install python3.12-venv" in (suitability.find_obstacle((3, 12), "linux") or "")

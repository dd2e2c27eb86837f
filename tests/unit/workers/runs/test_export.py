"""What is left of an export whose format fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finch_hub import errors
from finch_hub.specs.value import Value
from finch_hub.workers.runs import export

Write = Callable[[Path, Path | None, Path, Value], dict[str, Any] | None]


def exported(out: Path, write: Write) -> dict[str, Any]:
    format_ = SimpleNamespace(name="odd", load=lambda: write, parse=lambda parameters: Value())
    channel: Any = SimpleNamespace(catalog=SimpleNamespace(export_formats={"odd": format_}), phase=lambda text: None)
    order = {"format": "odd", "parameters": {}, "adapter": "/nowhere", "base": None, "out": str(out)}
    return export.execute(order, channel)


def half(adapter: Path, base: Path | None, out: Path, parameters: Value) -> None:
    out.mkdir(exist_ok=True)
    (out / "half").write_text("way")
    raise RuntimeError("half way")


def test_a_format_that_fails_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(errors.PluginError, match="export format odd failed: RuntimeError: half way"):
        exported(tmp_path / "out", half)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_no_fault_of_the_formats(tmp_path: Path) -> None:
    def full(adapter: Path, base: Path | None, out: Path, parameters: Value) -> None:
        out.mkdir()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        exported(tmp_path / "out", full)
    assert not (tmp_path / "out").exists()


def test_what_stood_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(errors.PluginError):
        exported(tmp_path / "out", half)
    assert (tmp_path / "out" / "mine").exists()


def test_what_another_wrote_meanwhile_stays(tmp_path: Path) -> None:
    def overtaken(adapter: Path, base: Path | None, out: Path, parameters: Value) -> None:
        out.mkdir()
        raise errors.Conflict(f"{out} holds an earlier one")

    with pytest.raises(errors.Conflict):
        exported(tmp_path / "out", overtaken)
    assert (tmp_path / "out").exists()


def test_a_format_that_writes_nothing_has_failed(tmp_path: Path) -> None:
    with pytest.raises(errors.PluginError, match="wrote nothing"):
        exported(tmp_path / "out", lambda adapter, base, out, parameters: None)

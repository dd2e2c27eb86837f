"""The demo's first lines: what it downloads and keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.demo import announcement, domains


def test_every_download_is_announced_until_it_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requirements = [requirement for _, wheels in domains.SOURCES.values() for requirement in wheels]
    assert [announcement.MODEL, *requirements] == list(announcement.WHEELS)
    announcement.announce(tmp_path, seconds=480)
    printed = capsys.readouterr().out
    assert "116 MB" in printed
    assert "8:00 min" in printed
    assert str(tmp_path.parent) in printed
    (tmp_path / "wheels").mkdir()
    for requirement in announcement.WHEELS:
        assert requirement.partition("==")[0] in printed
        name = requirement.replace("-", "_").replace("==", "-")
        (tmp_path / "wheels" / f"{name}-py3-none-any.whl").touch()
    announcement.announce(tmp_path, seconds=480)
    assert "downloads  nothing" in capsys.readouterr().out


def test_a_full_disk_ends_the_demo_before_it_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcement, "_NEEDED", 10**12)
    with pytest.raises(SystemExit, match="free some space"):
        announcement.announce(tmp_path, seconds=480)

"""The demo's downloads: from the index of the environment, once, and never half."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from examples.demo import wheels

NAME = "finch_seeds-1.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Index of packages in a folder with a space, which pip is told of by its own variable."""
    project = tmp_path / "an index" / "finch-seeds"
    project.mkdir(parents=True)
    with zipfile.ZipFile(project / NAME, "w") as wheel:
        wheel.writestr("finch_seeds/seeds.txt", "sunflower")
        wheel.writestr("finch_seeds-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: finch-seeds\nVersion: 1.0\n")
        wheel.writestr("finch_seeds-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("finch_seeds-1.0.dist-info/RECORD", "")
    (project / "index.html").write_text(f'<a href="{NAME}">{NAME}</a>')
    for variable in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", project.parent.as_uri())
    return project.parent


def test_a_wheel_is_downloaded_once_and_read(tmp_path: Path, index: Path) -> None:
    folder = tmp_path / "wheels"
    (folder / "finch-seeds==1.0.partial").mkdir(parents=True)
    (folder / "finch-seeds==1.0.partial" / NAME).write_bytes(b"PK")  # of a run that was killed
    assert wheels.find("finch-seeds==1.0", folder) is None
    for _ in range(2):
        wheel = wheels.download("finch-seeds==1.0", folder)
        seeds = wheels.extract(wheel, "seeds.txt", tmp_path)
        assert seeds.read_text() == "sunflower"
        shutil.rmtree(index, ignore_errors=True)  # so that the second time needs no index
    assert [file.name for file in folder.iterdir()] == [NAME]


def test_a_package_that_the_index_lacks_ends_the_demo_with_advice(tmp_path: Path, index: Path) -> None:
    with pytest.raises(SystemExit, match="PIP_INDEX_URL"):
        wheels.download("finch-feathers==1.0", tmp_path / "wheels")
    assert wheels.find("finch-feathers==1.0", tmp_path / "wheels") is None

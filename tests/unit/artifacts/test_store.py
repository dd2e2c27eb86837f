import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.artifacts.store import ArtifactStore


def test_unknown_protocol_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="fsspec"):
        ArtifactStore("nonsense://bucket", cache=tmp_path)


def test_full_disk_is_unavailable_and_leaves_nothing(tmp_path: Path) -> None:
    """A process with a limit on the size of files fails in the middle of a real write."""
    script = """
import resource, signal, sys
from pathlib import Path
from finch_hub import errors
from finch_hub.artifacts.store import ArtifactStore
store = ArtifactStore(sys.argv[1], cache=Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store.put(b"x" * 5000)
except errors.Unavailable as error:
    print("no space left" in str(error))
"""
    run = subprocess.run([sys.executable, "-c", script, tmp_path / "store"], capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file()] == []


def test_temporary_file_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache")
    store.put(b"first")
    old = tmp_path / "store" / "tmp" / "half"
    old.write_bytes(b"half a blob")
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    fresh = tmp_path / "store" / "tmp" / "fresh"
    fresh.write_bytes(b"another writer is writing this")
    store.put(b"second")
    assert not old.exists()
    assert fresh.exists()


def test_credentials_of_the_url_are_in_no_error(tmp_path: Path) -> None:
    with pytest.raises(errors.FinchError) as failed:
        ArtifactStore("ftp://user:hunter2secret@127.0.0.1:9/x", cache=tmp_path).put(b"x")
    assert "hunter2secret" not in str(failed.value)


def test_four_processes_fetch_one_tree_at_once(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(50):
        (source / f"{number}.txt").write_text(str(number) * 1000)
    digest = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache").put_tree(source)
    script = (
        "import sys; from pathlib import Path; from finch_hub.artifacts.store import ArtifactStore\n"
        "print(ArtifactStore(sys.argv[1], cache=Path(sys.argv[2])).fetch_tree(sys.argv[3]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store"), str(tmp_path / "cache"), digest]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    folders = {run.communicate()[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0] * 4
    assert folders == {str(tmp_path / "cache" / digest)}
    assert len(list(Path(folders.pop()).iterdir())) == 50
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [digest]

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.artifacts.store import ArtifactStore


def test_an_unknown_protocol_says_what_to_use(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="fsspec"):
        ArtifactStore("nonsense://bucket", cache=tmp_path)


def test_a_full_disk_is_unavailable_and_leaves_nothing(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow beyond a limit: a real write that fails half way."""
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
    print("unavailable")
"""
    run = subprocess.run([sys.executable, "-c", script, tmp_path / "store"], capture_output=True, text=True, check=True)
    assert run.stdout == "unavailable\n"
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file()] == []


def test_a_killed_writer_leaves_no_blob_and_its_rest_is_swept(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache")
    store.put(b"first")
    rest = tmp_path / "store" / "tmp" / "half"
    rest.write_bytes(b"half a blob")
    os.utime(rest, (time.time() - 2 * 24 * 3600,) * 2)
    fresh = tmp_path / "store" / "tmp" / "fresh"
    fresh.write_bytes(b"somebody is writing this now")
    store.put(b"second")
    assert not rest.exists()
    assert fresh.exists()


def test_credentials_of_the_url_are_in_no_error(tmp_path: Path) -> None:
    with pytest.raises(errors.FinchError) as failed:
        ArtifactStore("ftp://user:hunter2secret@127.0.0.1:9/x", cache=tmp_path).put(b"x")
    assert "hunter2secret" not in str(failed.value)


def test_two_processes_fetch_one_tree_at_once(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(50):
        (source / f"{number}.txt").write_text(str(number) * 1000)
    digest = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache").put_tree(source)
    script = (
        "import sys; from pathlib import Path; from finch_hub.artifacts.store import ArtifactStore\n"
        "print(ArtifactStore(sys.argv[1], cache=Path(sys.argv[2])).fetch_tree(sys.argv[3]))"
    )
    command = [sys.executable, "-c", script, tmp_path / "store", tmp_path / "cache", digest]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    folders = {run.communicate()[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0] * 4
    assert folders == {str(tmp_path / "cache" / digest)}
    assert len(list(Path(folders.pop()).iterdir())) == 50
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [digest]

"""Contract of the artifact store, for every kind of storage."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import fuzzing

from finch_hub import errors
from finch_hub.artifacts.manifests import Entry
from finch_hub.artifacts.store import ArtifactStore

Damage = Callable[..., None]


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "store")
    return f"memory://{tmp_path.name}-{os.urandom(4).hex()}"


@pytest.fixture
def store(url: str, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(url, cache=tmp_path / "cache")


@pytest.fixture
def overwrite(url: str) -> Damage:
    """Return a function that overwrites the blob of a digest, or the manifest of a tree."""

    def damage(digest: str, data: bytes, kind: str = "blobs") -> None:
        filesystem, root = fsspec.core.url_to_fs(url)
        path = f"{root}/{kind}/{digest[:2]}/{digest}"
        if Path(path).exists():
            Path(path).chmod(0o644)
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(path, data)

    return damage


def folder(at: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_bytes(data)
    return at


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=fuzzing.examples(20), deadline=None)
@given(data=st.binary(max_size=4096))
def test_get_returns_what_was_put(store: ArtifactStore, data: bytes) -> None:
    digest = store.put(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert store.put(data) == digest
    assert store.get(digest) == data
    assert b"".join(store.read_lines(digest)) == data


@pytest.mark.parametrize("digest", ["0" * 64, "", "../../etc/passwd", "F" * 64, "a" * 63])
def test_unknown_digest_is_not_found(store: ArtifactStore, digest: str) -> None:
    with pytest.raises(errors.NotFound):
        store.get(digest)
    with pytest.raises(errors.NotFound):
        list(store.read_lines(digest))
    with pytest.raises(errors.NotFound):
        store.fetch_tree(digest)


def test_damaged_blob_is_refused_until_it_is_put_again(store: ArtifactStore, overwrite: Damage, tmp_path: Path) -> None:
    tree = store.put_tree(folder(tmp_path / "in", {"a.txt": b"alpha"}))
    digest = store.tree(tree)["a.txt"].digest
    overwrite(digest, b"alphb")
    with pytest.raises(errors.RefusedArtifact, match=digest):
        store.get(digest)
    with pytest.raises(errors.RefusedArtifact, match=digest):
        list(store.read_lines(digest))
    with pytest.raises(errors.RefusedArtifact, match=digest):
        store.fetch_tree(tree)
    assert list((tmp_path / "cache").iterdir()) == [], "nothing is left of the fetch"
    assert store.put(b"alpha") == digest  # a second put repairs it
    assert (store.fetch_tree(tree) / "a.txt").read_bytes() == b"alpha"


def test_damaged_manifest_is_refused_until_the_tree_is_put_again(
    store: ArtifactStore, overwrite: Damage, tmp_path: Path
) -> None:
    source = folder(tmp_path / "in", {"a.txt": b"alpha"})
    digest = store.put_tree(source)
    other = store.tree(store.put_tree(folder(tmp_path / "other", {"a.txt": b"beta"})))["a.txt"]
    overwrite(digest, json.dumps({"a.txt": [other.digest, other.size]}).encode(), "trees")  # its blob is stored
    for read in (store.tree, store.fetch_tree):
        with pytest.raises(errors.RefusedArtifact, match=digest):
            read(digest)
    assert store.put_tree(source) == digest
    assert (store.fetch_tree(digest) / "a.txt").read_bytes() == b"alpha"


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\b", "", ".", "a//b", "new\nline", "C:x"])
def test_manifest_with_an_unsafe_name_writes_nothing(
    store: ArtifactStore, overwrite: Damage, tmp_path: Path, name: str
) -> None:
    blob = store.put(b"evil")
    manifest = json.dumps({name: [blob, 4]}).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    overwrite(digest, manifest, "trees")
    with pytest.raises(errors.RefusedArtifact, match="not a safe file name"):
        store.fetch_tree(digest)
    assert not [path for path in tmp_path.rglob("x") if path.is_file()]
    assert not (tmp_path / "cache" / digest).exists()


@pytest.mark.parametrize("end", ["/../x", "x", "\n"])
def test_digest_with_more_behind_it_is_not_found(store: ArtifactStore, end: str) -> None:
    digest = store.put(b"data")
    with pytest.raises(errors.NotFound):
        store.get(digest + end)


def test_fetched_tree_equals_the_folder(store: ArtifactStore, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "sub/deep/weights.bin": b"\0" * 3_000_000, "empty": b""}
    digest = store.put_tree(folder(tmp_path / "in", files))
    found = store.fetch_tree(digest)
    assert {p.relative_to(found).as_posix(): p.read_bytes() for p in found.rglob("*") if p.is_file()} == files
    assert all(p.stat().st_mode & 0o222 == 0 for p in found.rglob("*") if p.is_file())
    assert store.tree(digest)["empty"] == Entry(digest=hashlib.sha256(b"").hexdigest(), size=0)


def test_digest_depends_on_names_and_bytes_only(store: ArtifactStore, tmp_path: Path) -> None:
    first = store.put_tree(folder(tmp_path / "1", {"a": b"x", "b": b"y"}))
    assert store.put_tree(folder(tmp_path / "2", {"b": b"y", "a": b"x"})) == first
    assert store.put_tree(folder(tmp_path / "3", {"a": b"y", "b": b"x"})) != first


def test_cached_folders_that_nobody_fetched_for_long_are_removed(store: ArtifactStore, tmp_path: Path) -> None:
    digests = [store.put_tree(folder(tmp_path / name, {"a": name.encode()})) for name in ("used", "unused")]
    for digest in digests:
        os.utime(store.fetch_tree(digest), (0, 0))
    used = store.fetch_tree(digests[0])
    (used.parent / f".{digests[1]}.0a1b2c3d.part").mkdir()  # left by a killed process
    store.trim_cache()
    assert [path.name for path in used.parent.iterdir()] == [used.name]
    assert store.fetch_tree(digests[1]).is_dir()


def test_cached_folder_is_used_again_unless_it_was_changed(store: ArtifactStore, tmp_path: Path) -> None:
    digest = store.put_tree(folder(tmp_path / "in", {"a": b"right"}))
    first = store.fetch_tree(digest)
    inode = first.stat().st_ino
    assert store.fetch_tree(digest).stat().st_ino == inode
    for wrong in (b"wrong", b"longer than right"):
        (first / "a").chmod(0o644)
        (first / "a").write_bytes(wrong)
        assert (store.fetch_tree(digest) / "a").read_bytes() == b"right"
    assert [p.name for p in first.parent.iterdir()] == [digest]


def test_empty_folder_is_a_tree(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert list(store.fetch_tree(store.put_tree(tmp_path / "in")).iterdir()) == []


def test_removed_blob_is_not_found_and_removed_again_without_error(store: ArtifactStore) -> None:
    digest = store.put(b"data")
    store.remove(digest)
    store.remove(digest)
    with pytest.raises(errors.NotFound):
        store.get(digest)


def test_links_and_unsafe_names_are_refused_all_at_once(store: ArtifactStore, tmp_path: Path) -> None:
    source = folder(tmp_path / "in", {"good": b"", "back\\slash": b"", "new\nline": b""})
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    with pytest.raises(errors.RefusedArtifact) as refused:
        store.put_tree(source)
    assert len(refused.value.problems) == 4


def test_store_has_a_blob_until_it_is_removed(store: ArtifactStore) -> None:
    digest = hashlib.sha256(b"finch").hexdigest()
    assert not store.has(digest)
    store.put(b"finch")
    assert store.has(digest)
    store.remove(digest)
    assert not store.has(digest)


def test_marker_is_written_once(store: ArtifactStore) -> None:
    assert store.read_marker() is None
    assert store.is_empty
    store.write_marker("first")
    store.write_marker("second")
    assert store.read_marker() == "first"
    assert store.is_empty, "a marker is no artifact"


def test_store_says_whether_it_has_any_of_some_artifacts(store: ArtifactStore, tmp_path: Path) -> None:
    blob = store.put(b"seeds")
    tree = store.put_tree(folder(tmp_path / "in", {"a.txt": b"alpha"}))
    assert not store.is_empty
    assert store.has_any(["0" * 64, blob])
    assert store.has_any(["0" * 64, tree])
    assert not store.has_any(["0" * 64])


def test_check_of_a_store_leaves_nothing(store: ArtifactStore, url: str) -> None:
    store.check(writes=True)
    filesystem, root = fsspec.core.url_to_fs(url)
    assert filesystem.find(root) == []


def test_guard_is_asked_before_writes_and_for_what_is_missing(url: str, tmp_path: Path) -> None:
    asked: list[bool] = []

    class Guard:
        def check(self, store: ArtifactStore, *, again: bool = False) -> None:
            asked.append(again)
            raise errors.StoreUnavailable("another store")

    store = ArtifactStore(url, cache=tmp_path / "cache", guard=Guard())
    blob = folder(tmp_path / "in", {"a.txt": b"alpha"})
    uses: list[Callable[[], object]] = [
        lambda: store.put(b"seeds"),
        lambda: store.put_file(blob / "a.txt"),
        lambda: store.put_tree(blob),
        lambda: store.remove("0" * 64),
        lambda: store.get("0" * 64),
        lambda: store.has("0" * 64),
    ]
    for use in uses:
        with pytest.raises(errors.StoreUnavailable, match="another store"):
            use()
    assert asked == [False, False, False, False, True, True]
    assert store.is_empty


def test_blob_is_saved_to_a_new_file_and_measured(store: ArtifactStore, tmp_path: Path) -> None:
    digest = store.put(b"seeds")
    assert store.save_blob(digest, tmp_path / "new" / "file") == store.measure(digest) == 5
    assert (tmp_path / "new" / "file").read_bytes() == b"seeds"
    with pytest.raises(FileExistsError):
        store.save_blob(digest, tmp_path / "new" / "file")
    with pytest.raises(errors.MissingArtifact):
        store.save_blob("0" * 64, tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_manifest_of_a_tree_makes_it_in_another_store(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "card.md").write_bytes(b"seeds")
    digest = store.put_tree(tmp_path / "tree")
    other = ArtifactStore(str(tmp_path / "other"), cache=tmp_path / "cache-of-other")
    assert other.put_manifest(store.read_manifest(digest)) == digest
    with pytest.raises(errors.MissingArtifact):
        other.fetch_tree(digest)
    other.put(b"seeds")
    assert (other.fetch_tree(digest) / "card.md").read_bytes() == b"seeds"


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"a":["x",1]}', b'{"a":["%s",true,0]}' % (b"0" * 64), b"[" * 9000])
def test_tree_that_is_no_manifest_is_refused(store: ArtifactStore, data: bytes) -> None:
    digest = store.put_manifest(data)
    with pytest.raises(errors.RefusedArtifact, match="is not a manifest of files"):
        store.tree(digest)

"""Where an adapter lies in what people send: folders and archives as trainers and systems leave them."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.safetensors_files import CONFIG, adapter_folder, arrays, factors

from finch_hub import errors
from finch_hub.artifacts import adapter_source
from finch_hub.artifacts.adapter_source import find_adapter
from finch_hub.artifacts.gate import AdmittedAdapter, admit_adapter
from finch_hub.formats.parsing_process import Limits
from finch_hub.texts.visible_text import to_line

TRAINER_FILES = (
    "README.md", "optimizer.pt", "rng_state.pth", "scheduler.pt", "scaler.pt", "trainer_state.json",
    "training_args.bin", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "added_tokens.json", "adapter_model.bin", "train.log", "runs/events.out.tfevents.1",
)  # fmt: skip


def put(folder: Path, *names: str) -> None:
    """Write files that are no adapter's, some of them pickles by their names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x80\x04}.")


def archive(folder: Path, suffix: str) -> Path:
    """Pack what a folder holds."""
    kind = {".zip": "zip", ".tar.gz": "gztar", ".tar": "tar", ".tar.xz": "xztar"}[suffix]
    return Path(shutil.make_archive(str(folder.parent / "sent"), kind, folder))


def admit(source: Path) -> AdmittedAdapter:
    """Admit a source, and check that nothing is left beside the result."""
    into = source.parent / "admitted"
    admitted = admit_adapter(source, into)
    assert sorted(path.name for path in into.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert not list(source.parent.glob(".unpacked-*"))
    return admitted


@pytest.mark.parametrize("inside", ["", "birds/", "output/final/birds/"])
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar", ".tar.xz", ""])
def test_adapter_is_found_some_folders_deep_beside_what_trainers_write(
    tmp_path: Path, suffix: str, inside: str
) -> None:
    plain = admit_adapter(adapter_folder(tmp_path / "plain"), tmp_path / "same")
    folder = adapter_folder(tmp_path / "in" / inside)
    put(folder, *TRAINER_FILES)
    put(tmp_path / "in", "__MACOSX/birds/._adapter_config.json", ".DS_Store")
    put(folder, "._adapter_model.safetensors", "Thumbs.db", "desktop.ini")
    source = archive(tmp_path / "in", suffix) if suffix else tmp_path / "in"
    admitted = admit(source)
    assert admitted.identity == plain.identity
    told = {"optimizer.pt", "training_args.bin", "adapter_model.bin", "trainer_state.json", "tokenizer.json", "runs/"}
    assert told <= set(admitted.ignored_files)
    assert not {"adapter_config.json", "adapter_model.safetensors"} & set(admitted.ignored_files)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ""])
def test_checkpoints_beside_the_adapter_are_ignored_and_said(tmp_path: Path, suffix: str) -> None:
    expected = admit_adapter(adapter_folder(tmp_path / "plain"), tmp_path / "same").identity
    adapter_folder(tmp_path / "in/out/final")
    for step in (500, 1000):
        adapter_folder(tmp_path / f"in/out/checkpoint-{step}", config={"lora_alpha": step})
    admitted = admit(archive(tmp_path / "in", suffix) if suffix else tmp_path / "in")
    assert admitted.identity == expected
    assert admitted.ignored_files == ("out/checkpoint-1000/", "out/checkpoint-500/")


def test_checkpoints_inside_of_the_adapters_folder_are_ignored_and_said(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "in")
    adapter_folder(folder / "checkpoint-500", config={"lora_alpha": 500})
    assert admit(folder).ignored_files == ("checkpoint-500/",)


def test_folder_with_one_checkpoint_is_that_checkpoint(tmp_path: Path) -> None:
    adapter_folder(tmp_path / "in/checkpoint-500")
    put(tmp_path / "in", "trainer_state.json")
    assert admit(tmp_path / "in").ignored_files == ("trainer_state.json",)


@pytest.mark.parametrize("names", [("birds", "bees"), ("checkpoint-500", "checkpoint-1000"), ("a/x", "b/y/z")])
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ""])
def test_several_adapters_are_refused_with_their_names_and_the_way_out(
    tmp_path: Path, suffix: str, names: tuple[str, str]
) -> None:
    for name in names:
        adapter_folder(tmp_path / "in" / name)
    source = archive(tmp_path / "in", suffix) if suffix else tmp_path / "in"
    with pytest.raises(errors.RefusedArtifact) as refused:
        admit_adapter(source, tmp_path / "admitted")
    text = str(refused.value)
    assert all(name in text for name in (*names, source.name, "holds 2 adapters", "import the folder of one"))


@pytest.mark.parametrize("name", ["birds.safetensors", "Adapter.safetensors"])
def test_single_file_in_an_archive_is_admitted(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    content = arrays(factors(), {"adapter_config": json.dumps(CONFIG), "format": "pt"})
    (tmp_path / "in" / name).write_bytes(content)
    put(tmp_path / "in", "notes.txt")
    assert admit(archive(tmp_path / "in", ".zip")).ignored_files == ("notes.txt",)


WRONG = {
    "a damaged config": ({"adapter_config.json": b"{"}, "cannot be read"),
    "damaged weights": ({"adapter_model.safetensors": b"x"}, "not a safetensors file"),
    "no weights": ({"adapter_model.safetensors": None}, "has no adapter_model.safetensors"),
    "pickled weights": ({"adapter_model.safetensors": None, "adapter_model.bin": b"x"}, "the pickle adapter_model.bin"),
    "no config": ({"adapter_config.json": None}, "has no adapter_config.json (give a folder"),
    "a wrong record": ({"finch.json": b"[]"}, "not a JSON object"),
    "an identity of others": ({"finch.json": b'{"identity": "%s"}' % (b"0" * 64)}, "declares the identity"),
}


@pytest.mark.parametrize(("changes", "says"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("inside", ["", "birds/"])
def test_message_names_no_temporary_folder(
    tmp_path: Path, inside: str, changes: dict[str, bytes | None], says: str
) -> None:
    folder = adapter_folder(tmp_path / "in" / inside)
    for name, content in changes.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
    with pytest.raises(errors.RefusedArtifact) as refused:
        admit_adapter(archive(tmp_path / "in", ".zip"), tmp_path / "admitted")
    text = str(refused.value)
    assert says in text
    assert "unpacked" not in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar"])
@pytest.mark.parametrize(
    "extra",
    [
        "run 12:30/train.log",
        "a\u00a0note.txt",
        "caf\udce9.txt",
        "n" * 255,
        "/".join(["deep" * 20] * 8) + "/x",
        "what?.md",
    ],
)
def test_names_beside_the_adapter_refuse_no_archive(tmp_path: Path, suffix: str, extra: str) -> None:
    adapter_folder(tmp_path / "in/birds")
    source = archive(tmp_path / "in", suffix)
    if suffix == ".zip":
        with zipfile.ZipFile(source, "a") as packed:
            packed.writestr(extra.replace("\udce9", "e"), b"1")
    else:
        with tarfile.open(source) as packed:
            members = [(info, packed.extractfile(info)) for info in packed if info.isreg()]
            with tarfile.open(tmp_path / "more.tar", "w") as tar:
                for info, content in members:
                    tar.addfile(info, content)
                tar.addfile(tarfile.TarInfo(extra))
        source = (tmp_path / "more.tar").rename(source)
    admitted = admit(source)
    (ignored,) = admitted.ignored_files
    assert ignored == to_line(ignored)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_beside_the_adapter_are_ignored_and_said(tmp_path: Path, kind: bytes) -> None:
    folder = adapter_folder(tmp_path / "in")
    with tarfile.open(tmp_path / "sent.tar.gz", "w:gz") as packed:
        packed.add(folder, "birds")
        link = tarfile.TarInfo("birds/wandb/latest-run")
        link.type, link.linkname = kind, "run-20260101"
        packed.addfile(link)
    assert admit(tmp_path / "sent.tar.gz").ignored_files == ("wandb/",)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_link_in_place_of_a_file_of_the_adapter_is_refused(tmp_path: Path, name: str) -> None:
    folder = adapter_folder(tmp_path / "in")
    (tmp_path / "secret").write_bytes((folder / name).read_bytes())
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "secret")
    with tarfile.open(tmp_path / "sent.tar.gz", "w:gz") as packed:
        packed.add(folder, "birds")
    with pytest.raises(errors.RefusedArtifact, match=f"birds/{name}.*is a link"):
        admit_adapter(tmp_path / "sent.tar.gz", tmp_path / "admitted")


def test_file_beside_a_folder_of_its_name_does_no_harm(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "sent.zip", "w") as packed:
        packed.writestr("ad", b"1")
        for file in folder.iterdir():
            packed.write(file, f"ad/{file.name}")
    assert admit(tmp_path / "sent.zip").ignored_files == ("ad",)


def packed_with(folder: Path, source: Path, prefix: str, *extra: str | tarfile.TarInfo) -> Path:
    """Pack the files of a folder under a prefix, and further entries."""
    if source.suffix == ".zip":
        with zipfile.ZipFile(source, "w") as packed:
            for entry in extra:
                packed.writestr(entry if isinstance(entry, str) else entry.name, b"1")
            for file in sorted(folder.iterdir()):
                packed.writestr(f"{prefix}{file.name}", file.read_bytes())
        return source
    with tarfile.open(source, "w:gz") as tar:
        for entry in extra:
            tar.addfile(entry if isinstance(entry, tarfile.TarInfo) else tarfile.TarInfo(entry))
        for file in sorted(folder.iterdir()):
            info = tarfile.TarInfo(f"{prefix}{file.name}")
            info.size = file.stat().st_size
            with file.open("rb") as stream:
                tar.addfile(info, stream)
    return source


@pytest.mark.parametrize("name", ["sent.zip", "sent.tar.gz"])
@pytest.mark.parametrize(
    ("prefix", "extra", "ignored"),
    [
        ("a/b/", "a", ("a",)),
        ("a/b/c/", "a/b", ("a/b",)),
        ("a/b/", "a/b", ("a/b",)),
        ("a/b/", ".", ()),
        ("./", ".", ()),
        ("", "./.", ()),
        ("./a//b/./", "a/./c", ("a/c",)),
    ],
)
def test_entries_on_the_way_to_the_adapter_do_no_harm(
    tmp_path: Path, name: str, prefix: str, extra: str, ignored: tuple[str, ...]
) -> None:
    folder = adapter_folder(tmp_path / "in")
    assert admit(packed_with(folder, tmp_path / name, prefix, extra)).ignored_files == ignored


@pytest.mark.parametrize("name", ["sent.zip", "sent.tar.gz"])
@pytest.mark.parametrize("other", ["a//", "a/./", "./a/", "a/.//"])
@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_two_names_of_one_file_are_refused(tmp_path: Path, name: str, other: str, file: str) -> None:
    folder = adapter_folder(tmp_path / "in")
    with pytest.raises(errors.RefusedArtifact, match=f"a/{file}.*is in it twice"):
        admit_adapter(packed_with(folder, tmp_path / name, "a/", f"{other}{file}"), tmp_path / "admitted")


def test_thousands_of_logs_beside_the_adapter_are_ignored(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "in/zebra")
    put(tmp_path / "in", *(f"logs/{n}.txt" for n in range(1500)))
    assert admit(tmp_path / "in").ignored_files == ("logs/",)
    shutil.rmtree(tmp_path / "admitted")
    assert admit(archive(tmp_path / "in", ".tar.gz")).ignored_files == ("logs/",)
    assert folder.is_dir()


def test_long_name_of_a_single_file_in_an_archive_does_no_harm(tmp_path: Path) -> None:
    content = arrays(factors(), {"adapter_config": json.dumps(CONFIG), "format": "pt"})
    with zipfile.ZipFile(tmp_path / "sent.zip", "w") as packed:
        packed.writestr("b" * 300 + ".safetensors", content)
    assert admit(tmp_path / "sent.zip").ignored_files == ()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_file_in_a_folder_of_peft_names_the_folder(tmp_path: Path, name: str) -> None:
    expected = admit_adapter(adapter_folder(tmp_path / "plain"), tmp_path / "same").identity
    folder = adapter_folder(tmp_path / "in/birds")
    put(folder, "notes.txt")
    admitted = admit_adapter(folder / name, tmp_path / "admitted")
    assert (admitted.identity, admitted.ignored_files) == (expected, ("notes.txt",))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("suffix", [".zip", ""])
def test_pointer_of_git_lfs_is_refused_with_what_to_do(tmp_path: Path, suffix: str, name: str) -> None:
    folder = adapter_folder(tmp_path / "in")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    source = archive(folder, suffix) if suffix else folder
    with pytest.raises(errors.RefusedArtifact, match=f"{name}: is a pointer of Git LFS.*git lfs pull"):
        admit_adapter(source, tmp_path / "admitted")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar"])
def test_archive_that_was_cut_off_is_refused_with_what_to_do(tmp_path: Path, suffix: str) -> None:
    adapter_folder(tmp_path / "in")
    source = archive(tmp_path / "in", suffix)
    content = source.read_bytes().rstrip(b"\0")
    source.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(errors.RefusedArtifact, match=r"ends too early.*download it again"):
        admit_adapter(source, tmp_path / "admitted")


def test_gguf_adapter_in_an_archive_is_refused_with_what_to_import_instead(tmp_path: Path) -> None:
    put(tmp_path / "in", "out/birds-f16.gguf")
    with pytest.raises(errors.RefusedArtifact, match=r"sent.zip: is a GGUF adapter.*use the PEFT folder"):
        admit_adapter(archive(tmp_path / "in", ".zip"), tmp_path / "admitted")


@pytest.mark.parametrize("name", ["a.rar", "a.7z", "a.tar.zst", "adapter.gguf"])
def test_file_of_another_format_is_refused_by_name_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"Rar!" * 10)
    with pytest.raises(errors.RefusedArtifact, match=r"make a \.zip|use the PEFT folder"):
        admit_adapter(tmp_path / name, tmp_path / "admitted")


def test_export_for_llama_cpp_is_refused_with_what_to_import_instead(tmp_path: Path) -> None:
    put(tmp_path / "in", "adapter.gguf", "Modelfile", "finch.json")
    with pytest.raises(errors.RefusedArtifact, match=r"in: is a GGUF adapter.*use the PEFT folder"):
        admit_adapter(tmp_path / "in", tmp_path / "admitted")


def test_archive_of_a_mac_with_real_double_files_is_admitted(tmp_path: Path) -> None:
    """As Finder packs a folder: each file has a double with attributes, in a folder of its own or beside it."""
    folder = adapter_folder(tmp_path / "birds")
    with zipfile.ZipFile(tmp_path / "birds.zip", "w") as packed:
        for file in sorted(folder.iterdir()):
            packed.write(file, f"birds/{file.name}")
            packed.writestr(f"__MACOSX/birds/._{file.name}", b"\x00\x05\x16\x07")
    assert admit(tmp_path / "birds.zip").ignored_files == ("__MACOSX/",)
    shutil.rmtree(tmp_path / "admitted")
    with tarfile.open(tmp_path / "birds.tar.gz", "w:gz") as tar:
        for file in sorted(folder.iterdir()):
            put(tmp_path, f"._{file.name}")
            tar.add(tmp_path / f"._{file.name}", f"./birds/._{file.name}")
            tar.add(file, f"./birds/{file.name}")
    ignored = admit(tmp_path / "birds.tar.gz").ignored_files
    assert ignored == ("birds/._adapter_config.json", "birds/._adapter_model.safetensors")


def test_walk_of_a_folder_follows_no_link(tmp_path: Path) -> None:
    adapter_folder(tmp_path / "elsewhere")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.RefusedArtifact, match="has no"):
        admit_adapter(tmp_path / "in", tmp_path / "admitted")


@pytest.mark.parametrize(("name", "content"), [("README.md", b"# An adapter"), ("rows.csv", b"a;b\n"), ("empty", b"")])
def test_file_that_is_no_adapter_is_refused_as_that(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.RefusedArtifact, match=f"{name}: is not an adapter .*PEFT folder"):
        find_adapter(tmp_path / name, tmp_path / "scratch", max_bytes=10**6)


def test_weights_without_a_suffix_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes((2).to_bytes(8, "little") + b"{}")
    assert find_adapter(file, tmp_path / "scratch", max_bytes=10**6).weights == file


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_link_out_of_the_folder_is_not_followed(tmp_path: Path, name: str) -> None:
    folder = adapter_folder(tmp_path / "in")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(errors.RefusedArtifact, match=f"{name}: is a link to a place outside of the folder"):
        find_adapter(folder, tmp_path / "scratch", max_bytes=2**20)
    snapshot = tmp_path / "models--a--b/snapshots/abc"
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    blob = tmp_path / "models--a--b/blobs/1"
    blob.parent.mkdir()
    (tmp_path / name).rename(blob)
    (snapshot / name).unlink()
    (snapshot / name).symlink_to("../../blobs/1")
    assert find_adapter(snapshot, tmp_path / "scratch", max_bytes=2**20).weights.parent == snapshot


def test_archive_whose_names_take_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_source, "_LIMITS", Limits(memory=2**24))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(50_000):
            archive.writestr(str(number), b"")
    with pytest.raises(errors.RefusedArtifact, match=r"^a\.zip: takes more than 16 MiB of memory to read"):
        find_adapter(tmp_path / "a.zip", tmp_path / "scratch", max_bytes=2**20)

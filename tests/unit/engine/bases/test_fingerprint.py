"""Fingerprints: changed by every change of the model, and by nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.models import DEFAULT, save_model

from finch_hub import errors
from finch_hub.engine.bases.base import load_base
from finch_hub.engine.bases.fingerprint import (
    compute_fingerprint,
    compute_first_fingerprint,
    compute_like,
    hash_file,
    is_first_scheme,
)


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **changes}))


def test_copy_has_the_same_fingerprint(tiny_folder: Path, copy: Path) -> None:
    rewrite(copy / "config.json", _name_or_path="elsewhere", transformers_version="9.9")
    (copy / "README.md").write_text("notes")
    assert compute_fingerprint(copy) == compute_fingerprint(tiny_folder)


def test_every_part_of_the_model_changes_the_fingerprint(tiny_folder: Path, copy: Path, tmp_path: Path) -> None:
    found = {compute_fingerprint(tiny_folder)}
    rewrite(copy / "config.json", rms_norm_eps=1e-3)
    found.add(compute_fingerprint(copy))
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    found.add(compute_fingerprint(copy))
    rewrite(copy / "tokenizer.json", version="2.0")
    found.add(compute_fingerprint(copy))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    found.add(compute_fingerprint(copy))
    found.add(compute_fingerprint(save_model(DEFAULT, tmp_path / "other", seed=1)))
    assert len(found) == 6


def test_files_that_transformers_does_not_load_do_not_change_it(tiny_folder: Path, copy: Path) -> None:
    """Such as people find in repositories: weights of other libraries, pickled ones, and vocabularies."""
    shutil.copyfile(copy / "model.safetensors", copy / "consolidated.safetensors")
    shutil.copyfile(copy / "model.safetensors", copy / "ema.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "missing.safetensors"}}))
    for name in ("pytorch_model.bin", "optimizer.pt", "tokenizer.model", "vocab.json", "merges.txt", "modeling_x.py"):
        (copy / name).write_bytes(b"other")
    for folder in ("original", "onnx", "adapter"):
        (copy / folder).mkdir()
        (copy / folder / "model.safetensors").write_bytes(b"other")
    rewrite(copy / "config.json", auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    assert compute_fingerprint(copy) == compute_fingerprint(tiny_folder)
    base, plain = (load_base(folder, dtype="float32", device="cpu", cache=copy) for folder in (copy, tiny_folder))
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(base.model.state_dict()[name], tensor)
    assert base.tokenizer.get_vocab() == plain.tokenizer.get_vocab()
    assert base.tokenizer("A finch eats.")["input_ids"] == plain.tokenizer("A finch eats.")["input_ids"]


def test_files_that_transformers_loads_change_it(copy: Path) -> None:
    found = {compute_fingerprint(copy)}
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    found.add(compute_fingerprint(copy))
    (copy / "tokenizer.json").rename(copy / "vocab.json")  # now the vocabulary is loaded
    found.add(compute_fingerprint(copy))
    (copy / "vocab.json").write_text("{}")
    found.add(compute_fingerprint(copy))
    assert len(found) == 4


def test_fingerprint_of_the_first_scheme_can_be_computed_again(tiny_folder: Path, copy: Path) -> None:
    """A constant of files that an earlier version saw: their fingerprint must stay what it was."""
    for file in copy.iterdir():
        file.unlink()
    (copy / "config.json").write_text('{"model_type": "llama", "_name_or_path": "elsewhere"}')
    (copy / "tokenizer.json").write_text("{}")
    (copy / "tokenizer.model").write_bytes(b"words")
    (copy / "model.safetensors").write_bytes(b"weights")
    (copy / "consolidated.safetensors").write_bytes(b"the same weights")
    assert compute_first_fingerprint(copy) == "e247ced9853986c15a4cb700705cf327e7e7c86ba660339468204afe5a3c95da"
    assert is_first_scheme(compute_first_fingerprint(copy))
    assert compute_like("0" * 64, copy) == compute_first_fingerprint(copy)
    assert compute_like("2:0", copy) == compute_fingerprint(copy)
    assert compute_fingerprint(copy).startswith("2:")
    assert len(compute_fingerprint(copy)) == 64  # as wide as the column of the registry


def test_large_files_are_read_once(copy: Path, tmp_path: Path) -> None:
    cache, weights = tmp_path / "cache", copy / "model.safetensors"
    first = compute_fingerprint(copy, cache=cache)
    known = json.loads((cache / "fingerprints.json").read_bytes())
    known[str(weights)][-1] = "0" * 64  # the stored hash is used
    (cache / "fingerprints.json").write_text(json.dumps(known))
    assert compute_fingerprint(copy, cache=cache) != first
    weights.touch()  # another mtime: the stored hash no longer counts
    assert compute_fingerprint(copy, cache=cache) == first


def test_cache_that_cannot_be_written_is_done_without(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert compute_fingerprint(copy, cache=tmp_path / "file" / "cache") == compute_fingerprint(copy)
    folder = tmp_path / "full"
    folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        assert compute_fingerprint(copy, cache=folder) == compute_fingerprint(copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(folder.iterdir()) == []


def test_damaged_cache_is_ignored(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "fingerprints.json").write_text("[1, 2")
    assert compute_fingerprint(copy, cache=tmp_path) == compute_fingerprint(copy)
    assert isinstance(json.loads((tmp_path / "fingerprints.json").read_bytes()), dict)


def test_names_in_a_folder_like_the_hugging_face_cache_are_not_believed(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.write_bytes(b"other content than its name says")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert hash_file(link) == hash_file(blob) == hashlib.sha256(blob.read_bytes()).hexdigest()


def test_file_that_was_replaced_with_its_old_time_is_hashed_again(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"old")
    status = file.stat()
    before = hash_file(file, cache=tmp_path)
    with file.open("r+b") as stream:
        stream.write(b"new")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_file(file, cache=tmp_path) == hashlib.sha256(b"new").hexdigest() != before


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        compute_fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(errors.Incompatible, match="no safetensors"):
        compute_fingerprint(tmp_path)


def test_bases_are_used_without_torch() -> None:
    code = (
        "import sys; from finch_hub.engine.bases import fingerprint, memory, sources, target_modules; "
        "print(sorted({'torch', 'transformers', 'peft'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

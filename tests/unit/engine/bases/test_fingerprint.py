"""A base's fingerprint changes with whatever changes the model, and with nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.models import DEFAULT, save_model

from finch_hub import errors
from finch_hub.engine.bases.fingerprint import fingerprint, hash_file


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **changes}))


def test_a_copy_has_the_same(tiny_folder: Path, copy: Path) -> None:
    rewrite(copy / "config.json", _name_or_path="elsewhere", transformers_version="9.9")
    (copy / "README.md").write_text("notes")
    assert fingerprint(copy) == fingerprint(tiny_folder)


def test_configuration_tokenizer_template_and_weights_count(tiny_folder: Path, copy: Path, tmp_path: Path) -> None:
    found = {fingerprint(tiny_folder)}
    rewrite(copy / "config.json", rms_norm_eps=1e-3)
    found.add(fingerprint(copy))
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    found.add(fingerprint(copy))
    rewrite(copy / "tokenizer.json", version="2.0")
    found.add(fingerprint(copy))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    found.add(fingerprint(copy))
    found.add(fingerprint(save_model(DEFAULT, tmp_path / "other", seed=1)))
    assert len(found) == 6


def test_large_files_are_read_once(copy: Path, tmp_path: Path) -> None:
    cache, weights = tmp_path / "cache", copy / "model.safetensors"
    first = fingerprint(copy, cache=cache)
    known = json.loads((cache / "fingerprints.json").read_bytes())
    known[str(weights)][3] = "0" * 64  # what is remembered is what is used
    (cache / "fingerprints.json").write_text(json.dumps(known))
    assert fingerprint(copy, cache=cache) != first
    weights.touch()  # another mtime: what is remembered no longer counts
    assert fingerprint(copy, cache=cache) == first


def test_damaged_cache_is_ignored(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "fingerprints.json").write_text("[1, 2")
    assert fingerprint(copy, cache=tmp_path) == fingerprint(copy)
    assert isinstance(json.loads((tmp_path / "fingerprints.json").read_bytes()), dict)


def test_links_into_the_hubs_cache_are_not_read(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.write_bytes(b"not what its name says, which shows that it was not read")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert hash_file(link) == "ab" * 32
    assert hash_file(blob) != "ab" * 32


def test_what_is_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(errors.Incompatible, match="no safetensors"):
        fingerprint(tmp_path)


def test_supervisors_can_use_bases_without_torch() -> None:
    code = (
        "import sys; from finch_hub.engine import bases, targets, sources, fingerprint; "
        "print(sorted({'torch', 'transformers', 'peft'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

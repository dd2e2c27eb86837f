"""Parsers of untrusted input, as functions of bytes that raise errors of Finch Hub only, and inputs to begin with."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from support.safetensors_files import CONFIG, PREFIX, arrays

from finch_hub import errors
from finch_hub.artifacts import adapter_checks, config_cleaning, license_fields
from finch_hub.artifacts.archives import open_archive
from finch_hub.artifacts.cards import model_card
from finch_hub.artifacts.gate import admit_adapter
from finch_hub.engine.bases import fingerprint
from finch_hub.engine.data import reading
from finch_hub.formats import adapter_folder, finch_record, model_files
from finch_hub.formats.gguf_header import check_gguf_header
from finch_hub.formats.safetensors_file import SafetensorsFile
from finch_hub.registry import database
from finch_hub.specs.cards import CardBase, CardFacts
from finch_hub.specs.references import AdapterReference
from finch_hub.texts import secret_shapes
from finch_hub.workers.messaging import broker

_TABLES = ("a.jsonl", "a.json", "a.csv", "a.tsv", "a")


class Target(NamedTuple):
    """A parser and inputs to begin with."""

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        yield Path(folder)


def _read_rows(content: bytes) -> None:
    """The first byte chooses the suffix."""
    with _folder() as folder:
        file = folder / _TABLES[content[0] % len(_TABLES) if content else 0]
        file.write_bytes(content[1:])
        reading.read_data(file)


def _read_configs(content: bytes) -> None:
    with contextlib.suppress(errors.FinchError):
        config_cleaning.clean_config(content)
    with _folder() as folder:
        for name in ("config.json", "tokenizer_config.json", model_files.INDEX):
            (folder / name).write_bytes(content)
        for read in (model_files.read_config, model_files.check_tokenizer_config, model_files.weight_names):
            with contextlib.suppress(errors.FinchError):
                read(folder)
        fingerprint.compute_fingerprint(folder)


def _read_safetensors(content: bytes) -> None:
    with _folder() as folder:
        (folder / "a.safetensors").write_bytes(content)
        with SafetensorsFile(folder / "a.safetensors") as file:
            adapter_checks.check_adapter(file, json.dumps(CONFIG).encode(), shown="a")


def _admit(content: bytes) -> None:
    """Two bytes say how long the config is, and the weights follow it."""
    length = int.from_bytes(content[:2], "big")
    with _folder() as folder:
        (folder / "in").mkdir()
        (folder / "in" / "adapter_config.json").write_bytes(content[2 : 2 + length])
        (folder / "in" / "adapter_model.safetensors").write_bytes(content[2 + length :])
        admit_adapter(folder / "in", folder / "out")
        with adapter_folder.StoredAdapter(folder / "out") as stored:
            for path in stored.modules:
                stored.factors(path)


def _read_gguf(content: bytes) -> None:
    with _folder() as folder:
        (folder / "a.gguf").write_bytes(content)
        check_gguf_header(folder / "a.gguf")


def _read_archive(content: bytes) -> None:
    with _folder() as folder:
        (folder / "a.zip").write_bytes(content)
        with open_archive(folder / "a.zip", max_bytes=2**24) as archive:
            archive.extract({name: folder / f"out-{place}" for place, name in enumerate(archive.files)})


def _write_card(content: bytes) -> None:
    text = content.decode(errors="replace")
    facts = CardFacts(
        name=text,
        kind="train",
        base=CardBase(label=text, license=text, license_link=text),
        description=text,
        spec={"system": text},
        metrics={text: text, "loss_after": 1.0},
        validation_digest=text,
    )
    model_card.write_card(facts).encode()
    license_fields.read_front_text(text)
    with _folder() as folder:
        (folder / "finch.json").write_bytes(content)
        finch_record.read_name(folder)


def _read_addresses(content: bytes) -> None:
    text = content.decode(errors="surrogateescape")
    secret_shapes.redact(text)
    readers: tuple[Callable[[], object], ...] = (
        lambda: AdapterReference.parse(text),
        lambda: broker.refuse_open_broker(text, allow_insecure=False),
        lambda: database._parse(text),
        lambda: reading.read_data(text.replace("\0", "")) if "://" in text else None,
    )
    for read in readers:
        with contextlib.suppress(errors.FinchError):
            read()


def _make_archives() -> Iterator[bytes]:
    for name in ("adapter_config.json", "a/b.txt"):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, "{}")
        yield content.getvalue()
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            member = tarfile.TarInfo(name * 20)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"{}"))
        yield content.getvalue()
        yield gzip.compress(content.getvalue())


def _make_weights() -> bytes:
    names = [f"{PREFIX}layers.{layer}.q.lora_{part}.weight" for layer in (0, 1) for part in "AB"]
    return arrays({name: np.ones((2, 2), np.float32) for name in names}, {"format": "pt"})


_CONFIG = json.dumps(CONFIG).encode()
_WIDE = {**CONFIG, "rank_pattern": {"layers.0.q": 2}, "alpha_pattern": {r".*\.q": 3}, "exclude_modules": "k|v"}
_MODEL = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "text_config": {"attn_implementation": "sdpa"}}
_TEXT = struct.pack("<Q", 1) + b"a"
_GGUF = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + _TEXT + struct.pack("<II", 4, 1)
_GGUF += _TEXT + struct.pack("<IIQ", 9, 8, 1) + _TEXT + _TEXT + struct.pack("<IQIQ", 1, 1, 0, 0) + bytes(64)

TARGETS: Mapping[str, Target] = {
    "rows": Target(
        _read_rows,
        (
            b'\0{"prompt": "a", "completion": "b"}\n{"messages": [{"role": "user", "content": "a"}]}\n',
            b'\1[{"instruction": "a", "input": "", "output": "b"}]',
            b'\2prompt,completion\na,"b ""c"""\n',
            b'\3messages\n"[{""role"": ""user"", ""content"": ""a""}]"\n',
            b"\4" + gzip.compress(b'{"text": "a"}\n'),
            b'\0{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "tools": "[]"}\n',
            b"\2" + 'prompt;completion\nä;"ö"\n'.encode("utf-16"),
        ),
    ),
    "configs": Target(
        _read_configs,
        (
            _CONFIG,
            json.dumps(_WIDE).encode(),
            json.dumps(_MODEL).encode(),
            b'{"weight_map": {"a": "b.safetensors"}, "fast_tokenizer_files": ["tokenizer.json"]}',
        ),
    ),
    "safetensors": Target(_read_safetensors, (_make_weights(), arrays({"a": np.ones(3)}))),
    "adapters": Target(
        _admit, tuple(len(c).to_bytes(2, "big") + c + _make_weights() for c in (_CONFIG, json.dumps(_WIDE).encode()))
    ),
    "gguf": Target(_read_gguf, (_GGUF,)),
    "archives": Target(_read_archive, tuple(_make_archives())),
    "cards": Target(_write_card, (b'{"name": "a"}', b"| a | <b> [c](d)", b'{"name": "\\ud800"}')),
    "addresses": Target(
        _read_addresses,
        (
            b"redis://:secret@host:6379/0?ssl_cert_reqs=none",
            b"postgresql+psycopg://user:secret@[::1]:5432/name?sslmode=require",
            b"sqlite:////tmp/a.db",
            b"https://host/a.jsonl",
            b"name/3",
            b"name@alias",
        ),
    ),
}


def run(target: str, content: bytes) -> None:
    """Parse an input. Refusing it is right."""
    with contextlib.suppress(errors.FinchError):
        TARGETS[target].parse(content)

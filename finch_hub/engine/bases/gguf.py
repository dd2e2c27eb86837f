"""GGUF files as bases: converted once to a folder of safetensors that everything else can use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock

from finch_hub import errors
from finch_hub.engine.bases.fingerprint import hash_file

# Raised whenever the same file would be converted to other bytes.
_VERSION = 1


def convert_once(file: Path, *, cache: Path, progress: Callable[[str], None]) -> Path:
    """Return the folder of the converted file, converting it first where no process has done so yet.

    The folder is named by the file's content; it appears under its name only when complete, and of several processes
    one converts while the others wait.

    Raises:
        Incompatible: the file is no GGUF, or of an architecture that transformers cannot read.

    """
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise errors.Incompatible(errors.Problem(what="is no GGUF file", where=str(file)))
    cache.mkdir(parents=True, exist_ok=True)
    digest = hash_file(file, cache=cache)
    key = hashlib.sha256(f"{_VERSION}:{digest}".encode()).hexdigest()[:32]
    folder = cache / f"gguf-{key}"
    if folder.is_dir():
        return folder
    with filelock.FileLock(cache / f"gguf-{key}.lock"):
        if folder.is_dir():
            return folder
        progress(f"converting {file.name} to safetensors, once")
        partial = cache / f"gguf-{key}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a process that died; the lock says that nobody writes it
        try:
            _convert(file, partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _convert(file: Path, folder: Path) -> None:
    import gguf
    import torch
    import transformers

    from finch_hub.engine.bases.transformers_logging import quiet_transformers

    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        reader = gguf.GGUFReader(file)
        # This loader draws its progress bar past the library's own switch for them.
        with (
            quiet_transformers(),
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            contextlib.redirect_stderr(nowhere),
        ):
            tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
            options: dict[str, Any] = {}
            head_dim = reader.get_field(f"{reader.get_field('general.architecture').contents()}.attention.key_length")
            if head_dim is not None:  # transformers reads it for some architectures only
                options["config"] = transformers.AutoConfig.from_pretrained(**source)
                options["config"].head_dim = head_dim.contents()
            model = transformers.AutoModelForCausalLM.from_pretrained(
                **source,
                **options,
                dtype=getattr(torch, _stored_dtype(reader)),
                quantization_config=transformers.GgufConfig(dequantize=True),
            )
            # The weights are dense by now, yet the model still counts as quantised and would refuse to be saved.
            model.hf_quantizer = None
            model.is_quantized = False
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (ValueError, KeyError, IndexError, AttributeError, RuntimeError, NotImplementedError, struct.error) as error:
        raise errors.Incompatible(
            errors.Problem(what=f"transformers cannot read this GGUF: {error}", where=str(file))
        ) from error


def _stored_dtype(reader: Any) -> str:
    """Return the dtype that holds the file's matrices best: float32, float16 or bfloat16.

    Unquantised files keep their own, so nothing is lost. Quantised ones become bfloat16, which bounds the error at
    2^-9 of a value, far under that of the quantisation.
    """
    kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1)
    own = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return next((own[kind] for kind, _ in kinds.most_common(1) if kind in own), "bfloat16")

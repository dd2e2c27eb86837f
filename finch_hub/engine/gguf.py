"""GGUF files as bases: converted once to a folder of safetensors that everything else can use."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import filelock

from finch_hub import errors
from finch_hub.engine.fingerprint import hash_file

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


def stored_dtype(file: Path) -> str:
    """Return the dtype that holds the file's matrices best: float32, float16 or bfloat16.

    Unquantised files keep their own, so nothing is lost. Quantised ones become bfloat16, which bounds the error at
    2^-9 of a value, far under that of the quantisation.
    """
    import gguf

    kinds = Counter(tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors if len(tensor.shape) > 1)
    own = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return next((own[kind] for kind, _ in kinds.most_common(1) if kind in own), "bfloat16")


def _convert(file: Path, folder: Path) -> None:
    import torch
    import transformers

    from finch_hub.engine.quiet import quiet_transformers

    try:
        dtype = stored_dtype(file)
        with quiet_transformers():
            tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=getattr(torch, dtype),
                quantization_config=transformers.GgufConfig(dequantize=True),
            )
            # The weights are dense by now, yet the model still counts as quantised and would refuse to be saved.
            model.hf_quantizer = None
            model.is_quantized = False
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (ValueError, KeyError, NotImplementedError, struct.error, IndexError) as error:
        raise errors.Incompatible(
            errors.Problem(what=f"transformers cannot read this GGUF: {error}", where=str(file))
        ) from error

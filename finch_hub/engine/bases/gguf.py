"""Conversion of GGUF files to folders of safetensors, once for each file."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock

from finch_hub import errors
from finch_hub.engine.bases.fingerprint import hash_file
from finch_hub.formats.atomic_writes import scratch_folder

# Increase it when the conversion of a file gives other bytes than before.
_VERSION = 1


def folder_of(file: Path, *, cache: Path) -> Path:
    """Return the folder into which a file is converted, which may not exist yet. Its name has a hash of the file."""
    key = hashlib.sha256(f"{_VERSION}:{hash_file(file, cache=cache)}".encode()).hexdigest()[:32]
    return cache / f"gguf-{key}"


def convert_once(file: Path, *, cache: Path, progress: Callable[[str], None]) -> Path:
    """Return the folder of the converted file. Convert it first if no process has done so.

    The folder gets its name only when it is complete. One process converts while the others wait.

    Raises:
        Incompatible: the file is not a GGUF file, or transformers cannot read its architecture.
    """
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise errors.Incompatible("is not a GGUF file", where=str(file))
    cache.mkdir(parents=True, exist_ok=True)
    folder = folder_of(file, cache=cache)
    if folder.is_dir():
        return folder
    with filelock.FileLock(folder.with_suffix(".lock")):
        if folder.is_dir():
            return folder
        progress(f"converting {file.name} to safetensors, once")
        with scratch_folder(folder) as scratch:
            _convert(file, scratch / folder.name)
            (scratch / folder.name).rename(folder)
    return folder


def _convert(file: Path, folder: Path) -> None:
    import gguf
    import torch
    import transformers

    from finch_hub.engine.bases.transformers_logging import BarReader, quiet_transformers

    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        reader = gguf.GGUFReader(file)
        # The GGUF loader draws its progress bar although progress bars are disabled.
        with quiet_transformers(), contextlib.redirect_stderr(BarReader("converting tensors")):
            tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
            config = None
            head_dim = reader.get_field(f"{reader.get_field('general.architecture').contents()}.attention.key_length")
            if head_dim is not None:  # transformers reads it only for some architectures
                config = transformers.AutoConfig.from_pretrained(**source)
                config.head_dim = head_dim.contents()
            model = transformers.AutoModelForCausalLM.from_pretrained(
                **source,
                config=config,
                dtype=getattr(torch, _stored_dtype(reader)),
                quantization_config=transformers.GgufConfig(dequantize=True),
            )
            # The weights are dense now. transformers would still refuse to save a model that is marked as quantized.
            model.hf_quantizer = None
            model.is_quantized = False
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (ValueError, KeyError, IndexError, AttributeError, RuntimeError, NotImplementedError, struct.error) as error:
        raise errors.Incompatible(f"transformers cannot read this GGUF: {error}", where=str(file)) from error


def _stored_dtype(reader: Any) -> str:
    """Return the dtype that fits the file's matrices: float32, float16 or bfloat16.

    Files without quantization keep their dtype, so nothing is lost. Others become bfloat16: its error is at most 2^-9
    of a value, much less than the error of the quantization.
    """
    kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1)
    dtypes = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return next((dtypes[kind] for kind, _ in kinds.most_common(1) if kind in dtypes), "bfloat16")

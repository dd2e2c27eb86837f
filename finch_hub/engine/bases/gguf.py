"""Conversion of GGUF files to folders of safetensors, once for each file."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock

from finch_hub import errors
from finch_hub.engine.bases.fingerprint import hash_file
from finch_hub.formats.atomic_writes import is_disk_full, scratch_folder
from finch_hub.formats.gguf_header import check_gguf_header
from finch_hub.formats.parsing_process import Limits, parse

# Increase it when the conversion of a file gives other bytes than before.
_VERSION = 1
_MAX_NAMED = 5  # tensors in a message
_LIBRARIES = ("gguf", "torch", "transformers")
# Weights of two bits become float32 and then bfloat16, and some of them are in memory twice.
_FREE_BYTES, _MAX_EXPANSION = 2**30, 24
_FREE_SECONDS, _BYTES_PER_SECOND = 120, 2**20


def folder_of(file: Path, *, cache: Path) -> Path:
    """Return the folder into which a file is converted, which may not exist yet. Its name has a hash of the file."""
    key = hashlib.sha256(f"{_VERSION}:{hash_file(file, cache=cache)}".encode()).hexdigest()[:32]
    return cache / f"gguf-{key}"


def convert_once(file: Path, *, cache: Path, progress: Callable[[str], None]) -> Path:
    """Return the folder of the converted file. Convert it first if no process has done so.

    The folder gets its name only when it is complete. One process converts while the others wait.

    Raises:
        Incompatible: the file is not a GGUF file, is damaged, or transformers cannot read its architecture.
    """
    check_gguf_header(file)
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = folder_of(file, cache=cache)
    if folder.is_dir():
        return folder
    with filelock.FileLock(folder.with_suffix(".lock")):
        if folder.is_dir():
            return folder
        progress(f"converting {file.name} to safetensors, once")
        size = file.stat().st_size
        limits = Limits(_FREE_BYTES + _MAX_EXPANSION * size, _FREE_SECONDS + size // _BYTES_PER_SECOND)
        with scratch_folder(folder) as scratch:
            options: Any = {"limits": limits, "error": errors.Incompatible, "libraries": _LIBRARIES}
            for _ in parse(_convert, str(file), str(scratch / folder.name), subject=f"GGUF file {file}", **options):
                if folder_of(file, cache=cache) != folder:  # other files would get the folder's name
                    fix = "try again when no program writes to it"
                    raise errors.Incompatible("was changed while it was read", fix=fix, subject=f"GGUF file {file}")
                (scratch / folder.name).rename(folder)
    return folder


def _convert(source: str, target: str) -> Iterator[str]:
    """Write the folder, and yield when it is complete."""
    import gguf
    import torch
    import transformers

    from finch_hub.engine.bases.transformers_logging import BarReader, quiet_transformers

    file = Path(source)
    location: Any = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        reader = gguf.GGUFReader(file)
        # The GGUF loader draws its progress bar although progress bars are disabled.
        with quiet_transformers(), contextlib.redirect_stderr(BarReader("converting tensors")):
            tokenizer = transformers.AutoTokenizer.from_pretrained(**location)
            config = None
            head_dim = reader.get_field(f"{reader.get_field('general.architecture').contents()}.attention.key_length")
            if head_dim is not None:  # transformers reads it only for some architectures
                config = transformers.AutoConfig.from_pretrained(**location)
                config.head_dim = head_dim.contents()
            model, loading = transformers.AutoModelForCausalLM.from_pretrained(
                **location,
                config=config,
                dtype=getattr(torch, _stored_dtype(reader)),
                quantization_config=transformers.GgufConfig(dequantize=True),
                output_loading_info=True,
            )
            if missing := sorted(loading["missing_keys"]):  # transformers gives them random values
                raise errors.Incompatible(f"has no tensors for {', '.join(missing[:_MAX_NAMED])}", where=source)
            # The weights are dense now. transformers would still refuse to save a model that is marked as quantized.
            model.hf_quantizer = None
            model.is_quantized = False
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
        yield ""
    except (errors.FinchError, MemoryError):
        raise
    except Exception as error:  # its readers raise what their code runs into
        if is_disk_full(error) or (isinstance(error, OSError) and error.errno is not None):
            raise
        what = f"transformers cannot read this GGUF: {_describe(error)}"
        raise errors.Incompatible(what, where=source, fix="fetch the file again, or convert it anew") from error


def _describe(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "ignore_mismatched_sizes" in text:
        return "its tensors have other shapes than its fields declare"
    return text if isinstance(error, (ValueError, RuntimeError)) else f"{type(error).__name__}: {text}"


def _stored_dtype(reader: Any) -> str:
    """Return the dtype that fits the file's matrices: float32, float16 or bfloat16.

    Files without quantization keep their dtype, so nothing is lost. Others become bfloat16: its error is at most 2^-9
    of a value, much less than the error of the quantization.
    """
    kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1)
    dtypes = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return next((dtypes[kind] for kind, _ in kinds.most_common(1) if kind in dtypes), "bfloat16")

"""A base model's folder: its config, and the safetensors shard of each tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from finch_hub import errors
from finch_hub.formats.finch_record import RECORD
from finch_hub.formats.json_checks import parse_object
from finch_hub.formats.model_config_checks import find_unsafe_fields, find_unsafe_tokenizer_fields
from finch_hub.formats.peft_names import CONFIG
from finch_hub.formats.regular_files import read_regular_file
from finch_hub.formats.safetensors_file import SafetensorsFile
from finch_hub.formats.safetensors_header import TensorInfo, read_safetensors_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SLOW_VOCABULARIES = (
    "sentencepiece.bpe.model", "spiece.model", "tiktoken.model", "tokenizer.model", "vocab.json", "vocab.txt",
)  # fmt: skip
"""Vocabularies of models without tokenizer.json. Beside it, they are not loaded."""
_CONV1D_FAMILIES = frozenset({"gpt2", "openai-gpt"})
_SHARD = re.compile(r"[\w][\w.,+ -]{0,200}\.safetensors\Z")
_LAYERS = re.compile(r"(num_|n_)(\w+_)?(layers?|blocks?)")
# Fields of a config that are used before transformers checks it.
_TEXT_FIELDS = ("model_type",)
_TABLE_FIELDS = ("quantization_config", "text_config")


class ModelFiles:
    """The open shards of a base model.

    Attributes:
        config: the content of ``config.json``.
        index: the content of the shards' index, None for a single file.
        shards: the open files by name, in the order of their names.
        shard_of: the name of each tensor's shard.

    Raises:
        NotFound: the folder, its config or its weights are missing.
        InvalidInput: shards are missing, truncated or contradict the index; all problems at once.
        Incompatible: the weights are quantized, so nothing can be added to them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config(folder)
        self.index = _read_index(folder)
        self.shards: dict[str, SafetensorsFile] = {}
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        self.shard_of: Mapping[str, str] = MappingProxyType(
            {tensor: shard for shard, file in self.shards.items() for tensor in file.tensors}
        )

    def _open(self) -> None:
        if self.config.get("quantization_config"):
            method = self.config["quantization_config"].get("quant_method", "quantized")
            raise errors.Incompatible(
                f"its weights are stored as {method}", fix="use the unquantized model", subject=str(self.folder)
            )
        problems = _open_shards(self.folder, self.index, self.shards)
        if problems:
            raise errors.InvalidInput(problems, subject=str(self.folder))

    def info(self, tensor: str) -> TensorInfo:
        """Return a tensor's entry in its shard."""
        return self.shards[self.shard_of[tensor]].tensors[tensor]

    def find(self, name: str) -> str | None:
        """Return the file's name of a model's tensor, None if no single name fits.

        Files of a bare model lack the prefix ``model.``; files of a model within a larger one have a longer prefix.
        """
        if name in self.shard_of:
            return name
        fits = [known for known in self.shard_of if known.endswith("." + name) or name.endswith("." + known)]
        return fits[0] if len(fits) == 1 else None

    @property
    def has_conv1d(self) -> bool:
        """Whether the layers have weights [in, out], in transformers' Conv1D modules."""
        return self.config.get("model_type") in _CONV1D_FAMILIES

    @property
    def is_tied(self) -> bool:
        """Whether the language-model head is the embedding matrix."""
        return bool(self.config.get("tie_word_embeddings", "lm_head.weight" not in self.shard_of))

    @property
    def embedding(self) -> str | None:
        """Name of the input embedding's tensor, None if no usual name is found."""
        names = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
        return next((tensor for tensor in self.shard_of if tensor.endswith(names)), None)

    def companions(self) -> Iterable[Path]:
        """Yield the files beside the weights: config, tokenizer, templates and license, but no code."""
        suffixes = {".json", ".txt", ".jinja", ".model", ".tiktoken"}
        excluded = {RECORD, CONFIG}
        for path in sorted([*self.folder.glob("*"), *self.folder.glob("additional_chat_templates/*")]):
            is_data = path.suffix in suffixes and not path.name.endswith(".index.json") and path.name not in excluded
            if path.is_file() and (is_data or path.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))):
                yield path.relative_to(self.folder)

    def close(self) -> None:
        """Close the shards."""
        for file in self.shards.values():
            file.close()

    def __enter__(self) -> ModelFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a model's `config.json`, whose fields that name the model are well formed.

    Raises:
        NotFound: there is none.
        InvalidInput: it is not a JSON object, or a field has another type or chooses code; all problems at once.
    """
    config = _read_json(folder / "config.json")
    wrong = {name: "a text" for name in _TEXT_FIELDS if not isinstance(config.get(name), str | None)}
    wrong |= {name: "a table" for name in _TABLE_FIELDS if not isinstance(config.get(name), dict | None)}
    names = config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        wrong["architectures"] = "a list of names"
    problems = [errors.Problem(where=name, what=f"is not {kind}") for name, kind in wrong.items()]
    problems += find_unsafe_fields({name: value for name, value in config.items() if name not in wrong})
    if problems:
        raise errors.InvalidInput(problems, subject=str(folder / "config.json"))
    return config


def check_tokenizer_config(folder: Path) -> None:
    """Check the fields of a `tokenizer_config.json`, if there is one.

    Raises:
        InvalidInput: it is not a JSON object, or names other files.
    """
    file = folder / "tokenizer_config.json"
    if file.exists() and (problems := [*find_unsafe_tokenizer_fields(_read_json(file))]):
        raise errors.InvalidInput(problems, subject=str(file))


def check_number_of_layers(folder: Path) -> None:
    """Check that a config declares no more layers than the weights have tensors. transformers would build them all.

    Raises:
        InvalidInput: it does, in one of its parts.
    """
    config, count = read_config(folder), len(read_shapes(folder))
    parts = [("", config), *((f"{name}.", part) for name, part in config.items() if isinstance(part, dict))]
    problems = [
        errors.Problem(where=place + name, what=f"is {value}, but the weights have {count:,} tensors")
        for place, part in parts
        for name, value in part.items()
        if _LAYERS.fullmatch(name) and isinstance(value, (int, float)) and value > count
    ]
    if problems:
        raise errors.InvalidInput(problems, subject=str(folder / "config.json"))


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers loads from a model's folder, in the order of their names.

    A folder may hold others, such as the same weights in the format of another library.

    Raises:
        InvalidInput: the index cannot be read.
    """
    return [folder / name for name in weight_names(folder) if name != SINGLE or (folder / SINGLE).is_file()]


def weight_names(folder: Path) -> list[str]:
    """Return the names of the weight files that belong to the other files of a model's folder.

    Raises:
        InvalidInput: the index cannot be read.
    """
    return _shard_names(_read_index(folder))


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors that transformers loads from a model's folder, by name.

    Raises:
        RefusedArtifact: a file is damaged.
    """
    headers = (read_safetensors_header(file) for file in weight_files(folder))
    return {name: info.shape for header in headers for name, info in header.tensors.items()}


def find_damage(folder: Path) -> list[errors.Problem]:
    """Return the problems of a model's shards: missing, truncated, or in contradiction to their index.

    Raises:
        InvalidInput: the index cannot be read.
    """
    shards: dict[str, SafetensorsFile] = {}
    try:
        return _open_shards(folder, _read_index(folder), shards)
    finally:
        for file in shards.values():
            file.close()


def _open_shards(
    folder: Path, index: Mapping[str, Any] | None, shards: dict[str, SafetensorsFile]
) -> list[errors.Problem]:
    """Open all valid shards and return the problems of the others."""
    problems: list[errors.Problem] = []
    for name in _shard_names(index):
        try:
            shards[name] = SafetensorsFile(folder / name)
        except errors.NotFound:
            what = "the weights are missing" if index is None else "this shard of the index is missing"
            problems.append(errors.Problem(where=name, what=what, fix="fetch the model again, as safetensors"))
        except errors.InvalidInput as error:
            fix = "fetch or copy it again"
            problems += [errors.Problem(where=name, what=problem.what, fix=fix) for problem in error.problems]
    for tensor, shard in index["weight_map"].items() if index else ():
        if shard in shards and tensor not in shards[shard].tensors:
            problems.append(errors.Problem(where=shard, what=f"does not hold {tensor}, but the index says so"))
    return problems


def _shard_names(index: Mapping[str, Any] | None) -> list[str]:
    return sorted(set(index["weight_map"].values())) if index else [SINGLE]


def _read_index(folder: Path) -> Mapping[str, Any] | None:
    """Return the index of the shards, None for a single file, which transformers prefers to shards."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).exists():
        return None
    index = _read_json(folder / INDEX)
    shards = index.get("weight_map")
    if not isinstance(shards, dict):
        raise errors.InvalidInput("has no weight_map", where=str(folder / INDEX))
    # transformers would load a file of another folder, which the fingerprint of this one does not have.
    if wrong := sorted(tensor for tensor, name in shards.items() if not (isinstance(name, str) and _SHARD.match(name))):
        what = f"names no file of this folder for {errors.shorten(wrong[0])}"
        raise errors.InvalidInput(what, where=str(folder / INDEX), fix="name a .safetensors file beside the index")
    return index


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise errors.NotFound("model file", str(path))
    text = read_regular_file(path)
    try:
        return parse_object(text)
    except ValueError as error:
        raise errors.InvalidInput(f"cannot be read: {str(error)[:200]}", where=str(path)) from None

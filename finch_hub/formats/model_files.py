"""A base model's folder: its configuration and which safetensors shard holds which tensor, read without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from finch_hub import errors
from finch_hub.formats.safetensors_header import TensorInfo
from finch_hub.formats.tensor_file import TensorFile

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class CheckpointFiles:
    """The open shards of a base model.

    Attributes:
        folder: where they lie.
        config: its ``config.json``.
        index: the sharded index as it stands in its file, None for a single file.
        shards: the open files by name, in the order of their names.
        shard_of: the shard's name for each tensor.

    Raises:
        NotFound: the folder, its configuration or its weights are missing.
        InvalidInput: shards are missing, truncated or at odds with the index; all problems at once.
        Incompatible: the weights are quantised, so nothing can be added to them.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = _read_json(folder / "config.json")
        self.index = _read_index(folder)
        self.shards: dict[str, TensorFile] = {}
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
            method = self.config["quantization_config"].get("quant_method", "quantised")
            problem = errors.Problem(what=f"its weights are stored as {method}", fix="take the unquantised model")
            raise errors.Incompatible(problem, subject=str(self.folder))
        problems = _open_shards(self.folder, self.index, self.shards)
        if problems:
            raise errors.InvalidInput(problems, subject=str(self.folder))

    def info(self, tensor: str) -> TensorInfo:
        """Return where a tensor lies in its shard."""
        return self.shards[self.shard_of[tensor]].tensors[tensor]

    def find(self, name: str) -> str | None:
        """Return the checkpoint's name of a tensor of the model, None where it has none.

        Checkpoints of a bare model lack the ``model.`` before their names, those of a model within a larger one have
        more before them; only a name that is the single one to fit is taken.
        """
        if name in self.shard_of:
            return name
        fits = [known for known in self.shard_of if known.endswith("." + name) or name.endswith("." + known)]
        return fits[0] if len(fits) == 1 else None

    @property
    def tied(self) -> bool:
        """Whether the language-model head is the embedding matrix."""
        return bool(self.config.get("tie_word_embeddings", "lm_head.weight" not in self.shard_of))

    @property
    def embedding(self) -> str | None:
        """The name of the input embedding's tensor, None where no usual name is found."""
        names = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
        return next((tensor for tensor in self.shard_of if tensor.endswith(names)), None)

    def companions(self) -> Iterable[Path]:
        """Return the files that make a model of the weights: configuration, tokenizer, templates, licence; no code."""
        suffixes = {".json", ".txt", ".jinja", ".model", ".tiktoken"}
        ours = {"finch.json", "adapter_config.json"}
        for path in sorted([*self.folder.glob("*"), *self.folder.glob("additional_chat_templates/*")]):
            wanted = path.suffix in suffixes and not path.name.endswith(".index.json") and path.name not in ours
            if path.is_file() and (wanted or path.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))):
                yield path.relative_to(self.folder)

    def close(self) -> None:
        """Close the shards."""
        for file in self.shards.values():
            file.close()

    def __enter__(self) -> CheckpointFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def damage_of(folder: Path) -> list[errors.Problem]:
    """Return what is wrong with the shards of a model: missing, truncated, or at odds with their index.

    Raises:
        InvalidInput: the index cannot be read.

    """
    shards: dict[str, TensorFile] = {}
    try:
        return _open_shards(folder, _read_index(folder), shards)
    finally:
        for file in shards.values():
            file.close()


def _open_shards(folder: Path, index: Mapping[str, Any] | None, shards: dict[str, TensorFile]) -> list[errors.Problem]:
    """Open the shards, by their names, as far as they are sound, and return what is wrong with the others."""
    names = sorted(set(index["weight_map"].values())) if index else [SINGLE]
    problems: list[errors.Problem] = []
    for name in names:
        try:
            shards[name] = TensorFile(folder / Path(name).name)
        except errors.NotFound:
            what = "the weights are missing" if index is None else "this shard of the index is missing"
            problems.append(errors.Problem(where=name, what=what, fix="fetch the model again, as safetensors"))
        except errors.InvalidInput as error:
            fix = "fetch or copy it again"
            problems += [errors.Problem(where=name, what=problem.what, fix=fix) for problem in error.problems]
    for tensor, shard in index["weight_map"].items() if index else ():
        if shard in shards and tensor not in shards[shard].tensors:
            problems.append(errors.Problem(where=shard, what=f"does not hold {tensor}, which the index puts there"))
    return problems


def _read_index(folder: Path) -> Mapping[str, Any] | None:
    if not (folder / INDEX).exists():
        return None
    index = _read_json(folder / INDEX)
    if not isinstance(index.get("weight_map"), dict):
        raise errors.InvalidInput(errors.Problem(where=str(folder / INDEX), what="has no weight_map"))
    return index


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except OSError:
        raise errors.NotFound("model file", str(path)) from None
    except ValueError as error:
        raise errors.InvalidInput(errors.Problem(where=str(path), what=f"is no JSON: {error}")) from None
    if not isinstance(data, dict):
        raise errors.InvalidInput(errors.Problem(where=str(path), what="is no JSON object"))
    return data

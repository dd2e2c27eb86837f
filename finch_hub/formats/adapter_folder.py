"""A LoRA adapter folder in PEFT's format, opened module by module with numpy alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from finch_hub import errors
from finch_hub.formats import quantized
from finch_hub.formats.tensor_file import Float32, TensorFile

PREFIX = "base_model.model."
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ROLES = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_embedding_A": "embedding_A",
    ".lora_embedding_B": "embedding_B",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}
# What changes the arithmetic of LoRA in PEFT beyond rank, scale, rsLoRA and DoRA.
_VARIANTS = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "lora_bias", "megatron_config",
    "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
# Others (PiSSA, OLoRA, CorDA, LoftQ …) take something out of the base's weights that the factors hold instead.
_PLAIN_INITS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """One adapted module: its path in the model, the rank, and the scale ``s`` of ``s * B @ A``.

    `embedding` tells that the weight is ``[vocabulary, width]`` and its update ``(s * B @ A)ᵀ``. The names are the
    tensors' in the file.
    """

    path: str
    rank: int
    scale: float
    embedding: bool
    a: str
    b: str
    magnitude: str | None


class StoredAdapter:
    """An open adapter folder.

    Attributes:
        folder: where it lies.
        config: its ``adapter_config.json``.
        modules: the adapted modules by their path in the model, such as ``model.layers.0.self_attn.q_proj``.
        replaced: state-dict names (``lm_head.weight``) that the adapter stores whole (``modules_to_save``, biases),
            with the tensor's name in the file.

    Raises:
        NotFound: the folder or one of its two files is missing.
        Incompatible: it is no LoRA, a variant whose arithmetic is unknown here, or its tensors do not fit together;
            all problems at once.
        InvalidInput: a file is damaged.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            text = (folder / CONFIG).read_bytes()
        except OSError:
            raise errors.NotFound("adapter", str(folder / CONFIG)) from None
        try:
            self.config: Mapping[str, Any] = MappingProxyType(dict(json.loads(text)))
        except (ValueError, TypeError) as error:
            problem = errors.Problem(where=str(folder / CONFIG), what=f"is no JSON object: {error}")
            raise errors.InvalidInput(problem) from None
        self.file = TensorFile(folder / WEIGHTS)
        try:
            self._scheme = quantized.Scheme.of(self.file.metadata)
            self.modules, self.replaced = self._modules()
        except BaseException:
            self.close()
            raise

    def factors(self, path: str) -> tuple[Float32, Float32]:
        """Return A ``[rank, in]`` and B ``[out, rank]`` of a module, unscaled (its `scale` is still to be applied).

        Raises:
            Incompatible: they hold NaN or infinity.

        """
        module = self.modules[path]
        return self.tensor(module.a), self.tensor(module.b)

    def magnitude(self, path: str) -> Float32 | None:
        """Return DoRA's magnitude ``[out]`` of a module, None where it has none."""
        name = self.modules[path].magnitude
        return None if name is None else self.tensor(name).reshape(-1)

    def replacement(self, name: str) -> Float32:
        """Return the tensor that stands for the base's of this state-dict name."""
        return self.tensor(self.replaced[name])

    def shape(self, path: str) -> tuple[int, int]:
        """Return (out, in) of a module's weight as the factors have it."""
        module = self.modules[path]
        return self._logical(module.b)[0], self._logical(module.a)[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, without the scales of quantised ones."""
        if self._scheme is None:
            return tuple(self.file.tensors)
        scales = quantized.scales_of(self.file.tensors)
        return tuple(name for name in self.file.tensors if name not in scales)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> StoredAdapter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _logical(self, name: str) -> tuple[int, ...]:
        info = self.file.tensors[name]
        return info.shape if self._scheme is None else self._scheme.logical_shape(name, self.file.tensors)

    def tensor(self, name: str) -> Float32:
        """Return one tensor of the file as float32, restored if it is quantised.

        Raises:
            Incompatible: it holds NaN or infinity.

        """
        if self._scheme is not None and name + quantized.SCALE in self.file.tensors:
            stored = {key: self.file.raw(key) for key in (name, name + quantized.SCALE)}
            values = self._scheme.restore(name, stored)
        else:
            values = self.file.read(name)
        if not np.isfinite(values).all():
            problem = errors.Problem(where=name, what="holds NaN or infinity", fix="train it again, more slowly")
            raise errors.Incompatible(problem, subject=str(self.folder))
        return values

    def _modules(self) -> tuple[Mapping[str, Module], Mapping[str, str]]:
        problems = list(_variant_problems(self.config))
        parts: dict[str, dict[str, str]] = {}
        replaced: dict[str, str] = {}
        for name in self.names:
            inner = name.removeprefix(PREFIX)
            for suffix, role in _ROLES.items():
                if inner.endswith(suffix):
                    parts.setdefault(inner.removesuffix(suffix), {})[role] = name
                    break
            else:
                replaced[inner.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = name
        modules: dict[str, Module] = {}
        for path, names in parts.items():
            embedding = "embedding_A" in names or "embedding_B" in names
            a, b = (names.get(("embedding_" if embedding else "") + role) for role in "AB")
            if a is None or b is None:
                problems.append(errors.Problem(where=path, what=f"has no {'A' if a is None else 'B'} matrix"))
                continue
            rank, scale = scale_of(self.config, path)
            shapes = self._logical(a), self._logical(b)
            if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][0] != rank or shapes[1][1] != rank:
                what = f"A {list(shapes[0])} and B {list(shapes[1])} do not have the configuration's rank {rank}"
                problems.append(errors.Problem(where=path, what=what))
                continue
            modules[path] = Module(
                path=path, rank=rank, scale=scale, embedding=embedding, a=a, b=b, magnitude=names.get("magnitude")
            )
        if not modules and not replaced and not problems:
            problems.append(errors.Problem(what="holds no tensors", where=WEIGHTS))
        if problems:
            raise errors.Incompatible(problems, subject=str(self.folder))
        return MappingProxyType(modules), MappingProxyType(replaced)


def scale_of(config: Mapping[str, Any], path: str) -> tuple[int, float]:
    """Return the rank and the scale that PEFT gives a module: alpha / rank, or alpha / sqrt(rank) with rsLoRA.

    The first key of `rank_pattern` (and of `alpha_pattern`) that matches the end of the path, as a regular expression
    after a dot or from the beginning, overrides `r` (and `lora_alpha`).
    """
    rank = int(_matching(config.get("rank_pattern") or {}, path, config.get("r", 8)))
    alpha = float(_matching(config.get("alpha_pattern") or {}, path, config.get("lora_alpha", 8)))
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matching(pattern: Mapping[str, float], path: str, default: float) -> float:
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return default


def _variant_problems(config: Mapping[str, Any]) -> Iterable[errors.Problem]:
    if config.get("peft_type") != "LORA":
        yield errors.Problem(where=CONFIG, what=f"peft_type is {config.get('peft_type')!r}, not 'LORA'")
    init = config.get("init_lora_weights")
    if init not in _PLAIN_INITS:
        fix = "convert it with PEFT (path_initial_model_for_weight_conversion)"
        yield errors.Problem(where=CONFIG, what=f"init_lora_weights {init!r} changes the base's weights", fix=fix)
    for field in _VARIANTS:
        if config.get(field):
            yield errors.Problem(where=CONFIG, what=f"{field} changes LoRA's arithmetic in a way not supported here")

"""A LoRA adapter's folder in PEFT's format, read module by module with NumPy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from finch_hub import errors
from finch_hub.formats import config_fields, quantized
from finch_hub.formats.float_conversion import Float32
from finch_hub.formats.lora_modules import LoRAModule, find_modules
from finch_hub.formats.peft_config import BEYOND_LOW_RANK
from finch_hub.formats.peft_names import BASE_LAYER, CONFIG, PREFIX, WEIGHTS
from finch_hub.formats.regular_files import read_regular_file
from finch_hub.formats.safetensors_file import SafetensorsFile

_SAME = 1e-5
"""Relative difference of two updates that are equal but for rounding to float32."""


class StoredAdapter:
    """An open adapter folder.

    Attributes:
        config: the content of ``adapter_config.json``.
        modules: the adapted modules by their path in the model, such as ``model.layers.0.self_attn.q_proj``.
        replaced: state-dict names (``lm_head.weight``) of the tensors that the adapter stores whole (biases and
            ``modules_to_save``), with their names in the file.
        names: of all tensors, without the scales of quantized ones.

    Raises:
        NotFound: the folder or one of its two files is missing.
        Incompatible: the adapter is not LoRA, is a variant with other arithmetic, or its tensors do not fit together;
            all problems at once.
        InvalidInput: a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / CONFIG).exists():
            raise errors.NotFound("adapter", str(folder / CONFIG))
        text = read_regular_file(folder / CONFIG)
        try:
            self.config: Mapping[str, Any] = MappingProxyType(dict(json.loads(text)))
        except (ValueError, TypeError, RecursionError) as error:
            raise errors.InvalidInput(f"is not a JSON object: {error}", where=str(folder / CONFIG)) from None
        self.file = SafetensorsFile(folder / WEIGHTS)
        try:
            self._scheme = quantized.Scheme.of(self.file.metadata)
            self.modules, self.replaced = self._find_modules()
        except BaseException:
            self.close()
            raise

    def factors(self, path: str) -> tuple[Float32, Float32]:
        """Return A ``[rank, inputs]`` and B ``[outputs, rank]`` of a module, without its scale.

        Raises:
            Incompatible: they hold NaN or infinity.
        """
        module = self.modules[path]
        return self.tensor(module.a), self.tensor(module.b)

    def magnitude(self, path: str) -> Float32 | None:
        """Return DoRA's magnitude ``[outputs]`` of a module, None without DoRA."""
        name = self.modules[path].magnitude
        return None if name is None else self.tensor(name).reshape(-1)

    def beyond_low_rank(self) -> dict[str, list[str]]:
        """Return the modules and tensors beyond low-rank updates, by the keys of `peft_config.BEYOND_LOW_RANK`."""
        return {
            "use_dora": [path for path, module in self.modules.items() if module.magnitude is not None],
            "bias": [name for name in self.replaced if name.endswith("bias")],
            "modules_to_save": [name for name in self.replaced if not name.endswith("bias")],
            "embeddings": [path for path, module in self.modules.items() if module.embedding],
        }

    def require_plain(self, system: str) -> None:
        """Check that the adapter has only low-rank updates of linear layers, with weights that are ``[out, in]``.

        Args:
            system: name of the system that supports nothing else.

        Raises:
            Incompatible: the adapter has DoRA magnitudes, biases, whole modules or embeddings; all of it at once.
        """
        places = {
            BEYOND_LOW_RANK[field].name: shorten(sorted(names), 2)
            for field, names in self.beyond_low_rank().items()
            if names
        }
        if self.config.get("fan_in_fan_out"):
            places["weights that are [in, out] (fan_in_fan_out)"] = ""
        if places:
            fix = "merge it into its base instead"
            problems = [
                errors.Problem(where=names, what=f"{system} does not support {part}", fix=fix)
                for part, names in places.items()
            ]
            raise errors.Incompatible(problems, subject=str(self.folder))

    def tensor(self, name: str) -> Float32:
        """Return a tensor of the file as float32, restored if it is quantized.

        Raises:
            Incompatible: the tensor holds NaN or infinity.
        """
        scale = name + quantized.SCALE
        if self._scheme is not None and scale in self.file.tensors:
            values = self._scheme.restore(name, {key: self.file.read_stored(key) for key in (name, scale)})
        else:
            values = self.file.read(name)
        if not np.isfinite(values).all():
            raise errors.Incompatible(
                "holds NaN or infinity",
                where=name,
                fix="train it again at a lower learning rate",
                subject=str(self.folder),
            )
        return values

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> StoredAdapter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find_modules(self) -> tuple[Mapping[str, LoRAModule], Mapping[str, str]]:
        tensors = self.file.tensors
        shapes = {name: info.shape for name, info in tensors.items()}
        if self._scheme is not None:
            shapes = self._scheme.logical_shapes(tensors)
        self.names = tuple(shapes)
        found = find_modules(shapes, self.config)
        problems = [*config_fields.find_unsupported(self.config), *found.problems]
        problems += [
            errors.Problem(where=module.bias, what="is a bias of B, which is not supported")
            for module in found.modules.values()
            if module.bias is not None
        ]
        if not shapes and not problems:
            problems.append(errors.Problem(what="holds no tensors", where=WEIGHTS))
        if problems:
            raise errors.Incompatible(problems, subject=str(self.folder))
        replaced = {
            name.removeprefix(PREFIX).replace(BASE_LAYER, ".").replace(".modules_to_save.", "."): name
            for name in found.others
        }
        return MappingProxyType(found.modules), MappingProxyType(replaced)


def have_equal_updates(first: StoredAdapter, second: StoredAdapter) -> bool:
    """Tell whether two adapters change a base alike, up to rounding, however their scales and ranks are stored."""
    if first.modules.keys() != second.modules.keys() or first.replaced.keys() != second.replaced.keys():
        return False
    pairs = [(first.magnitude(path), second.magnitude(path)) for path in first.modules]
    pairs += [(first.tensor(name), second.tensor(second.replaced[key])) for key, name in first.replaced.items()]
    if not all(_is_same(one, other) for one, other in pairs):
        return False
    return all(_is_same_product(first, second, path) for path in first.modules)


def _is_same(one: Float32 | None, other: Float32 | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)


def _is_same_product(first: StoredAdapter, second: StoredAdapter, path: str) -> bool:
    (A, B), (other_a, other_b) = first.factors(path), second.factors(path)
    scale, other_scale = first.modules[path].scale, second.modules[path].scale
    if (len(B), A.shape[1]) != (len(other_b), other_a.shape[1]):
        return False
    # ‖B A − B' A'‖² of the stacked factors, whose products are never formed.
    left = np.concatenate([B * np.float64(scale), -other_b * np.float64(other_scale)], axis=1)
    right = np.concatenate([A, other_a], axis=0).astype(np.float64)
    rank = B.shape[1]
    overlaps = (left.T @ left) * (right @ right.T)
    return float(overlaps.sum()) <= _SAME**2 * float(overlaps[:rank, :rank].sum())


def shorten(names: Sequence[str], count: int) -> str:
    """Return the first names of a list, and the number of the others."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")

"""Low-rank updates with every scale folded in, read from PEFT adapter folders and written back to them."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.adapters import weights
from finch_hub.formats import adapter_folder, peft_config

# Of a parent's configuration: which model it is for, and which modules it adapts.
_IDENTITY = ("base_model_name_or_path", "revision", "task_type", "fan_in_fan_out", "peft_version")
_PLACE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """The update ``B @ A`` of one module: B [out, rank], A [rank, in]."""

    B: Tensor
    A: Tensor

    @property
    def rank(self) -> int:
        """Inner dimension; an upper bound of the update's rank."""
        return self.A.shape[0]

    def scaled(self, weight: float) -> Factors:
        """Return the update times a weight."""
        return Factors(B=self.B * weight, A=self.A)

    def leading(self, rank: int | None) -> Factors:
        """Return the first columns of B and rows of A alone; None returns all."""
        return Factors(B=self.B[:, :rank], A=self.A[:rank])


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One parent of a composition.

    Attributes:
        name: what reports and errors call it.
        digest: SHA-256 of its folded factors; what random strategies are seeded by.
        config: its ``adapter_config.json``.
        factors: the update of each module, by the module's path in the model, float32.

    """

    name: str
    digest: str
    config: Mapping[str, Any]
    factors: Mapping[str, Factors]

    @classmethod
    def of(cls, name: str, factors: Mapping[str, Factors], config: Mapping[str, Any] | None = None) -> Adapter:
        """Name factors that are already scaled and at hand."""
        return cls(name=name, digest=_digest(factors), config=dict(config or {}), factors=factors)

    @property
    def rank(self) -> int:
        """Largest rank over the modules."""
        return max((f.rank for f in self.factors.values()), default=0)


def read(folder: Path, name: str) -> Adapter:
    """Read a PEFT folder (a quantised one as well), folding alpha, rsLoRA and rank and alpha patterns into B.

    Raises:
        Incompatible: the adapter has parts that no sum of low-rank updates can carry: DoRA magnitudes, biases, trained
            embeddings, whole modules; all of them at once, by name. Also NaN and infinity.
        NotFound: the folder or a file in it is missing.

    """
    with adapter_folder.StoredAdapter(folder) as stored:
        problems = structural_problems(stored)
        if problems:
            raise errors.Incompatible(problems, subject=name)
        factors: dict[str, Factors] = {}
        for path, module in stored.modules.items():
            a, b = stored.factors(path)
            factors[path] = Factors(B=torch.tensor(b) * module.scale, A=torch.tensor(a))
        return Adapter(name=name, digest=_digest(factors), config=stored.config, factors=factors)


def structural_problems(stored: adapter_folder.StoredAdapter) -> tuple[errors.Problem, ...]:
    """Name what an adapter has beyond plain low-rank updates; none of it may be dropped silently."""
    places = {
        "use_dora": [path for path, module in stored.modules.items() if module.magnitude is not None],
        "bias": [name for name in stored.replaced if name.endswith("bias")],
        "modules_to_save": [name for name in stored.replaced if not name.endswith("bias")],
    }
    problems = peft_config.beyond_low_rank(stored.config, {field: _some(names) for field, names in places.items()})
    embeddings = [path for path, module in stored.modules.items() if module.embedding]
    if not embeddings:
        return problems
    fix = "train it on linear modules only"
    return (*problems, errors.Problem(where=_some(embeddings), what="adapts an embedding", fix=fix))


def to_weights(factors: Mapping[str, Factors], config: Mapping[str, Any]) -> weights.AdapterWeights:
    """Return factors in PEFT's form with scale 1 everywhere: ``lora_alpha = r``, patterns where ranks differ."""
    tensors: dict[str, Tensor] = {}
    for path, update in sorted(factors.items()):
        for name, value in (("lora_A", update.A), ("lora_B", update.B)):
            tensors[f"{adapter_folder.PREFIX}{path}.{name}.weight"] = value.to(torch.float32).contiguous()
    return weights.AdapterWeights(config_of(factors, config), tensors)


def copy(source: Path, folder: Path) -> None:
    """Copy an adapter's two files, byte for byte."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (adapter_folder.CONFIG, adapter_folder.WEIGHTS):
        shutil.copyfile(source / name, folder / name)


def common_config(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Return what the parents' configurations agree on and a composition of them may keep.

    The place of the modules is kept in the parents' words only where all of them adapt the same modules and say so
    alike; otherwise `config_of` lists every path, so that PEFT adds no module that has no weights.
    """
    first = adapters[0]
    kept = {key: value for key, value in first.config.items() if key in _IDENTITY}
    alike = all(
        set(adapter.factors) == set(first.factors)
        and all(_plain(adapter.config.get(key)) == _plain(first.config.get(key)) for key in _PLACE)
        for adapter in adapters
    )
    if alike and first.config.get("target_modules"):
        kept |= {key: _plain(first.config[key]) for key in _PLACE if first.config.get(key) is not None}
    return kept


def config_of(factors: Mapping[str, Factors], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``adapter_config.json`` of factors whose scales are folded in; `config` says what they do not."""
    ranks = Counter(update.rank for update in factors.values())
    usual = ranks.most_common(1)[0][0]
    unusual = {path: update.rank for path, update in sorted(factors.items()) if update.rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "target_modules": sorted(factors),
        **{key: config[key] for key in (*_IDENTITY, *_PLACE) if key in config},
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": unusual,
        "alpha_pattern": dict(unusual),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (list, tuple, set, frozenset)) else value


def _digest(factors: Mapping[str, Factors]) -> str:
    digest = hashlib.sha256()
    for path in sorted(factors):
        digest.update(path.encode() + b"\0")
        for matrix in (factors[path].B, factors[path].A):
            digest.update(matrix.detach().to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

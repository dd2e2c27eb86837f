"""Version that a training goes on from: it gives the base and the shape, and its prompts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.engine.bases.fingerprint import compute_fingerprint
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.operations import find_limits
from finch_hub.hub.bases import Bases
from finch_hub.registry import adapter_versions, values
from finch_hub.specs.jobs import BaseModelSource
from finch_hub.specs.lora import LoRAConfig, UnusualValueWarning

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


@dataclass(frozen=True, kw_only=True)
class StartingVersion:
    """A version that a training goes on from, and the configuration of its adapter."""

    version: values.AdapterVersion
    lora: LoRAConfig

    @property
    def reference(self) -> str:
        """Reference of the version, with its number."""
        return self.version.reference

    def find_base(
        self, base: str | Path | None, revision: str | None, stores: Stores
    ) -> tuple[BaseModelSource, Path | None]:
        """Return the source of the version's base, and its folder if it is on this machine.

        Args:
            base: base that a user gave besides; it must be the same one.

        Raises:
            Incompatible: it is another one.
            InvalidSpec: a revision is given alone.
            NotFound: there is no such base.
        """
        known = self.version.base
        source, folder = Bases(stores).resolve(known.fingerprint)
        if base is None:
            if revision is not None:
                what, fix = "is given without a base", f"leave it out: {self.reference} gives the base"
                raise errors.InvalidSpec(what, where="revision", fix=fix)
            return source, folder
        given, place = Bases(stores).resolve(base, revision)
        is_same = given.key == source.key
        if not is_same and place is not None:
            is_same = compute_fingerprint(place, cache=stores.bases) == known.fingerprint
        if not is_same:
            what = f"{base} is not the base of {self.reference}, which is {known.name}"
            raise errors.Incompatible(what, where="base", fix="leave the base out, or start from another version")
        return source, folder

    def shape(self, overrides: Mapping[str, object]) -> LoRAConfig:
        """Return the shape of the new version, which has that of this one. Only the dropout may be another one."""
        dropout = overrides.get("dropout", self.lora.dropout)
        try:
            return self.lora.evolve(dropout=dropout)
        except errors.InvalidSpec:  # `find_problems` of the request tells it
            return self.lora

    def find_problems(self, overrides: Mapping[str, object]) -> list[errors.Problem]:
        """Return a problem for each given setting that would change the shape of the adapter."""
        problems = []
        for name in sorted(overrides.keys() & LoRAConfig.model_fields.keys() - {"dropout"}):
            own = getattr(self.lora, name)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UnusualValueWarning)
                    is_same = getattr(self.lora.evolve(**{name: overrides[name]}), name) == own
            except errors.InvalidSpec:
                is_same = False
            if not is_same:
                what = f"the adapter of {self.reference} has {own!r}, and a training from it keeps that"
                problems.append(errors.Problem(where=name, what=what, fix=f"leave {name} out"))
        return problems


def read_start(reference: str, stores: Stores) -> StartingVersion:
    """Read a version to train further.

    Raises:
        NotFound: there is no such version.
        Conflict: the version is unchecked or quarantined.
        Incompatible: the adapter has parts that no training changes.
    """
    from finch_hub.engine.adapters.peft_fields import to_lora_config

    with stores.database.read() as session:
        version = adapter_versions.resolve_usable(session, reference)
    if version.state == "quarantined":
        what = f"cannot start from adapter {version.reference}: it is quarantined"
        raise errors.Conflict(f"{what} (choose another version)")
    with StoredAdapter(stores.artifacts.fetch_tree(version.digest)) as stored:
        parts = [part for part, operations in find_limits(stored).items() if "train" in operations]
        if parts:
            problems = [errors.Problem(what=f"it has {part}, which a training does not change") for part in parts]
            raise errors.Incompatible(problems, subject=f"cannot start from adapter {version.reference}")
        lora = to_lora_config(stored.config, stored.modules).evolve(init="start")
    return StartingVersion(version=version, lora=lora)

"""Versions of adapters, with everything that the hub knows of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.registry import adapter_versions, evidence, lineage, values
from finch_hub.specs.cards import Card
from finch_hub.specs.evidence import Evidence, LossCurve
from finch_hub.storage import cards
from finch_hub.texts.summaries import Summarized

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


class Version(Summarized):
    """A version of an adapter, bound to its hub: `hub.adapters["legal@best"]`.

    Its fields are those of the moment at which it was looked up. What is not in its row is read on first use.

    Attributes:
        value: the plain value, with all fields of the row. It can be sent, stored and compared.
    """

    def __init__(self, value: values.AdapterVersion, stores: Stores) -> None:
        self.value = value
        self._stores = stores

    @property
    def reference(self) -> str:
        """Reference of the version, such as `name/3`."""
        return self.value.reference

    @property
    def name(self) -> str:
        """Name of the adapter."""
        return self.value.name

    @property
    def number(self) -> int:
        """Number of the version, from 1."""
        return self.value.number

    @property
    def state(self) -> values.VersionState:
        """Whether the version can be used, or what keeps it from use."""
        return self.value.state

    @property
    def kind(self) -> str:
        """How the version was made: `train`, `compose`, `quantize` or `import`."""
        return self.value.kind

    @property
    def base(self) -> values.Base:
        """Base model that the version fits."""
        return self.value.base

    @property
    def description(self) -> str:
        """What the adapter is for; the same for all of its versions."""
        return self.value.description

    @property
    def preset(self) -> str | None:
        """Preset that the version was trained with."""
        return self.value.preset

    @property
    def notes(self) -> str:
        """Notes on the version."""
        return self.value.notes

    @property
    def created_at(self) -> datetime:
        """When the version was made, in UTC."""
        return self.value.created_at

    @property
    def job_id(self) -> str | None:
        """Id of the job that made the version."""
        return self.value.job_id

    @property
    def identity(self) -> str:
        """Hash of weights and configuration, which equal adapters share."""
        return self.value.identity

    @property
    def digest(self) -> str:
        """Hash of the files in the artifact store."""
        return self.value.digest

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Measured numbers by name, such as `loss_after`."""
        return self.value.metrics

    @property
    def spec(self) -> Mapping[str, Any]:
        """Specification of the job that made the version."""
        return self.value.spec

    @property
    def lineage(self) -> values.Lineage:
        """Origin of the bytes: data, seed, library versions and environment."""
        return self.value.lineage

    @property
    def aliases(self) -> tuple[str, ...]:
        """Aliases that point at the version."""
        return self.value.aliases

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags, as `name` or `name=value`."""
        return self.value.tags

    @cached_property
    def parents(self) -> tuple[Version, ...]:
        """Versions that this one was made from, also deleted ones. Their weights are in `lineage.parents`."""
        if not self.value.lineage.parents:
            return ()
        with self._stores.database.read() as session:
            graph = lineage.read_graph(session, self.reference, "ancestors")
        found = {version.reference: Version(version, self._stores) for version in graph.versions}
        return tuple(found[parent.reference] for parent in self.lineage.parents if parent.reference in found)

    @property
    def card(self) -> Card:
        """Model card: written from what is known now, or as a user edited it."""
        return cards.read_card(self.value, self._stores)

    @property
    def files(self) -> Mapping[str, Path]:
        """Local paths of the files by name, in PEFT's format. They are shared, so do not change them.

        Raises:
            MissingArtifact: the version was deleted, and its files were removed.
        """
        folder = self._stores.artifacts.fetch_tree(self.value.digest)
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

    @cached_property
    def evidence(self) -> Evidence:
        """What was measured when the version was made."""
        with self._stores.database.read() as session:
            return evidence.find(session, self.reference)[0]

    @property
    def curve(self) -> LossCurve | None:
        """Losses of the training by step, None for a version that was not trained here."""
        return self.evidence.curve

    def refresh(self) -> Version:
        """Return the version as it is now: its aliases, tags and state may have changed."""
        with self._stores.database.read() as session:
            return Version(adapter_versions.resolve(session, self.reference), self._stores)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and other.value == self.value and other._stores is self._stores

    def __hash__(self) -> int:
        return hash(self.reference)

    def _list_fields(self) -> Mapping[str, object]:
        value = self.value
        fields: dict[str, object] = {
            "reference": self.reference,
            "state": value.state,
            "kind": value.kind,
            "base": value.base.name,
            "description": value.description or None,
            "preset": value.preset,
            "parents": tuple(parent.reference for parent in value.lineage.parents) or None,
            "aliases": value.aliases or None,
            "tags": value.tags or None,
            "notes": value.notes or None,
            "created_at": value.created_at,
            "job_id": value.job_id,
        }
        shown = {name: field for name, field in fields.items() if field is not None}
        metrics = sorted(
            value.metrics.items(), key=lambda item: not item[0].startswith("loss_")
        )  # the table has an end
        return {**shown, **{f'metrics["{name}"]': figure for name, figure in metrics}}

    def _draw_html(self) -> str:
        from finch_hub.display.notebook_drawings import draw_curve

        try:
            curve = self.curve
        except errors.FinchError:  # the table is shown without the database
            return ""
        return "" if curve is None else draw_curve(curve)

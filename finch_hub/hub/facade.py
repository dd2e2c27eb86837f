"""`Hub`: what users do with Finch Hub, a method each. Submitting returns at once and loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from finch_hub import errors, settings
from finch_hub.specs.events import Event
from finch_hub.specs.jobs import (
    BaseModelSource,
    ExportSpec,
    JobSpec,
    MergeSpec,
    QuantizeSpec,
    ReproduceSpec,
    Requirements,
)

if TYPE_CHECKING:
    from finch_hub.engine.inference.generator import GeneratorModel
    from finch_hub.hub.adapters import Adapters
    from finch_hub.hub.bases import Bases
    from finch_hub.hub.datasets import Datasets
    from finch_hub.hub.examples import Data, Stored
    from finch_hub.hub.jobs import JobHandle, Jobs
    from finch_hub.hub.workers import Workers
    from finch_hub.plugins.catalog import Catalog
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.specs.reports import ConflictReport
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.messaging.dispatcher import Dispatcher


class Hub:
    """The registry, the queue and the artefacts that the settings name; usable as a context manager.

    Nothing is opened before it is needed. With nothing configured everything lives in ``FINCH_HOME``, the database is
    upgraded on first use, and a worker is started when a job is submitted.

    Args:
        settings: None takes them from ``FINCH_*`` and ``finch.toml``.

    """

    def __init__(self, settings: settings.Settings | None = None) -> None:
        self._given = settings

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that were opened."""
        if "_dispatcher" in self.__dict__:
            self._dispatcher.close()
        if "_stores" in self.__dict__:
            self._stores.database.close()

    @cached_property
    def settings(self) -> settings.Settings:
        """The settings in force."""
        return self._given if self._given is not None else settings.load()

    @cached_property
    def _stores(self) -> Stores:
        from finch_hub.storage.stores import open_stores

        return open_stores(self.settings)

    @cached_property
    def _dispatcher(self) -> Dispatcher:
        from finch_hub.workers.messaging.dispatcher import Dispatcher

        return Dispatcher(self.settings, self._stores.database)

    @cached_property
    def adapters(self) -> Adapters:
        """The adapters: list, look up, tag, alias, import."""
        from finch_hub.hub.adapters import Adapters

        return Adapters(self._stores, self.bases)

    @cached_property
    def bases(self) -> Bases:
        """The base models: add, list."""
        from finch_hub.hub.bases import Bases

        return Bases(self._stores)

    @cached_property
    def datasets(self) -> Datasets:
        """The stored data sets: add, list, purge."""
        from finch_hub.hub.datasets import Datasets

        return Datasets(self._stores)

    @cached_property
    def jobs(self) -> Jobs:
        """The jobs: list, look up, prune."""
        from finch_hub.hub.jobs import Jobs

        return Jobs(self._stores, self._dispatcher)

    @cached_property
    def workers(self) -> Workers:
        """The workers: list, drain, stop."""
        from finch_hub.hub.workers import Workers

        return Workers(self._stores)

    @property
    def catalog(self) -> Catalog:
        """What the built-ins and the installed plugins offer."""
        return self._stores.catalog

    def train(
        self,
        data: Data,
        *,
        adapter: str,
        base: str | Path,
        revision: str | None = None,
        preset: str | None = None,
        validation: Data | float | None = None,
        system: str | None = None,
        format: str | None = None,  # noqa: A002
        requirements: Requirements | None = None,
        priority: int = 0,
        depends_on: Sequence[str] = (),
        idempotency_key: str | None = None,
        **overrides: Any,
    ) -> JobHandle:
        """Submit the training of one adapter; its result is a new version of `adapter`.

        Args:
            data: a file or folder, the name of a stored data set, or (prompt, completion) pairs, mappings or examples.
            adapter: its name; it need not exist.
            base: a registered base, a folder, a GGUF file, or a Hugging Face id.
            revision: of a Hugging Face id.
            preset: name of a preset plugin: system prompt, shape and training.
            validation: held-out data of the same kinds, or the share of `data` to hold out; None takes the validation
                split of a folder that has one, and else leaves that to the preset.
            system: system prompt of the examples that have none; wins over the preset's.
            format: of the rows; None recognizes each by its fields.
            requirements: what the job needs of its slot; memory is estimated where none is asked for and the base is
                at hand.
            priority: jobs of higher priority are taken first.
            depends_on: ids of jobs that must succeed first.
            idempotency_key: submitting again with the same key returns the first job.
            overrides: fields of `LoRAConfig` and `TrainingConfig`; they win over the preset's.

        Raises:
            InvalidInput: with everything that is wrong with the request; nothing is stored then.
            NotFound: a name that was given does not exist.

        """
        from finch_hub.hub import training

        spec, stored, needed = training.prepare(
            data,
            adapter=adapter,
            base=base,
            revision=revision,
            preset=preset,
            validation=validation,
            system=system,
            format_name=format,
            overrides=overrides,
            requirements=requirements or Requirements(),
            stores=self._stores,
            bases=self.bases,
        )
        return self._submit(
            spec,
            stored,
            requirements=needed,
            priority=priority,
            depends_on=depends_on,
            idempotency_key=idempotency_key,
        )

    def compose(
        self,
        adapters: Sequence[str],
        *,
        adapter: str,
        weights: Sequence[float] | None = None,
        requirements: Requirements | None = None,
        priority: int = 0,
        depends_on: Sequence[str] = (),
        idempotency_key: str | None = None,
        **options: Any,
    ) -> JobHandle:
        """Submit the composition of adapters of one base into one; its result is a new version of `adapter`.

        Args:
            adapters: references of the parents.
            adapter: name of the result.
            weights: of the parents; None counts each once.
            requirements: what the job needs of its slot.
            priority: jobs of higher priority are taken first.
            depends_on: ids of jobs that must succeed first; their adapters may be named though they don't exist yet.
            idempotency_key: submitting again with the same key returns the first job.
            options: further fields of `ComposeSpec`: strategy, parameters, resolver, scale, rank, min_retention …

        Raises:
            InvalidInput: with everything that is wrong with the request.
            NotFound: a name that was given does not exist.

        """
        from finch_hub.hub import composing

        spec = composing.prepare(
            adapters,
            adapter=adapter,
            weights=weights,
            depends_on=depends_on,
            stores=self._stores,
            options=options,
        )
        return self._submit(
            spec,
            requirements=requirements,
            priority=priority,
            depends_on=depends_on,
            idempotency_key=idempotency_key,
        )

    def plan(self, adapters: Sequence[str], *, probe: bool = False) -> ConflictReport:
        """Report the conflicts that composing would meet, without composing; computed in this process, with torch.

        Adapters that cannot be composed at all are no error here: `structural` says why.

        Args:
            adapters: references of the parents.
            probe: load their base as well, measure how they interfere on each other's held-out examples, and forecast
                from that what the strategies would keep.

        Raises:
            NotFound: a name that was given does not exist.

        """
        from finch_hub.hub import composing
        from finch_hub.hub.problems import Findings

        findings = Findings("this plan")
        parents = composing.parents_of(adapters, None, findings)
        versions = composing.find_parents(parents, self._stores, findings)
        findings.settle()

        from finch_hub.engine.bases.loading import load_base
        from finch_hub.engine.composition import planning
        from finch_hub.plugins import trials
        from finch_hub.specs.jobs import ComposeSpec

        base = None
        if probe:
            source = BaseModelSource(source=versions[0].base.source, revision=versions[0].base.revision)
            base = load_base(source, cache=self._stores.bases)
        tried = trials.trials(ComposeSpec(adapter="plan", parents=parents), self.catalog)
        return planning.plan(composing.inputs_of(versions, self._stores), tried, base=base)

    def merge(
        self,
        adapters: Sequence[str],
        out: str | Path,
        *,
        weights: Sequence[float] | None = None,
        replace: bool = False,
    ) -> JobHandle:
        """Submit the merge of adapters into their base; its result is a standalone model folder on the worker's disk.

        Args:
            adapters: references of the adapters.
            out: folder to be made.
            weights: of the adapters; None counts each once.
            replace: replace an earlier merge at `out`.

        Raises:
            InvalidInput: with everything that is wrong with the request.
            NotFound: a name that was given does not exist.

        """
        from finch_hub.hub import composing
        from finch_hub.hub.problems import Findings

        findings = Findings("this merge")
        parents, _ = composing.resolve(adapters, weights, self._stores, findings)
        target = _target(out, findings, replace=replace)
        findings.settle()
        return self._submit(MergeSpec(parents=parents, out=target, replace=replace))

    def quantize(self, adapter: str, **options: Any) -> JobHandle:
        """Submit the quantisation of an adapter; its result is a new version of it.

        Args:
            adapter: reference of the version.
            options: fields of `QuantizeSpec`: scheme, group, tolerance.

        Raises:
            InvalidSpec: options that cannot work.
            NotFound: there is no such adapter.

        """
        return self._submit(QuantizeSpec(adapter=self.adapters.get(adapter).reference, **options))

    def reproduce(self, adapter: str) -> JobHandle:
        """Submit doing again what made a version; its result is a `ReproductionReport`: the same bytes, or where not.

        A training, composition or quantisation is done as the version's lineage says: the same specification, data,
        base and seed, as many threads, the same number format and micro-batches. No version is made.

        Args:
            adapter: reference of the version.

        Raises:
            Incompatible: the version was imported, so that nothing says how it was made.
            Conflict: the text of its data was purged.
            NotFound: there is no such adapter.

        """
        version = self.adapters.get(adapter)
        if version.kind == "import":
            what = "was imported: its lineage does not say how it was made"
            raise errors.Incompatible(errors.Problem(where=version.reference, what=what))
        for digest in (version.lineage.train_digest, version.lineage.validation_digest):
            if version.kind == "train" and digest and self.datasets.get(digest).purged_at is not None:
                raise errors.Conflict(f"{version.reference} cannot be made again: data set {digest[:12]} was purged")
        return self._submit(ReproduceSpec(adapter=version.reference))

    def export(
        self,
        adapter: str,
        out: str | Path,
        *,
        format: str = "peft",  # noqa: A002
        parameters: dict[str, Any] | None = None,
    ) -> JobHandle:
        """Submit the export of an adapter in another system's format, to a folder on the worker's disk.

        Raises:
            InvalidInput: parameters that the format's schema refuses; `out` exists and may not be replaced.
            NotFound: there is no such adapter or format.

        """
        from finch_hub.hub.problems import Findings

        findings = Findings("this export")
        reference = adapter
        with findings.gather():
            reference = self.adapters.get(adapter).reference
        with findings.gather():
            self.catalog.export_formats[format].parse(parameters or {})
        target = _target(out, findings, replace=bool((parameters or {}).get("replace")))
        findings.settle()
        return self._submit(ExportSpec(adapter=reference, format=format, out=target, parameters=parameters or {}))

    def evaluate(
        self,
        data: Data,
        adapters: Sequence[str] = (),
        *,
        base: str | Path | None = None,
        evaluator: str = "held_out_loss",
        parameters: dict[str, Any] | None = None,
        system: str | None = None,
        format: str | None = None,  # noqa: A002
    ) -> JobHandle:
        """Submit the measurement of a base and adapters of it on a data set; its result is an `EvaluationReport`.

        Args:
            data: as for `train`.
            adapters: references; none measures the base alone.
            base: None takes that of the adapters.
            evaluator: name of an evaluator plugin.
            parameters: of the evaluator.
            system: system prompt of the examples that have none; None takes for each adapter the one that it was
                trained with, and for the base the one that all of them have in common, if any.
            format: of the rows.

        Raises:
            InvalidInput: with everything that is wrong with the request.
            NotFound: a name that was given does not exist.

        """
        from finch_hub.hub import evaluating

        spec, stored = evaluating.prepare(
            data,
            adapters,
            base=base,
            evaluator=evaluator,
            parameters=parameters or {},
            system=system,
            format_name=format,
            stores=self._stores,
            bases=self.bases,
        )
        return self._submit(spec, [stored])

    def import_adapter(self, source: str | Path, *, name: str, base: str) -> AdapterVersion:
        """Let an adapter from outside in, through the gate; see `Adapters.import_`."""
        return self.adapters.import_(source, name=name, base=base)

    def generator(
        self, base: str | Path | None = None, adapters: Sequence[str] = (), *, device: str = "auto"
    ) -> GeneratorModel:
        """Load a base with adapters that can be switched by the references given here; computed in this process.

        An adapter is asked with the system prompt that it was trained with, where none is given.

        Args:
            base: None takes that of the adapters.
            adapters: references; none is active at first.
            device: "auto", "cpu", "cuda" …

        Raises:
            InvalidInput: adapters of different bases; neither a base nor an adapter.
            NotFound: a name that was given does not exist.

        """
        from finch_hub.hub import evaluating
        from finch_hub.hub.problems import Findings

        findings = Findings("this generator")
        source, versions = evaluating.find(base, adapters, findings, stores=self._stores, bases=self.bases)
        findings.settle()

        from finch_hub.engine.bases.loading import load_base
        from finch_hub.engine.inference.generator import GeneratorModel

        model = GeneratorModel(load_base(source, device=device, cache=self._stores.bases))
        for reference, version in zip(adapters, versions, strict=True):
            folder = self._stores.artifacts.fetch_tree(version.digest)
            model.load_lora(folder, name=reference, system=version.spec.get("system"))
        model.switch(None)
        return model

    def events(self, job_id: str, *, after: int = 0, follow: bool = False) -> Iterator[Event]:
        """Yield a job's events with numbers over `after`; with `follow` also those to come until it has ended.

        Raises:
            NotFound: there is no such job.

        """
        return self.jobs.get(job_id).events(after=after, follow=follow)

    def _submit(
        self,
        spec: JobSpec,
        stored: Sequence[Stored] = (),
        *,
        requirements: Requirements | None = None,
        priority: int = 0,
        depends_on: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> JobHandle:
        from finch_hub.hub import examples as data_module
        from finch_hub.hub.jobs import JobHandle
        from finch_hub.registry import jobs

        dispatcher = self._dispatcher  # which refuses settings that cannot be used, before anything is stored
        with self._stores.database.write() as session:
            for each in stored:
                data_module.register(session, each)
            job = jobs.submit(
                session,
                spec,
                requirements=requirements or Requirements(),
                priority=priority,
                depends_on=depends_on,
                idempotency_key=idempotency_key,
            )
        dispatcher.dispatch(job)
        return JobHandle(job, self._stores, dispatcher)


def _target(out: str | Path, findings: Any, *, replace: bool) -> str:
    """Return the absolute path, since a worker's folder is another one; it must be free, or to be replaced."""
    path = Path(out).expanduser().absolute()
    if path.exists() and not replace:
        fix = "name another folder, or ask to replace what was written there (replace, --replace)"
        findings.add(errors.Problem(where=str(path), what="exists already", fix=fix))
    return str(path)

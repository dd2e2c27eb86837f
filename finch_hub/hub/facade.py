"""`Hub`: one method for each thing that users do. Submitting a job returns at once and loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from finch_hub import errors, settings
from finch_hub.hub.training_request import SweepRequest, TrainRequest, list_source, split_request
from finch_hub.progress import begin_showing, stop_showing
from finch_hub.specs.events import Event
from finch_hub.specs.jobs import ComposeOptions, JobSpec, QuantizeOptions, QuantizeSpec, Requirements
from finch_hub.specs.reading import ReadingOptions

if TYPE_CHECKING:
    from finch_hub.engine.inference.generator import GeneratorModel
    from finch_hub.hub.adapters import Adapters
    from finch_hub.hub.audit import Audit
    from finch_hub.hub.bases import Bases
    from finch_hub.hub.datasets import Datasets
    from finch_hub.hub.examples import DataSource, Progress, StoredExamples
    from finch_hub.hub.jobs import JobHandle, Jobs
    from finch_hub.hub.repositories import Repositories
    from finch_hub.hub.sweeping import SweepHandle
    from finch_hub.hub.workers import Workers
    from finch_hub.plugins.catalog import Catalog
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.specs.backups import BackupReport, RestoreReport
    from finch_hub.specs.bundles import BundleReport, UnbundleReport
    from finch_hub.specs.collections import CollectionReport
    from finch_hub.specs.inspections import InspectionReport
    from finch_hub.specs.previews import TrainingPreview
    from finch_hub.specs.reports import (
        CompositionReport,
        ConflictReport,
        EvaluationReport,
        ExportReport,
        MergeReport,
        QuantizationReport,
        ReproductionReport,
        TrainingReport,
    )
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.messaging.dispatcher import Dispatcher

_MAX_DAYS = 36_500.0


class Hub:
    """Registry, queue and artifacts of one installation; usable as a context manager.

    Nothing is opened before it is needed. Without configuration everything is in ``FINCH_HOME``. The database is then
    upgraded on first use, and a worker is started when a job is submitted.

    Args:
        settings: settings of the hub; None reads ``FINCH_*`` and ``finch.toml``.
        progress: whether to show the progress of jobs that are waited for, and of trainings with a model of
            `generator`. None shows it on a terminal and in a notebook. The progress of everything else that this
            process does, also in calls of other hubs, is shown as the newest hub that is open says.
    """

    def __init__(self, settings: settings.Settings | None = None, *, progress: bool | None = None) -> None:
        self._given, self._shows = settings, progress
        begin_showing(self, progress)

    def __repr__(self) -> str:
        known = self._given if self._given is not None else self.__dict__.get("settings")
        return "Hub()" if known is None else f"Hub({str(known.home)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that were opened, and leave it to other hubs what this process shows."""
        stop_showing(self)
        if "_dispatcher" in self.__dict__:
            self._dispatcher.close()
        if "_stores" in self.__dict__:
            self._stores.database.close()

    @cached_property
    def settings(self) -> settings.Settings:
        """The current settings."""
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
        """The adapters: list, get, tag, alias, import."""
        from finch_hub.hub.adapters import Adapters

        return Adapters(self._stores)

    @cached_property
    def audit(self) -> Audit:
        """The audit: who changed what, and what was refused."""
        from finch_hub.hub.audit import Audit

        return Audit(self._stores)

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
        """The jobs: list, get, prune."""
        from finch_hub.hub.jobs import Jobs

        return Jobs(self._stores, self._dispatcher, shows=self._shows)

    @cached_property
    def repositories(self) -> Repositories:
        """The repositories of the Hugging Face Hub: push, pull."""
        from finch_hub.hub.repositories import Repositories

        return Repositories(self._stores)

    @cached_property
    def workers(self) -> Workers:
        """The workers: list, drain, stop."""
        from finch_hub.hub.workers import Workers

        return Workers(self._stores)

    @property
    def catalog(self) -> Catalog:
        """Everything that the built-in and installed plugins offer."""
        return self._stores.catalog

    @list_source
    def train(
        self,
        data: DataSource,
        *,
        adapter: str,
        priority: int = 0,
        depends_on: Sequence[str] = (),
        idempotency_key: str | None = None,
        **request: Unpack[TrainRequest],
    ) -> JobHandle[AdapterVersion, TrainingReport]:
        """Submit the training of one adapter. Its result is a new version of `adapter`.

        Args:
            data: a file or folder, "-" for standard input, the name of a stored data set, or rows: (prompt, completion)
                pairs, mappings, examples, an iterator or a table of them.
            adapter: name of the adapter, which need not exist.
            base: a registered base, a folder, a GGUF file, a Hugging Face id, or a plugin's source; None takes that of
                `start`.
            revision: revision of a Hugging Face id.
            start: version of an adapter to train further. The new version has its shape. None makes a new adapter.
            preset: name of a preset plugin, which gives system prompt, shape and training.
            validation: validation data in the same forms, or the share of `data` to hold out. None takes the validation
                split of a folder that has one, otherwise the preset's share.
            system: system prompt of the examples that have none; overrides the preset's.
            requirements: requirements for the slot that runs the job. If they ask for no memory and the base is on this
                machine, memory is estimated.
            priority: priority of the job; higher ones start first.
            depends_on: ids of jobs that must succeed first.
            idempotency_key: key under which a second submission returns the first job.
            progress: called with the number of rows that were read, every few thousand rows.
            request: fields of `LoRAConfig` and `TrainingConfig`, which override the preset's, and of `ReadingConfig`,
                which say how rows are read.

        Raises:
            InvalidInput: with everything that is wrong with the request; nothing is stored then.
            NotFound: one thing is missing, and nothing else is wrong.
        """
        from finch_hub.hub import training

        self._refuse_beyond_limit(idempotency_key)
        source, overrides = split_request(request)
        [(spec, stored, needed)] = training.check_trainings(
            data, adapter=adapter, points=[overrides], stores=self._stores, **source
        )
        return self._submit(
            spec, stored, requirements=needed, priority=priority, depends_on=depends_on, idempotency_key=idempotency_key
        )

    @list_source
    def sweep(
        self,
        data: DataSource,
        *,
        adapter: str,
        together: bool = True,
        priority: int = 0,
        **request: Unpack[SweepRequest],
    ) -> SweepHandle:
        """Submit a training for each combination of settings. Each makes a version of `adapter`.

        A list holds the values of a setting to try: ``rank=[8, 16], learning_rate=[1e-4, 3e-4]`` are four trainings.
        All learn from the same rows, and are measured on the same held-out rows. The same request a second time goes on
        with the first one: it submits only what failed or was cancelled.

        Args:
            together: whether trainings that can run in one step with others do so, which is faster on a CPU. Their
                bytes are then those of a training alone only up to rounding.
            request: fields of `LoRAConfig` and `TrainingConfig`, each with a value or a list of values, and of
                `ReadingConfig`.

        The other arguments are those of `train`, which alone takes `depends_on` and `idempotency_key`.

        Raises:
            InvalidInput: with everything that is wrong with the request, such as no setting with several values, more
                than 100 combinations, or no held-out rows. Nothing is stored then.
            NotFound: one thing is missing, and nothing else is wrong.
            Conflict: the owner would have too many unfinished jobs.
        """
        from finch_hub.hub import submission, sweeping, training
        from finch_hub.registry.values import NewJob

        source, settings = split_request(request)
        checked = training.check_trainings(
            data,
            adapter=adapter,
            points=sweeping.list_points(settings),
            stores=self._stores,
            together_if_possible=together,
            needs_held_out=True,
            **source,
        )
        submission.check_secrets(checked[0].spec, self._stores, stacklevel=2)
        dispatcher = self._dispatcher
        sweep_id = sweeping.make_id([point.spec for point in checked], self.settings.owner_name)
        new = [
            NewJob.of_spec(
                point.spec,
                requirements=point.requirements,
                owner=self.settings.owner_name,
                priority=priority,
                idempotency_key=sweeping.make_key(sweep_id, number),
            )
            for number, point in enumerate(checked, 1)
        ]
        submitted = submission.submit(new, checked[0].examples, stores=self._stores, dispatcher=dispatcher)
        handle = sweeping.SweepHandle(
            sweep_id, dict(enumerate(submitted, 1)), self._stores, dispatcher, shows=self._shows
        )
        handle.resume()
        return handle

    def get_sweep(self, sweep_id: str) -> SweepHandle:
        """Return the sweep with this id.

        Raises:
            NotFound: there is none, or all its jobs were deleted.
        """
        from finch_hub.hub.sweeping import find_sweep

        return find_sweep(sweep_id, self._stores, self._dispatcher, shows=self._shows)

    @list_source
    def preview_training(
        self,
        data: DataSource,
        *,
        adapter: str,
        limit: int = 3,
        priority: int = 0,
        depends_on: Sequence[str] = (),
        idempotency_key: str | None = None,
        **request: Unpack[TrainRequest],
    ) -> TrainingPreview:
        """Return what `train` would do with these arguments: the data as the base sees it, time and memory.

        Nothing is stored, and no model is loaded.

        Args:
            limit: largest number of rows in the preview.

        The other arguments are those of `train`. `priority`, `depends_on` and `idempotency_key` change no preview.

        Raises:
            InvalidInput: with everything that is wrong with the request, as `train` raises it.
            NotFound: one thing is missing, and nothing else is wrong.
            Unavailable: the files of the base are not on this machine.
        """
        from finch_hub.hub import previewing

        source, overrides = split_request(request)
        return previewing.preview_training(
            data, adapter=adapter, points=[overrides], limit=limit, stores=self._stores, **source
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
        **options: Unpack[ComposeOptions],
    ) -> JobHandle[AdapterVersion, CompositionReport]:
        """Submit the composition of adapters of one base. Its result is a new version of `adapter`.

        Args:
            adapters: references of the adapters to compose.
            adapter: name of the result.
            weights: weights of the adapters; None gives each the weight 1.
            requirements: requirements for the slot that runs the job.
            priority: priority of the job; higher ones start first.
            depends_on: ids of jobs that must succeed first. Adapters that they make need not exist yet.
            idempotency_key: key under which a second submission returns the first job.
            options: further fields of `ComposeSpec`.

        Raises:
            InvalidInput: with everything that is wrong with the request.
            NotFound: one thing is missing, and nothing else is wrong.
        """
        from finch_hub.hub import composing

        spec = composing.check_composition(
            adapters, adapter=adapter, weights=weights, depends_on=depends_on, stores=self._stores, options=options
        )
        return self._submit(
            spec, requirements=requirements, priority=priority, depends_on=depends_on, idempotency_key=idempotency_key
        )

    def plan(self, adapters: Sequence[str], *, probe: bool = False) -> ConflictReport:
        """Report the conflicts of adapters without composing them. It is computed in this process, with torch.

        Adapters that cannot be composed raise no error: the report's `structural` gives the reasons.

        Args:
            probe: whether to load their base, measure interference on held-out examples and forecast what each strategy
                would keep.

        Raises:
            NotFound: an adapter does not exist.
        """
        from finch_hub.hub import composing

        return composing.plan_composition(adapters, probe=probe, stores=self._stores)

    def merge(
        self, adapters: Sequence[str], out: str | Path, *, weights: Sequence[float] | None = None, replace: bool = False
    ) -> JobHandle[MergeReport, MergeReport]:
        """Submit the merge of adapters into their base. Its result is a model folder.

        A worker of this machine writes the folder itself. Otherwise `JobHandle.result` or `JobHandle.save` fetch it.

        Args:
            out: path of the new folder, on this machine.
            weights: weights of the adapters; None gives each the weight 1.
            replace: whether to replace an earlier merge at `out`.

        Raises:
            InvalidInput: with everything that is wrong with the request.
            NotFound: one thing is missing, and nothing else is wrong.
            Conflict: the path exists and may not be replaced, and nothing else is wrong.
        """
        from finch_hub.hub import exporting

        return self._submit(exporting.check_merge(adapters, out, weights=weights, replace=replace, stores=self._stores))

    def quantize(
        self, adapter: str, **options: Unpack[QuantizeOptions]
    ) -> JobHandle[AdapterVersion, QuantizationReport]:
        """Submit the quantization of the version that `adapter` refers to. Its result is a new version.

        Raises:
            InvalidSpec: with every option that cannot work.
            NotFound: there is no such adapter.
            Conflict: the version is unchecked.
        """
        return self._submit(QuantizeSpec(adapter=self.adapters.get_usable(adapter).reference, **options))

    def reproduce(self, adapter: str) -> JobHandle[ReproductionReport, ReproductionReport]:
        """Submit the reproduction of a version. Its result is a `ReproductionReport`, and no version is made.

        The training, composition or quantization is repeated with the specification, data, base, seed, threads, number
        format and micro-batches of the version's lineage. The report tells whether the bytes are the same.

        Raises:
            Incompatible: the version was imported.
            Conflict: its data or its parents were deleted or purged; the text has all reasons.
            NotFound: there is no such adapter.
        """
        from finch_hub.hub import reproducing

        spec, read = reproducing.check_reproduction(adapter, stores=self._stores)
        return self._submit(spec, datasets=read)

    def export(
        self,
        adapter: str,
        out: str | Path,
        *,
        format: str = "peft",  # noqa: A002
        parameters: Mapping[str, object] | None = None,
        replace: bool = False,
    ) -> JobHandle[ExportReport, ExportReport]:
        """Submit the export of an adapter to another system's format, in a new folder.

        A worker of this machine writes the folder itself. Otherwise `JobHandle.result` or `JobHandle.save` fetch it.

        Args:
            adapter: reference of the version.
            out: path of the new folder, on this machine.
            format: name of an export format plugin.
            replace: whether to replace an earlier export of the format at `out`.

        Raises:
            InvalidInput: with everything that is wrong with the request.
            NotFound: one thing is missing, and nothing else is wrong.
            Conflict: the path exists and may not be replaced, and nothing else is wrong.
        """
        from finch_hub.hub import exporting

        settings = {**(parameters or {}), **({"replace": True} if replace else {})}
        spec = exporting.check_export(adapter, out, format_name=format, parameters=settings, stores=self._stores)
        return self._submit(spec)

    def evaluate(
        self,
        data: DataSource,
        adapters: Sequence[str] = (),
        *,
        base: str | Path | None = None,
        revision: str | None = None,
        evaluator: str = "held_out_loss",
        parameters: Mapping[str, object] | None = None,
        system: str | None = None,
        progress: Progress | None = None,
        **options: Unpack[ReadingOptions],
    ) -> JobHandle[EvaluationReport, EvaluationReport]:
        """Submit the evaluation of a base and its adapters on a data set. Its result is an `EvaluationReport`.

        Args:
            data: data in the forms that `train` takes.
            adapters: references of the adapters; without any, the base alone is evaluated.
            base: base in the forms that `train` takes; None takes the base of the adapters.
            revision: revision of a Hugging Face model.
            evaluator: name of an evaluator plugin.
            system: system prompt of the examples that have none. None takes the prompt that each adapter was trained
                with, and for the base the prompt that all adapters share.
            progress: called with the number of rows that were read, every few thousand rows.
            options: fields of `ReadingConfig`, which say how rows are read.

        Raises:
            InvalidInput: with everything that is wrong with the request.
            NotFound: one thing is missing, and nothing else is wrong.
        """
        from finch_hub.hub import evaluating

        self._refuse_beyond_limit()
        spec, examples = evaluating.check_evaluation(
            data,
            adapters,
            base=base,
            revision=revision,
            evaluator=evaluator,
            parameters=parameters or {},
            system=system,
            options=options,
            progress=progress,
            stores=self._stores,
        )
        return self._submit(spec, [examples])

    def import_adapter(self, source: str | Path, *, name: str, base: str) -> AdapterVersion:
        """Import an adapter after checking its files; see `Adapters.import_`."""
        return self.adapters.import_(source, name=name, base=base)

    def generator(
        self,
        base: str | Path | None = None,
        adapters: Sequence[str] = (),
        *,
        device: str = "auto",
        progress: Callable[[str], None] = lambda text: None,
    ) -> GeneratorModel:
        """Load a base with adapters that can be switched by their references. It runs in this process.

        Without a system prompt, an adapter answers with the one that it was trained with.

        Args:
            base: base in the forms that `train` takes; None takes the base of the adapters.
            adapters: references of the adapters; at first none is active.
            device: "auto", "cpu", "cuda" …
            progress: called with a few words before each slow step.

        Raises:
            InvalidInput: with everything that is wrong with the request.
            NotFound: one thing is missing, and nothing else is wrong.
        """
        from finch_hub.hub import generating

        model = generating.load_generator(base, adapters, device=device, progress=progress, stores=self._stores)
        model.shows_progress = self._shows
        return model

    def back_up(self, folder: str | Path, *, replace: bool = False) -> BackupReport:
        """Write a backup of the registry and of all artifacts that it refers to to a new folder, while the hub runs.

        It has the rows of one moment and everything that they refer to, but no base models.

        Args:
            replace: whether to replace an earlier backup. One that lacks artifacts replaces none.

        Raises:
            InvalidSpec: no folder is named, the folder is protected, or this user cannot write there.
            Conflict: the path exists and may not be replaced.
            Unavailable: database or store do not answer, or the path cannot be written.
        """
        from finch_hub.formats.output_paths import find_output
        from finch_hub.storage.backup import take_backup

        return take_backup(find_output(folder), self._stores, replace=replace)

    def restore(self, folder: str | Path) -> RestoreReport:
        """Fill this hub, which must have nothing yet, with a backup of a hub on either database.

        Everything in the folder is checked before anything is written. After an interruption, call it again.

        Raises:
            InvalidSpec: no folder is named.
            NotFound: there is no such folder.
            RefusedArtifact: the folder is not a backup, is damaged, or has what no backup has.
            Incompatible: a newer version of Finch Hub took the backup.
            Conflict: this hub has rows or living workers.
            Unavailable: database or store do not answer, are full, or the store is another deployment's.
        """
        from finch_hub.formats.output_paths import refuse_unnamed
        from finch_hub.storage.backup_folder import BackupFolder
        from finch_hub.storage.changes import Change
        from finch_hub.storage.restoration import restore_backup

        refuse_unnamed(folder)
        backup = BackupFolder(settings.expand_home(folder))  # a folder that is none makes no home
        change = Change(self._stores, "hub.restore", str(folder), {})  # a refused one writes nothing at all
        return restore_backup(backup, change, self._stores)

    def bundle(
        self, out: str | Path, references: Sequence[str], *, lineage: bool = True, samples: bool = False
    ) -> BundleReport:
        """Write versions with their lineage, evaluations and files to a new file, for other hubs.

        Equal versions give equal bytes, if the hubs know their base by the same id. Data sets are in it by their hashes
        only.

        Args:
            out: path of the new file.
            references: versions (`name/3`, `name@alias`), or names of adapters for all of their versions.
            lineage: whether the files of ancestors come along. Without, the other hub only learns that there were such
                versions.
            samples: whether the sample answers of versions with files come along. They quote rows of the data.

        Raises:
            InvalidSpec: no file or no version is named, or this user cannot write there.
            NotFound: there is no such adapter, version or alias.
            Conflict: the path exists.
            Unavailable: database or store do not answer, or the path cannot be written.
        """
        from finch_hub.formats.output_paths import find_output
        from finch_hub.storage.bundling import make_bundle

        if not references:
            raise errors.InvalidSpec("no adapter is named", where="references", fix="name an adapter or a version")
        return make_bundle(find_output(out), references, self._stores, lineage=lineage, samples=samples)

    def unbundle(self, file: str | Path, *, dry_run: bool = False) -> UnbundleReport:
        """Add the versions of a bundle that this hub lacks, and what it lacks of those that it has.

        A version that is here is not added again, whatever its name and number. Another one keeps its number if that
        is free, otherwise it gets the next one. Each passes the gate, as an import does.

        Args:
            dry_run: whether only to check the bundle and to report where its versions would be.

        Raises:
            NotFound: there is no such file.
            RefusedArtifact: with everything that is wrong with the bundle. Nothing of it is stored.
            Incompatible: a version does not fit its base, or a newer Finch Hub made the bundle.
            Unavailable: database or store do not answer, or are full.
        """
        from finch_hub.hub.importing import read_layout
        from finch_hub.storage.changes import changing
        from finch_hub.storage.unbundling import take_bundle

        read, path = partial(read_layout, stores=self._stores), settings.expand_home(file)
        if dry_run:
            return take_bundle(path, self._stores, None, read_layout=read)
        with changing(self._stores, "hub.unbundle", path) as change:
            return take_bundle(path, self._stores, change, read_layout=read)

    def collect(self, *, unused_days: float | None = None, dry_run: bool = False) -> CollectionReport:
        """Remove what nobody refers to, in the artifact store and in the home of this machine.

        Workers do so once a day. Running jobs, submissions and other collections are not disturbed.

        Args:
            unused_days: age in days from which on unused things are removed; None takes that of the settings. With 0, a
                submission of this moment may have to be tried again.
            dry_run: whether to remove nothing, and only report what would be removed.

        Raises:
            InvalidSpec: the age is not a number of days.
            Conflict: the files of a version are missing or damaged, so that it is unknown what it refers to.
            Unavailable: the database or the store does not answer, or a purge that was interrupted could not be
                finished. Everything else was removed then.
        """
        from finch_hub.storage.collection import collect

        if unused_days is not None and not 0 <= unused_days < _MAX_DAYS:
            raise errors.InvalidSpec("is not an age in days", where="unused_days", fix="give 0 or more days")
        return collect(self._stores, unused_days=unused_days, dry_run=dry_run)

    def fsck(self) -> InspectionReport:
        """Read every stored byte and every row, and report what is damaged, and what nobody refers to.

        It changes nothing, and the hub may run meanwhile.

        Raises:
            Unavailable: the database or the store does not answer.
        """
        from finch_hub.registry.database import is_damage
        from finch_hub.storage.inspection import inspect_artifacts, inspect_hub
        from finch_hub.workers.runs.kinds import explain_unreadable

        try:
            stores = self._stores
        except errors.Unavailable as error:
            if not is_damage(error):
                raise
            return inspect_artifacts(self.settings, error)
        return inspect_hub(stores, explain_spec=explain_unreadable)

    def events(self, job_id: str, *, after: int = 0, follow: bool = False) -> Iterator[Event]:
        """Yield a job's events with numbers over `after`. With `follow`, continue until the job has ended.

        Raises:
            NotFound: there is no such job.
        """
        return self.jobs.get(job_id).events(after=after, follow=follow)

    def _refuse_beyond_limit(self, idempotency_key: str | None = None) -> None:
        """Refuse a submission before its data is read and stored. The submission itself checks again."""
        from finch_hub.registry import owner_limits

        limit = self.settings.owner_unfinished
        if limit is None or idempotency_key is not None:  # the key may return an earlier job
            return
        with self._stores.database.read() as session:
            owner_limits.refuse_beyond(session, {self.settings.owner_name}, limit, num_more=1)

    def _submit(
        self,
        spec: JobSpec,
        examples: Sequence[StoredExamples] = (),
        *,
        requirements: Requirements | None = None,
        **fields: Any,
    ) -> JobHandle[Any, Any]:
        from finch_hub.hub import submission
        from finch_hub.hub.jobs import JobHandle
        from finch_hub.registry.values import NewJob

        submission.check_secrets(spec, self._stores, stacklevel=3)
        dispatcher = self._dispatcher  # refuses unusable settings before anything is stored
        new = NewJob.of_spec(
            spec, requirements=requirements or Requirements(), owner=self.settings.owner_name, **fields
        )
        (job,) = submission.submit([new], examples, stores=self._stores, dispatcher=dispatcher)
        return JobHandle(job, self._stores, dispatcher, shows=self._shows)

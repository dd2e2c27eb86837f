"""Bundles from one hub to another, on both databases."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import full_hub, fuzzing, registry
from support.backups import Open, restore
from support.safetensors_files import adapter_folder, factors
from support.services import Databases

from finch_hub import errors
from finch_hub.artifacts import bundle_manifest
from finch_hub.artifacts.bundle_file import unpack_bundle
from finch_hub.artifacts.gate import adapter_identity
from finch_hub.artifacts.store import blob_path
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.registry import (
    adapter_deletion,
    adapter_names,
    adapter_versions,
    artifact_lock,
    audit,
    bundled_versions,
    datasets,
    evaluations,
    evidence,
    lineage,
    tables,
    text_removal,
    unbundled_versions,
    values,
)
from finch_hub.registry.bundled_versions import BundledRows
from finch_hub.registry.types import now
from finch_hub.specs.bundles import MAX_FORMER_NAMES, BundledAdapter, Manifest, UnbundleReport
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.jobs import BaseModelSource, TrainSpec
from finch_hub.storage import bundling, publishing, unbundling
from finch_hub.storage.backup import take_backup
from finch_hub.storage.bundling import make_bundle
from finch_hub.storage.changes import changing
from finch_hub.storage.collection import collect
from finch_hub.storage.inspection import inspect_hub
from finch_hub.storage.samples import read_samples_of
from finch_hub.storage.stores import Stores
from finch_hub.storage.unbundling import ReadLayout, take_bundle

SPEC = TrainSpec(
    adapter="made", base=BaseModelSource(source="tiny"), train=registry.digest("rows"),
    validation=registry.digest("others"), system="Be kind.",
)  # fmt: skip
NOTHING: ReadLayout = lambda base: None  # noqa: E731


def take(file: Path, stores: Stores, *, read_layout: ReadLayout = NOTHING, dry_run: bool = False) -> UnbundleReport:
    if dry_run:
        return take_bundle(file, stores, None, read_layout=read_layout)
    with changing(stores, "hub.unbundle", file) as change:
        return take_bundle(file, stores, change, read_layout=read_layout)


@pytest.fixture
def hubs(open_hub: Open, tmp_path: Path, database_url: str, request: pytest.FixtureRequest) -> Iterator[list[Stores]]:
    """Three hubs: the first on one of the databases in turn, the others on both."""
    made = Databases(tmp_path, request.getfixturevalue("postgres_url"))
    yield [open_hub("one", database_url), open_hub("two", made.new()), open_hub("three")]
    made.close()


def publish(
    stores: Stores, tmp_path: Path, name: str, *, seed: int = 0, parents: tuple[str, ...] = (), **fields: Any
) -> str:
    """Publish an adapter of its own bytes, and return its reference."""
    folder = tmp_path / "sources" / f"{stores.settings.home.parent.name}-{name.replace('/', '-')}-{seed}"
    if not folder.exists():
        start = int(hashlib.sha256(f"{name} {seed}".encode()).hexdigest()[:8], 16)
        random = np.random.default_rng(start)
        tensors = {key: random.normal(size=value.shape).astype(np.float32) for key, value in factors().items()}
        adapter_folder(folder, tensors)
    base = registry.add_base(stores.database)
    description = publishing.Description(
        name=name, kind=fields.pop("kind", "train"), base=base,
        lineage=values.Lineage(
            parents=tuple(values.ParentVersion(reference=p, weight=0.5) for p in parents), seed=seed,
            train_digest=registry.digest("rows"),
        ),
        spec={**SPEC.model_dump(mode="json"), "base": {"source": "/private/tiny"}, "reading": {"x": "secret row"}},
        metrics={"loss_before": 2.0, "loss_after": 1.0}, owner="ana", **fields,
    )  # fmt: skip
    create = publishing.publish(folder, stores, description, {"threads": 2})
    with stores.database.write() as session:
        return create(session, base).reference


def carry(source: Stores, target: Stores, tmp_path: Path, *references: str, **options: Any) -> UnbundleReport:
    file = tmp_path / f"{len(list(tmp_path.glob('*.bundle')))}.bundle"
    make_bundle(file, references, source, **options)
    return take(file, target)


def graph(stores: Stores, reference: str) -> list[tuple[str, str, float]]:
    """Return the links above a version, with identities in place of references."""
    with stores.database.read() as session:
        found = lineage.read_graph(session, reference)
    identities = {version.reference: version.identity for version in found.versions}
    return sorted((identities[link.version], identities[link.parent], link.weight) for link in found.links)


def rows(stores: Stores) -> dict[str, Any]:
    """Return what unbundling may change."""
    names = ("adapters", "adapter_versions", "lineage", "tags", "aliases", "evaluations", "bases")
    return {name: found for name, found in full_hub.read_all(stores.database).items() if name in names}


def fill(stores: Stores, tmp_path: Path) -> str:
    """Publish two adapters and one that is made from both."""
    parents = (publish(stores, tmp_path, "legal"), publish(stores, tmp_path, "team/tone"))
    measured = Evidence(kind="compose", notes=("measured",))
    made = publish(stores, tmp_path, "both", parents=parents, kind="compose", evidence=measured)
    with stores.database.write() as session:
        version = adapter_versions.resolve(session, made)
        adapter_versions.add_tags(session, made, "gold", "owner=ana")
        adapter_versions.edit_notes(session, made, "Good.")
        adapter_names.describe(session, "both", "Both of them.")
        evaluations.add(
            session, base_id=version.base.id, dataset=registry.digest("rows"), evaluator="held_out_loss",
            metrics={"loss": 1.5}, adapter=made,
        )  # fmt: skip
    registry.set_alias(stores.database, "both", "best", 1)
    return made


def test_versions_come_with_lineage_and_all_that_is_known(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, _ = hubs
    made = fill(one, tmp_path)
    report = carry(one, two, tmp_path, made)
    assert [(v.bundled, v.reference, v.outcome, v.state) for v in report.versions] == [
        ("both/1", "both/1", "added", "unchecked"),
        ("legal/1", "legal/1", "added", "unchecked"),
        ("team/tone/1", "team/tone/1", "added", "unchecked"),
    ]
    assert report.absent_bases == ("tiny",)
    assert report.kept == ("no alias both@best, since both/1 is unchecked",)
    before, after = registry.resolve(one.database, made), registry.resolve(two.database, made)
    same = ("identity", "kind", "metrics", "lineage", "notes", "owner", "tags", "preset")
    assert {name: getattr(after, name) for name in same} == {name: getattr(before, name) for name in same}
    assert sorted(after.card.splitlines()) == sorted(before.card.splitlines()), "written anew"
    assert after.created_at.replace(microsecond=0) == before.created_at.replace(microsecond=0)
    assert (after.base.fingerprint, after.base.path) == (before.base.fingerprint, None)
    assert graph(two, made) == graph(one, made)
    with two.database.read() as session:
        (evaluation,) = evaluations.find(session, adapter=made)
        assert evidence.find(session, made)[0].notes == ("measured",)
        entries = audit.find(session, action="version.create")
        (taken,) = audit.find(session, action="hub.unbundle")
    assert (taken.details, taken.who) == ({"new": 3, "known": 0}, two.settings.user_name)
    assert (evaluation.evaluator, evaluation.metrics) == ("held_out_loss", {"loss": 1.5})
    assert [entry.on for entry in entries] == ["team/tone/1", "legal/1", "both/1"]
    assert after.spec["system"] == "Be kind."
    assert "reading" not in after.spec
    folder = two.artifacts.fetch_tree(after.digest)
    assert adapter_identity(folder) == before.identity


def test_bundle_has_equal_bytes_and_nothing_of_this_machine(hubs: list[Stores], tmp_path: Path) -> None:
    made = fill(hubs[0], tmp_path)
    for name in ("a", "b"):
        make_bundle(tmp_path / name, [made], hubs[0])
    written = (tmp_path / "a").read_bytes()
    assert written == (tmp_path / "b").read_bytes()
    assert b"secret row" not in written
    assert b"/private" not in written
    assert b"/models" not in written
    with pytest.raises(errors.Conflict, match="already exists"):
        make_bundle(tmp_path / "a", [made], hubs[0])
    assert not list(tmp_path.glob(".*.part"))


def test_bundle_names_the_damaged_or_purged_version(
    hubs: list[Stores], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = hubs[0]
    made = fill(stores, tmp_path)
    with stores.database.read() as session:
        parent = adapter_versions.resolve(session, "team/tone/1")
    entry = stores.artifacts.tree(parent.digest)["adapter_model.safetensors"]
    file = Path(stores.settings.artifacts) / blob_path(entry.digest)
    file.chmod(0o644)
    file.write_bytes(b"other bytes")
    with pytest.raises(errors.Damaged, match=r"adapter team/tone/1: adapter_model.safetensors: .*now has the SHA-256"):
        make_bundle(tmp_path / "damaged.bundle", [made], stores)
    file.unlink()
    with pytest.raises(errors.Damaged, match=r"adapter team/tone/1: .*there is no"):
        make_bundle(tmp_path / "damaged.bundle", [made], stores)
    read = bundled_versions.read

    def purge_meanwhile(*args: Any) -> BundledRows:
        rows = read(*args)
        changes = tables.AdapterVersion.__table__
        with stores.database.write() as session:
            is_parent = changes.c.identity == parent.identity
            session.execute(sa.update(changes).where(is_parent).values(deleted_at=now(), purged_at=now()))
        return rows

    monkeypatch.setattr(bundled_versions, "read", purge_meanwhile)
    with pytest.raises(errors.Deleted, match=r"team/tone/1 was purged"):
        make_bundle(tmp_path / "damaged.bundle", [made], stores)
    assert not (tmp_path / "damaged.bundle").exists()


def test_both_ways_and_twice_is_once(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, three = hubs
    made = fill(one, tmp_path)
    first = rows(one)
    carry(one, two, tmp_path, "both", "legal")
    second = rows(two)
    assert {v.outcome for v in carry(one, two, tmp_path, "both").versions} == {"known"}
    assert {v.outcome for v in carry(two, one, tmp_path, made).versions} == {"known"}
    assert {v.outcome for v in carry(two, three, tmp_path, made).versions} == {"added"}
    assert {v.outcome for v in carry(three, one, tmp_path, made).versions} == {"known"}
    assert {v.outcome for v in carry(one, three, tmp_path, made).versions} == {"known"}
    assert rows(one) == first
    assert rows(two) == second


def test_taken_numbers_and_names_are_mapped(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, _ = hubs
    for seed in range(2):
        publish(one, tmp_path, "legal", seed=seed)
    publish(two, tmp_path, "legal", seed=7)
    registry.add_base(two.database, "team", rename=True)
    publish(one, tmp_path, "team")
    report = carry(one, two, tmp_path, "legal", "team")
    assert {v.bundled: v.reference for v in report.mapped} == {"legal/1": "legal/3", "team/1": "team-lora/1"}
    assert registry.resolve(two.database, "legal/2").identity == registry.resolve(one.database, "legal/2").identity
    assert registry.resolve(two.database, "legal/3").identity == registry.resolve(one.database, "legal/1").identity
    with two.database.write() as session:
        adapter_names.rename(session, "legal", "law")
    publish(one, tmp_path, "legal", seed=2)
    report = carry(one, two, tmp_path, "legal")
    assert {v.bundled: v.reference for v in report.versions} == {
        "legal/1": "law/3", "legal/2": "law/2", "legal/3": "law/4",
    }  # fmt: skip
    assert publish(two, tmp_path, "law", seed=8) == "law/5"


def test_what_is_here_wins(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, _ = hubs
    made = fill(one, tmp_path)
    carry(one, two, tmp_path, made)
    with two.database.write() as session:
        for name in ("both/1", "legal/1"):
            adapter_versions.end_check(session, name, "ready")
        adapter_versions.add_tags(session, made, "owner=bo")
        adapter_versions.edit_notes(session, made, "Mine.")
        adapter_names.describe(session, "both", "My own.")
    assert carry(one, two, tmp_path, made).kept == (
        "the description of both",
        "tag owner=bo of both/1 (the bundle has owner=ana)",
        "the notes of both/1",
    )
    assert registry.resolve(two.database, "both@best").number == 1
    registry.delete_version(two.database, "legal", 1)
    report = carry(one, two, tmp_path, made)
    assert [(v.outcome, v.state) for v in report.versions if v.bundled == "legal/1"] == [("known", None)]
    with pytest.raises(errors.NotFound):
        registry.resolve(two.database, "legal/1")


def test_ancestors_without_files_are_completed_later(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, _ = hubs
    made = fill(one, tmp_path)
    report = carry(one, two, tmp_path, made, lineage=False)
    assert {v.bundled: v.outcome for v in report.versions} == {
        "both/1": "added", "legal/1": "in lineage", "team/tone/1": "in lineage",
    }  # fmt: skip
    assert graph(two, made) == graph(one, made)
    with pytest.raises(errors.Deleted, match="legal/1 came with a bundle without its files"):
        registry.resolve(two.database, "legal/1")
    with two.database.read() as session:
        assert adapter_deletion.find(session).deletions == ()
    assert [found for found in inspect_hub(two).findings if found.kind == "damage"] == []
    registry.delete_version(one.database, "team/tone", 1)
    report = carry(one, two, tmp_path, made)
    assert {v.bundled: v.outcome for v in report.versions} == {
        "both/1": "known", "legal/1": "completed", "team/tone/1": "known",
    }  # fmt: skip
    assert registry.resolve(two.database, "legal/1").state == "unchecked"


MEASURED = Evidence(kind="train", notes=("measured",))
SAMPLES = b'{"samples":[{"prompt":"A?","expected":"B.","before":"C.","after":"B.","is_cut":false}],"max_tokens":64}'


def read_samples(stores: Stores, reference: str) -> bytes | None:
    with stores.database.read() as session:
        digest = evidence.find(session, reference)[1]
    return None if digest is None else stores.artifacts.get(digest)


def test_sample_answers_come_only_if_they_are_asked_for(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, three = hubs
    publish(one, tmp_path, "legal", samples=SAMPLES, evidence=MEASURED)
    publish(one, tmp_path, "tone", samples=SAMPLES, evidence=Evidence(kind="train"))
    carry(one, two, tmp_path, "legal", "tone")
    assert read_samples(two, "legal/1") is None
    carry(one, three, tmp_path, "legal", "tone", samples=True)
    assert read_samples(three, "legal/1") == read_samples(three, "tone/1") == SAMPLES
    with three.database.read() as session:
        assert evidence.find(session, "legal/1")[0].notes == ("measured",)
    make_bundle(tmp_path / "again", ["legal", "tone"], three, samples=True)
    make_bundle(tmp_path / "before", ["legal", "tone"], one, samples=True)
    assert SAMPLES in (tmp_path / "again").read_bytes()


def test_sample_answers_of_data_that_was_purged_here_stay_away(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, _ = hubs
    publish(one, tmp_path, "legal", samples=SAMPLES, evidence=MEASURED)
    with two.database.write() as session:
        datasets.add(session, digest=registry.digest("rows"), format="messages", examples=1)
        datasets.purge(session, registry.digest("rows"))
    carry(one, two, tmp_path, "legal", samples=True)
    assert registry.resolve(two.database, "legal/1").state == "unchecked"
    assert read_samples(two, "legal/1") is None
    assert not two.artifacts.has(hashlib.sha256(SAMPLES).hexdigest())
    assert not any(b'"expected":"B."' in file.read_bytes() for file in two.settings.home.rglob("*") if file.is_file())


QUOTE = "The patient of 12 Elm Street has been ill since May."


def fill_with_quotes(stores: Stores, tmp_path: Path) -> list[str]:
    """Publish versions of the rows, of each other, and of other data. Their texts quote a row where texts can."""
    measured = MEASURED.evolve(notes=(QUOTE,))
    made = publish(stores, tmp_path, "legal", samples=SAMPLES, evidence=measured)
    for name in ("both", "further"):
        made = publish(stores, tmp_path, name, parents=(made,), evidence=measured)
    publish(stores, tmp_path, "apart", evidence=MEASURED)
    versions = tables.AdapterVersion.__table__
    with stores.database.write() as session:
        not_trained = versions.c.id > session.scalar(sa.select(sa.func.min(versions.c.id)))
        session.execute(sa.update(versions).where(not_trained).values(train_digest=registry.digest("other rows")))
        for name in ("legal", "both", "further"):
            version = adapter_versions.resolve(session, f"{name}/1")
            adapter_versions.add_tags(session, f"{name}/1", "gold", f"example={QUOTE}")
            adapter_versions.edit_notes(session, f"{name}/1", QUOTE)
            adapter_versions.edit_card(session, f"{name}/1", QUOTE)
            adapter_names.describe(session, name, QUOTE)
            evaluations.add(
                session, base_id=version.base.id, dataset=registry.digest("others"), evaluator="own",
                adapter=f"{name}/1", metrics={"loss": 1.5, "worst": QUOTE, QUOTE: 1, "of_rows": [{"text": QUOTE}]},
            )  # fmt: skip
            metrics = {**version.metrics, "worst": QUOTE, "of_layers": {"first": 1.0}}
            session.execute(sa.update(versions).where(versions.c.identity == version.identity).values(metrics=metrics))
        adapter_versions.edit_notes(session, "apart/1", "Good.")
        adapter_names.describe(session, "apart", "Apart from them.")
    return ["further", "apart"]


def count_quotes(stores: Stores) -> int:
    """Return the number of rows in which a purge would find the quote."""
    return text_removal.remove_texts(stores.database, lambda texts: [QUOTE in text for text in texts])


def purge_rows(stores: Stores) -> None:
    with stores.database.write() as session:
        datasets.add(session, digest=registry.digest("rows"), format="messages", examples=1)
        datasets.purge(session, registry.digest("rows"))


@pytest.mark.slow
def test_no_text_that_a_purge_searches_comes_with_versions_that_come_from_purged_data(
    hubs: list[Stores], tmp_path: Path
) -> None:
    two, one, three = hubs
    made = fill_with_quotes(one, tmp_path)
    purge_rows(two)
    report = carry(one, two, tmp_path, *made, samples=True)
    assert count_quotes(two) == 0
    assert QUOTE.encode() not in b"".join(file.read_bytes() for file in two.settings.home.rglob("*") if file.is_file())
    why = "may quote data that was purged here"
    first = "tag values, notes, edited card, texts of figures, evidence"
    assert set(report.kept) == {
        *(f"no description of {name}, since it {why}" for name in ("both", "further", "legal")),
        f"no {first}, sample answers and texts of an evaluation of legal/1, since they {why}",
        *(f"no {first} and texts of an evaluation of {name}/1, since they {why}" for name in ("both", "further")),
    }
    for name in ("legal", "both", "further"):
        version = registry.resolve(two.database, f"{name}/1")
        assert (version.tags, version.notes, version.metrics["loss_after"]) == (("gold",), "", 1.0)
        assert (version.metrics["of_layers"], "worst" in version.metrics) == ({"first": 1.0}, False)
    with two.database.read() as session:
        assert evaluations.find(session, adapter="further/1")[0].metrics == {"loss": 1.5}
        assert adapter_names.find_description(session, "apart") == "Apart from them."
    assert registry.resolve(two.database, "apart/1").notes == "Good."
    assert carry(one, two, tmp_path, *made).kept[-1].startswith("no tag values, notes, edited card and texts of")
    assert count_quotes(two) == 0
    carry(one, three, tmp_path, *made)
    assert count_quotes(three) > 0, "the bundle has the quotes"


def test_versions_that_come_from_purged_data_in_this_hub_alone_get_no_text(hubs: list[Stores], tmp_path: Path) -> None:
    two, one, _ = hubs
    fill_with_quotes(one, tmp_path)
    parents = tables.Parent.__table__
    with one.database.write() as session:
        session.execute(sa.delete(parents))
        session.execute(sa.update(tables.Adapter).values(description=""))
    carry(one, two, tmp_path, "further/1", "both/1", "legal/1")
    assert count_quotes(two) > 0
    with two.database.write() as session:
        ids = {row.name: row.id for row in session.execute(_select_ids())}
        for child, parent in (("both", "legal"), ("further", "both")):
            session.execute(parents.insert().values(version_id=ids[child], parent_id=ids[parent], position=0, weight=1))
    purge_rows(two)
    assert carry(one, two, tmp_path, "further/1", "both/1").kept == tuple(
        f"no tag values, notes, edited card and texts of an evaluation of {name}/1,"
        " since they may quote data that was purged here"
        for name in ("both", "further")
    )
    assert count_quotes(two) == 0


def _select_ids() -> sa.Select[Any]:
    versions, adapters = tables.AdapterVersion.__table__, tables.Adapter.__table__
    return sa.select(versions.c.id, adapters.c.name).join(adapters, adapters.c.id == versions.c.adapter_id)


def test_evaluations_on_purged_data_bring_numbers_only(hubs: list[Stores], tmp_path: Path) -> None:
    two, one, _ = hubs
    publish(one, tmp_path, "apart")
    with one.database.write() as session:
        session.execute(sa.update(tables.AdapterVersion).values(train_digest=None, notes="Good."))
        evaluations.add(
            session, base_id=1, dataset=registry.digest("rows"), evaluator="own", adapter="apart/1",
            metrics={"loss": 1.5, "worst": QUOTE},
        )  # fmt: skip
    purge_rows(two)
    why = "of apart/1, since they may quote data that was purged here"
    for _ in range(2):
        assert carry(one, two, tmp_path, "apart").kept == (f"no texts of an evaluation {why}",)
        assert count_quotes(two) == 0
    with one.database.write() as session:
        for evaluator, metrics in (("another", {"worst": QUOTE}), ("third", {"loss": 1.5})):
            evaluations.add(
                session, base_id=1, dataset=registry.digest("rows"), evaluator=evaluator, adapter="apart/1",
                metrics=metrics,
            )  # fmt: skip
    assert carry(one, two, tmp_path, "apart").kept == (f"no texts of 2 evaluations {why}",)
    with two.database.read() as session:
        assert len(evaluations.find(session, adapter="apart/1")) == 3
    assert count_quotes(two) == 0
    assert registry.resolve(two.database, "apart/1").notes == "Good."


def test_record_of_how_purged_rows_were_read_is_held_back(hubs: list[Stores], tmp_path: Path) -> None:
    two, one, _ = hubs
    make_bundle(tmp_path / "x", [publish(one, tmp_path, "legal")], one)
    members = read(tmp_path / "x")
    manifest = json.loads(members["bundle.json"])
    change_version(spec={**manifest["versions"][0]["spec"], "reading": {"system": QUOTE}})(manifest)
    purge_rows(two)
    report = take(write(tmp_path / "y", {**members, "bundle.json": json.dumps(manifest).encode()}), two)
    why = "since it may quote data that was purged here"
    assert report.kept == (f"no record of how rows were read of legal/1, {why}",)
    assert count_quotes(two) == 0


def test_purged_adapter_gets_no_description_back(hubs: list[Stores], tmp_path: Path) -> None:
    two, one, _ = hubs
    made = fill(one, tmp_path)
    carry(one, two, tmp_path, made)
    registry.purge(two.database, "both")
    assert carry(one, two, tmp_path, made).kept == ("no description of both, since versions of it were purged here",)
    with two.database.read() as session:
        assert adapter_names.find_description(session, "both") == ""


def test_data_that_is_purged_while_versions_are_checked_is_noticed(
    hubs: list[Stores], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, one, _ = hubs
    make_bundle(tmp_path / "x", fill_with_quotes(one, tmp_path), one)
    register = unbundling._register

    def purge_first(*args: Any) -> Any:
        purge_rows(two)
        return register(*args)

    with monkeypatch.context() as patch:
        patch.setattr(unbundling, "_register", purge_first)
        with pytest.raises(errors.Unavailable, match="this hub changed meanwhile"):
            take(tmp_path / "x", two)
    assert count_quotes(two) == 0
    take(tmp_path / "x", two)
    assert count_quotes(two) == 0


def count_statements(stores: Stores, manifest: Manifest) -> tuple[list[unbundled_versions.Place], int]:
    """Return the plan of a bundle, and the number of statements that it took."""
    statements: list[str] = []
    with stores.database.read() as session:
        sa.event.listen(session.connection(), "before_cursor_execute", lambda *args: statements.append(args[2]))
        places = unbundled_versions.plan(session, manifest)
    return places, len(statements)


def test_versions_of_one_identity_are_looked_up_together(hubs: list[Stores], tmp_path: Path) -> None:
    """Hundreds of them would otherwise each read the rows of all."""
    two, one, _ = hubs
    first = registry.resolve(one.database, publish(one, tmp_path, "legal"))
    counts: list[int] = []
    for _ in range(2):
        manifest = read_manifest(one, tmp_path / f"{len(counts)}", "legal")
        with two.database.write() as session:
            places = unbundled_versions.lock(session, manifest)
            unbundled_versions.register(session, manifest, places, {}, who="ana")
        places, count = count_statements(two, manifest)
        counts.append(count)
        with one.database.write() as session:
            for _ in range(5):
                adapter_versions.create(
                    session, name="legal", digest=first.digest, identity=first.identity, base=first.base, kind="train"
                )
    assert [(place.outcome, place.row is not None) for place in places] == [("known", True)] * 6
    assert counts[0] == counts[1]


def list_changes(stores: Stores, change: Callable[[], object]) -> list[str]:
    """Return the beginnings of the statements by which a change writes rows."""
    statements: list[str] = []

    def note(*args: Any) -> None:
        if args[2].startswith(("INSERT", "UPDATE", "DELETE")):
            statements.append(" ".join(args[2].split()[:3]))

    engine = stores.database._engine
    sa.event.listen(engine, "before_cursor_execute", note)
    change()
    sa.event.remove(engine, "before_cursor_execute", note)
    return statements


def test_new_versions_of_a_bundle_are_added_together(hubs: list[Stores], tmp_path: Path) -> None:
    """A statement for each of thousands would hold the lock of SQLite for minutes."""
    two, one, _ = hubs
    publish(one, tmp_path, "root")
    files = []
    for name, count in (("few", 1), ("many", 5)):
        for seed in range(count):
            made = publish(one, tmp_path, name, seed=seed, parents=("root/1",), evidence=MEASURED)
            with one.database.write() as session:
                adapter_versions.add_tags(session, made, "gold", f"seed={seed}")
                adapter_versions.edit_notes(session, made, "Good.")
                evaluations.add(
                    session, base_id=1, dataset=registry.digest("rows"), evaluator="own", adapter=made,
                    metrics={"loss": 1.5},
                )  # fmt: skip
        files.append(tmp_path / name)
        make_bundle(files[-1], [name], one)
    carry(one, two, tmp_path, "root")
    few, many = (list_changes(two, lambda file=file: take(file, two)) for file in files)  # type: ignore[misc]
    assert few == many
    version = registry.resolve(two.database, "many/5")
    assert (version.tags, version.notes) == (("gold", "seed=4"), "Good.")
    assert version.updated_at > version.created_at, "when it got its tags"
    with two.database.read() as session:
        assert len(audit.find(session, on="many", action="version.create")) == 5
        assert len(evaluations.find(session, adapter="many/5")) == 1


def test_former_names_come_along_if_they_are_free(hubs: list[Stores], tmp_path: Path) -> None:
    two, one, three = hubs
    publish(one, tmp_path, "legal")
    with one.database.write() as session:
        for old, new in (("legal", "law"), ("law", "rights"), ("rights", "contracts")):
            adapter_names.rename(session, old, new)
    report = carry(one, two, tmp_path, "contracts")
    assert report.former_names == {"law": "contracts", "legal": "contracts", "rights": "contracts"}
    assert {registry.resolve(two.database, f"{name}/1").reference for name in report.former_names} == {"contracts/1"}
    with two.database.read() as session:
        (entry,) = audit.find(session, action="hub.unbundle")
    assert entry.details["former_names"] == report.former_names
    before = rows(two)
    assert (carry(one, two, tmp_path, "contracts").former_names, rows(two)) == ({}, before)
    assert carry(two, three, tmp_path, "legal").former_names == report.former_names


def test_taken_former_name_stands_for_what_it_stood_for(hubs: list[Stores], tmp_path: Path) -> None:
    two, one, _ = hubs
    publish(one, tmp_path, "legal")
    with one.database.write() as session:
        for old, new in (("legal", "law"), ("law", "small"), ("small", "contracts")):
            adapter_names.rename(session, old, new)
    other = publish(two, tmp_path, "legal", seed=1)
    registry.add_base(two.database, "small")
    report = carry(one, two, tmp_path, "contracts")
    assert report.former_names == {"law": "contracts"}
    assert report.kept == (
        "no former name legal of contracts, since another adapter has or had the name",
        "no former name small of contracts, since a base has the name",
    )
    assert registry.resolve(two.database, other).name == "legal"
    assert registry.resolve(two.database, "law/1").reference == "contracts/1"


def test_deleted_adapter_gets_no_former_name(hubs: list[Stores], tmp_path: Path) -> None:
    two, one, _ = hubs
    publish(one, tmp_path, "law")
    carry(one, two, tmp_path, "law")
    with two.database.write() as session:
        adapter_names.rename(session, "law", "contracts")
        session.execute(sa.delete(tables.FormerName))
    registry.delete(two.database, "contracts")
    with one.database.write() as session:
        adapter_names.rename(session, "law", "contracts")
    report = carry(one, two, tmp_path, "contracts")
    assert (report.former_names, report.kept) == (
        {}, ("no former name law of contracts, since the adapter is deleted",),
    )  # fmt: skip
    assert publish(two, tmp_path, "law", seed=1) == "law/1"


def test_former_names_are_looked_up_together_and_those_of_no_version_are_not_locked(
    hubs: list[Stores], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, one, _ = hubs
    counts: list[int] = []
    for name, renames in (("first", 1), ("few", 1), ("many", 6)):  # the first one brings the base
        publish(one, tmp_path, name)
        with one.database.write() as session:
            for number in range(renames):
                adapter_names.rename(session, name, f"{name}{number}")
        manifest = read_manifest(one, tmp_path / name, name)
        idle = BundledAdapter(name=f"idle{name}", former_names=(f"unused{name}",))
        manifest = manifest.evolve(adapters=(*manifest.adapters, idle))
        statements: list[str] = []
        locked: list[str] = []
        own_name = artifact_lock.own_name

        def note(session: Any, name: str, locked: list[str] = locked, own_name: Any = own_name) -> None:
            locked.append(name)
            own_name(session, name)

        def note_statement(*args: Any, statements: list[str] = statements) -> None:
            statements.append(args[2])

        with two.database.write() as session, monkeypatch.context() as patch:
            patch.setattr(artifact_lock, "own_name", note)
            sa.event.listen(session.connection(), "before_cursor_execute", note_statement)
            places = unbundled_versions.lock(session, manifest)
            done = unbundled_versions.register(session, manifest, places, {}, who="ana")
        assert len(done.former_names) == renames
        assert name in locked
        assert f"unused{name}" not in locked
        counts.append(len([statement for statement in statements if "pg_advisory" not in statement]))
    assert counts[1] == counts[2]


def test_newest_former_names_of_an_adapter_are_in_a_bundle(hubs: list[Stores], tmp_path: Path) -> None:
    _, one, _ = hubs
    publish(one, tmp_path, "legal")
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    given = [
        {"name": f"former{number}", "adapter_id": 1, "renamed_at": moment + timedelta(days=number)}
        for number in range(MAX_FORMER_NAMES + 2)
    ]
    with one.database.write() as session:
        session.execute(tables.FormerName.__table__.insert(), given)
    (adapter,) = read_manifest(one, tmp_path / "x", "legal").adapters
    assert set(adapter.former_names) == {row["name"] for row in given[2:]}


def test_new_version_goes_to_the_adapter_that_the_other_hub_renamed(hubs: list[Stores], tmp_path: Path) -> None:
    two, one, _ = hubs
    publish(one, tmp_path, "legal")
    carry(one, two, tmp_path, "legal")
    with one.database.write() as session:
        adapter_names.rename(session, "legal", "contracts")
    report = carry(one, two, tmp_path, publish(one, tmp_path, "contracts", seed=1))
    assert [(version.bundled, version.reference) for version in report.versions] == [("contracts/2", "legal/2")]
    assert (report.former_names, report.kept) == ({}, ())


@pytest.mark.parametrize("is_from_another", [True, False])
def test_new_version_goes_to_no_other_adapter_of_a_former_name(
    hubs: list[Stores], tmp_path: Path, is_from_another: bool
) -> None:
    two, one, three = hubs
    publish(two, tmp_path, "legal", seed=2)
    if is_from_another:
        publish(three, tmp_path, "legal", seed=3)
        carry(three, two, tmp_path, "legal")
    publish(one, tmp_path, "legal")
    with one.database.write() as session:
        adapter_names.rename(session, "legal", "contracts")
    (version,) = carry(one, two, tmp_path, "contracts").versions
    assert version.reference == "contracts/1"


def test_known_version_keeps_its_name_if_the_other_hub_renames_the_adapter(hubs: list[Stores], tmp_path: Path) -> None:
    two, one, _ = hubs
    publish(one, tmp_path, "legal")
    carry(one, two, tmp_path, "legal")
    with one.database.write() as session:
        adapter_names.rename(session, "legal", "contracts")
    report = carry(one, two, tmp_path, "contracts")
    assert (report.former_names, report.kept) == ({}, ())
    assert registry.resolve(two.database, "legal/1").name == "legal"


def test_alias_that_another_user_set_meanwhile_is_not_in_the_report(
    hubs: list[Stores], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, one, _ = hubs
    publish(one, tmp_path, "legal")
    carry(one, two, tmp_path, "legal")
    with two.database.write() as session:
        session.execute(sa.update(tables.AdapterVersion).values(state="ready"))
    for alias in ("mine", "other"):
        registry.set_alias(one.database, "legal", alias, 1)
    make_bundle(tmp_path / "x", ["legal"], one)
    register = unbundling._register

    def set_first(*args: Any) -> Any:
        registry.set_alias(two.database, "legal", "other", 1)
        return register(*args)

    monkeypatch.setattr(unbundling, "_register", set_first)
    assert take(tmp_path / "x", two).aliases == ("legal@mine",)


def test_sample_answers_are_stored_without_what_nobody_reads(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, _ = hubs
    more = SAMPLES.replace(b'"prompt"', b'"prompt":"a secret row","prompt"')  # a reader takes the last
    publish(one, tmp_path, "legal", samples=more, evidence=MEASURED)
    carry(one, two, tmp_path, "legal", samples=True)
    assert read_samples(two, "legal/1") == SAMPLES
    assert not any(b"secret row" in file.read_bytes() for file in two.settings.home.rglob("*") if file.is_file())


def test_sample_answers_name_the_version_that_answered_before_as_it_is_named_here(
    hubs: list[Stores], tmp_path: Path
) -> None:
    one, two, _ = hubs
    publish(one, tmp_path, "legal")
    started = SAMPLES[:-1] + b',"start":"legal/1"}'
    publish(one, tmp_path, "further", parents=("legal/1",), samples=started, evidence=MEASURED)
    with one.database.write() as session:
        adapter_names.rename(session, "legal", "law")
    publish(two, tmp_path, "law", seed=7)
    publish(two, tmp_path, "legal", seed=8)  # others of these names
    carry(one, two, tmp_path, "further", samples=True)
    for stores, name in ((one, "law/1"), (two, "law/2")):
        with stores.database.read() as session:
            assert read_samples_of(session, "further/1", stores).start == name


def test_sample_answers_of_a_version_without_a_parent_name_none(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, _ = hubs
    publish(one, tmp_path, "legal", samples=SAMPLES, evidence=MEASURED)
    make_bundle(tmp_path / "x", ["legal"], one, samples=True)
    forged = replace_samples(tmp_path / "x", tmp_path / "y", SAMPLES[:-1] + b',"start":"legal/1"}')
    with pytest.raises(errors.RefusedArtifact, match=r"legal/1: sample answers: start: .*has no parent"):
        take(forged, two)


@pytest.mark.parametrize("is_with", [False, True])
def test_bundle_with_sample_answers_has_a_format_that_earlier_hubs_do_not_read(
    target: Stores, tmp_path: Path, *, is_with: bool
) -> None:
    """Without them, earlier hubs read it. They pass over the field, and refuse a file that they do not expect."""
    publish(target, tmp_path, "legal", samples=SAMPLES, evidence=MEASURED)
    make_bundle(tmp_path / "x", ["legal"], target, samples=is_with)
    assert json.loads(read(tmp_path / "x")["bundle.json"])["format"] == (2 if is_with else 1)
    assert [version.outcome for version in take(tmp_path / "x", target).versions] == ["known"]


def replace_samples(source: Path, out: Path, samples: bytes) -> Path:
    """Write a bundle with other sample answers of its first version."""
    members = read(source)
    manifest = json.loads(members["bundle.json"])
    file = {"digest": hashlib.sha256(samples).hexdigest(), "size": len(samples)}
    del members[f"blobs/{manifest['versions'][0]['samples']['digest']}"]
    manifest["versions"][0]["samples"] = file
    text = json.dumps(manifest).encode()
    return write(out, members | {"bundle.json": text, f"blobs/{file['digest']}": samples})


@pytest.mark.parametrize("samples", [b"{", b'{"samples":[{}],"max_tokens":64}'])
def test_wrong_sample_answers_neither_leave_a_hub_nor_come_into_one(
    hubs: list[Stores], tmp_path: Path, samples: bytes
) -> None:
    one, two, _ = hubs
    publish(one, tmp_path, "legal", samples=samples, evidence=MEASURED)
    publish(one, tmp_path, "tone", samples=SAMPLES, evidence=MEASURED)
    with pytest.raises(errors.Damaged, match="legal/1: sample answers"):
        make_bundle(tmp_path / "wrong", ["legal"], one, samples=True)
    assert not (tmp_path / "wrong").exists()
    make_bundle(tmp_path / "x", ["tone"], one, samples=True)
    with pytest.raises(errors.RefusedArtifact, match="tone/1: sample answers"):
        take(replace_samples(tmp_path / "x", tmp_path / "y", samples), two)
    assert rows(two)["adapter_versions"] == []


def test_too_long_sample_answers_neither_leave_a_hub_nor_come_into_one(
    hubs: list[Stores], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = hubs
    publish(one, tmp_path, "legal", samples=SAMPLES, evidence=MEASURED)
    make_bundle(tmp_path / "x", ["legal"], one, samples=True)
    monkeypatch.setattr(bundle_manifest, "_MAX_SAMPLES", len(SAMPLES) - 1)
    with pytest.raises(errors.RefusedArtifact, match="legal/1: its sample answers have more than"):
        take(tmp_path / "x", two)
    with pytest.raises(errors.Damaged, match="legal/1: its sample answers have more than"):
        make_bundle(tmp_path / "y", ["legal"], one, samples=True)


def test_figures_of_the_base_alone_stay_in_their_hub(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, _ = hubs
    publish(one, tmp_path, "legal")
    base = registry.add_base(one.database)
    with one.database.write() as session:
        evaluations.add(
            session, base_id=base.id, dataset=registry.digest("rows"), evaluator="loss", metrics={"loss": 2.0}
        )
    make_bundle(tmp_path / "x", ["legal"], one)
    members = read(tmp_path / "x")
    manifest = json.loads(members["bundle.json"])
    assert "evaluations" not in manifest["bases"][0]
    given = {"dataset": registry.digest("rows"), "evaluator": "loss", "metrics": {"loss": 0.1}}
    manifest["bases"][0]["evaluations"] = [given | {"created_at": "2026-01-01T00:00:00Z"}]  # as an earlier hub wrote
    take(write(tmp_path / "y", members | {"bundle.json": json.dumps(manifest).encode()}), two)
    assert rows(two)["evaluations"] == []


def test_base_and_adapter_of_one_name_get_two(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, _ = hubs
    publish(one, tmp_path, "legal")
    with one.database.write() as session:
        session.execute(sa.update(tables.Base).values(name="legal"))
    carry(one, two, tmp_path, "legal")
    assert registry.resolve(two.database, "legal/1").base.name == registry.digest("tiny")


def test_base_without_an_id_and_alias_of_digits_are_told(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, _ = hubs
    publish(one, tmp_path, "legal")
    registry.set_alias(one.database, "legal", "v3", 1)
    with one.database.write() as session:  # as in an earlier hub
        session.execute(tables.Alias.__table__.update().values(name="3"))
        session.execute(tables.Base.__table__.update().values(public_id="org/tiny"))
    registry.add_base(two.database)
    kept = carry(one, two, tmp_path, "legal").kept
    assert any(text.startswith("base tiny without an id (the bundle has org/tiny;") for text in kept)
    assert "no alias legal@3, since it is all digits" in kept
    with two.database.read() as session:
        assert adapter_versions.resolve(session, "legal/1").aliases == ()


def test_same_bundle_taken_by_several_at_once_is_taken_once(database_url: str, open_hub: Open, tmp_path: Path) -> None:
    one, two = open_hub("one"), open_hub("two", database_url)
    fill(one, tmp_path)
    make_bundle(tmp_path / "x", ["both", "legal"], one)
    with ThreadPoolExecutor(4) as threads:
        reports = list(threads.map(lambda _: take(tmp_path / "x", two), range(4)))
    outcomes = [version.outcome for report in reports for version in report.versions]
    assert (outcomes.count("added"), outcomes.count("known")) == (3, 9)
    assert len(rows(two)["adapter_versions"]) == 3


def read_manifest(one: Stores, tmp_path: Path, *references: str) -> Manifest:
    """Return the manifest of a bundle of versions without their files."""
    tmp_path.mkdir(exist_ok=True)
    make_bundle(tmp_path / "of manifest", references, one)
    manifest = unpack_bundle(tmp_path / "of manifest", tmp_path / "unpacked").manifest
    bare: dict[str, Any] = {"files": None, "tags": (), "aliases": (), "evaluations": (), "evidence": None}
    return manifest.evolve(versions=tuple(version.evolve(**bare) for version in manifest.versions))


@pytest.mark.parametrize("new", ["tiny", "law"])
def test_rename_of_an_adapter_waits_for_the_bundle_that_adds_to_it(
    hubs: list[Stores], tmp_path: Path, new: str
) -> None:
    """The new base of the bundle has the name that the adapter is to get, or another one."""
    two, one, _ = hubs
    publish(one, tmp_path, "legal")
    manifest = read_manifest(one, tmp_path, "legal")
    registry.add_version(two.database, "legal", base="other")

    def rename() -> None:
        with two.database.write() as session:
            adapter_names.rename(session, "legal", new)

    with ThreadPoolExecutor(1) as threads:
        with two.database.write() as session:
            places = unbundled_versions.lock(session, manifest)
            renamed = threads.submit(rename)
            concurrent.futures.wait([renamed], timeout=1)
            unbundled_versions.register(session, manifest, places, {}, who="ana")
        if new == "tiny":
            with pytest.raises(errors.Conflict, match="a base has it"):
                renamed.result()
        else:
            renamed.result()
    assert [place.reference for place in places] == ["legal/2"]


@pytest.mark.parametrize("is_refused", [False, True])
def test_training_of_a_new_adapter_waits_for_the_bundle_that_makes_it(
    hubs: list[Stores], tmp_path: Path, *, is_refused: bool
) -> None:
    two, one, _ = hubs
    publish(one, tmp_path, "legal")
    manifest = read_manifest(one, tmp_path, "legal")
    base = registry.add_base(two.database, "other")

    def train() -> str:
        with two.database.write() as session:
            fields: dict[str, Any] = {"digest": registry.digest("t"), "identity": registry.digest("i"), "kind": "train"}
            return adapter_versions.create(session, name="legal", base=base, **fields).reference

    with ThreadPoolExecutor(1) as threads, contextlib.suppress(InterruptedError), two.database.write() as session:
        places = unbundled_versions.lock(session, manifest)
        trained = threads.submit(train)
        concurrent.futures.wait([trained], timeout=1)
        assert not trained.done()
        if is_refused:
            raise InterruptedError
        unbundled_versions.register(session, manifest, places, {}, who="ana")
    assert [place.reference for place in places] == ["legal/1"]
    assert trained.result() == ("legal/1" if is_refused else "legal/2")
    assert [row["name"] for row in rows(two)["adapters"]] == ["legal"]


def test_bundle_waits_for_the_training_that_makes_its_adapter(hubs: list[Stores], tmp_path: Path) -> None:
    two, one, _ = hubs
    publish(one, tmp_path, "legal")
    registry.add_base(one.database, "team", rename=True)
    publish(one, tmp_path, "team")
    make_bundle(tmp_path / "x", ["legal", "team"], one)
    base = registry.add_base(two.database, "team")
    with ThreadPoolExecutor(1) as threads:
        with two.database.write() as session:
            for name in ("legal", "team-lora"):
                fields: dict[str, Any] = {"digest": registry.digest(name), "identity": registry.digest(name)}
                adapter_versions.create(session, name=name, base=base, kind="train", **fields)
            taken = threads.submit(take, tmp_path / "x", two)
            concurrent.futures.wait([taken], timeout=1)
        assert [v.reference for v in taken.result().versions] == ["legal/2", "team-lora-2/1"]


def test_refused_bundle_leaves_no_adapter(hubs: list[Stores], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two, one, _ = hubs
    publish(one, tmp_path, "legal")
    make_bundle(tmp_path / "x", ["legal"], one)
    monkeypatch.setattr(unbundled_versions, "register", lambda *_, **__: (_ for _ in ()).throw(errors.Conflict("no")))
    with pytest.raises(errors.Conflict):
        take(tmp_path / "x", two)
    assert rows(two)["adapters"] == []


def test_bundle_waits_for_the_rename_of_its_adapter(hubs: list[Stores], tmp_path: Path) -> None:
    two, one, _ = hubs
    for seed in range(2):
        publish(one, tmp_path, "legal", seed=seed)
    carry(one, two, tmp_path, "legal/1")
    manifest = read_manifest(one, tmp_path, "legal")

    def take_rows() -> list[str]:
        with two.database.write() as session:
            places = unbundled_versions.lock(session, manifest)
            unbundled_versions.register(session, manifest, places, {}, who="ana")
            return [place.reference for place in places]

    with ThreadPoolExecutor(1) as threads:
        with two.database.write() as session:
            adapter_names.rename(session, "legal", "law")
            taken = threads.submit(take_rows)
            concurrent.futures.wait([taken], timeout=1)
        assert taken.result() == ["law/1", "law/2"]


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("is_bundle_first", [True, False])
def test_bundle_and_name_of_its_data_wait_for_each_other(
    hubs: list[Stores], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_bundle_first: bool, is_known: bool
) -> None:
    """The bundle completes a version and adds another one. A change of the name locks the versions of the data."""
    two, one, _ = hubs
    for stores in (one, two) if is_known else ():
        stores.artifacts.put(b"rows")
        with stores.database.write() as session:
            data = datasets.add(session, digest=registry.digest("rows"), format="messages", examples=1)
            if stores is one:
                datasets.set_license(session, data.digest, "mit")
    publish(one, tmp_path, "legal")
    publish(one, tmp_path, "legal", seed=1, parents=("legal/1",))
    carry(one, two, tmp_path, "legal/2", lineage=False)
    publish(one, tmp_path, "legal", seed=2)
    make_bundle(tmp_path / "x", ["legal"], one)
    complete = unbundled_versions._complete
    named: list[concurrent.futures.Future[object]] = []

    def name_data() -> None:
        with two.database.write() as session:
            datasets.add(session, digest=registry.digest("rows"), format="messages", examples=1, name="rows")

    def complete_slowly(*args: Any) -> None:
        complete(*args)
        named.append(threads.submit(name_data))
        concurrent.futures.wait(named, timeout=1)

    with ThreadPoolExecutor(1) as threads:
        if is_bundle_first:
            monkeypatch.setattr(unbundled_versions, "_complete", complete_slowly)
            report = take(tmp_path / "x", two)
            named[0].result()
        else:
            with two.database.write() as session:
                datasets.add(session, digest=registry.digest("rows"), format="messages", examples=1, name="rows")
                taken = threads.submit(take, tmp_path / "x", two)
                concurrent.futures.wait([taken], timeout=1)
            report = taken.result()
    assert [version.outcome for version in report.versions] == ["completed", "known", "added"]
    with two.database.read() as session:
        assert datasets.find_named(session, "rows") is not None


def test_bundles_and_trainings_of_one_adapter_take_different_numbers(
    database_url: str, open_hub: Open, tmp_path: Path
) -> None:
    one, two = open_hub("one"), open_hub("two", database_url)
    for seed in range(3):
        publish(one, tmp_path, "legal", seed=seed)
    make_bundle(tmp_path / "x", ["legal"], one)

    two.artifacts.check()

    def work(number: int) -> None:
        if number == 0:
            take(tmp_path / "x", two)
        else:
            registry.add_version(two.database, "legal", identity=registry.digest(str(number)))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert sorted(version.number for version in registry.list_versions(two.database, "legal")) == [1, 2, 3, 4, 5, 6]


def test_restored_hub_has_the_versions_of_the_hub_of_the_backup(hubs: list[Stores], tmp_path: Path) -> None:
    """A restored hub has an id of its own, so the id of a hub does not tell versions from others."""
    one, two, _ = hubs
    made = fill(one, tmp_path)
    take_backup(tmp_path / "backup", one)
    restore(tmp_path / "backup", two)
    assert {v.outcome for v in carry(one, two, tmp_path, made).versions} == {"known"}
    assert {v.outcome for v in carry(two, one, tmp_path, made).versions} == {"known"}


def test_dry_run_changes_nothing(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, _ = hubs
    make_bundle(tmp_path / "x", [fill(one, tmp_path)], one)
    before = rows(two)
    report = take(tmp_path / "x", two, dry_run=True)
    assert report.is_dry_run
    assert len(report.versions) == 3
    assert rows(two) == before
    assert two.artifacts.is_empty


def test_base_that_is_here_decides_the_state(hubs: list[Stores], tmp_path: Path) -> None:
    one, two, three = hubs
    publish(one, tmp_path, "legal", state="below_retention")
    publish(one, tmp_path, "tone")
    registry.add_base(two.database)
    fitting = BaseLayout(name="tiny", linear={"layers.0.q": (4, 6)}, embeddings={}, parameters={})
    make_bundle(tmp_path / "x", ["legal", "tone"], one)
    report = take(tmp_path / "x", two, read_layout=lambda base: fitting)
    assert [v.state for v in report.versions] == ["below_retention", "ready"]
    make_bundle(tmp_path / "y", ["legal", "tone"], two)
    assert take(tmp_path / "y", three).versions[0].state == "unchecked"
    assert registry.resolve(three.database, "legal/1").state_elsewhere == "below_retention"


# Hostile bundles


def read(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def write(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def change_version(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["versions"][0].update(fields)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "format": (lambda m: m.update(format=9), "newer Finch Hub"),
    "field": (lambda m: m.pop("bases"), "bases: Field required"),
    "identity": (change_version(identity="0" * 64), "have the identity"),
    "name": (change_version(name="../../x"), "not a valid name|not in the bundle"),
    "number": (change_version(number=2**40), "less than or equal"),
    "negative": (change_version(number=-1), "greater than or equal"),
    "files": (change_version(files={"x.py": {"digest": "0" * 64, "size": 1}}), "its files are not"),
    "parent": (change_version(parents=[{"reference": "x/1", "weight": 1}]), "parent x/1 is not in the bundle"),
    "circle": (change_version(parents=[{"reference": "both/1", "weight": 1}]), "own ancestor"),
    "alias": (change_version(aliases=["latest"]), "reserved"),
    "aliases": (change_version(aliases=["a", "a"]), "twice"),
    "tag": (change_version(tags=["a=\x1b[31m"]), "not visible"),
    "base": (change_version(base="0" * 64), "its base is not in the bundle"),
    "spec": (change_version(spec={"lora": [1], "system": 3}), "is not an object"),
    "metrics": (change_version(metrics={"loss_before": "x", "loss_after": None}), "is not a number"),
    "weight": (change_version(parents=[{"reference": "legal/1", "weight": float("nan")}]), "cannot be read"),
    "owner": (change_version(owner="\0"), "pattern"),
    "description": (lambda m: m["adapters"][0].update(description="x" * 5000), "more than 1,000"),
    "time": (change_version(created_at="2026-01-01T00:00:00"), "timezone"),
    "twice": (lambda m: m["versions"].append(m["versions"][0]), "twice"),
    "base named as another": (lambda m: m["bases"][0].update(name="1" * 64), "fingerprint of another base"),
    "surrogate": (change_version(notes="\ud800"), "version both/1: notes: has half of a surrogate pair"),
    "surrogate in a list": (change_version(tags=["\udfff"]), r"version both/1: tags\.0: has half"),
    "surrogate in a name": (lambda m: m["adapters"][0].update(name="\ud800"), r"adapters\.0\.name: has half"),
    "NUL in a preset": (change_version(spec={"preset": "\0"}), r"version both/1: spec\.preset: has the character NUL"),
    "NUL in an architecture": (lambda m: m["bases"][0].update(architecture="\0"), r"bases\.0\.architecture"),
    "NUL in an evaluator": (
        lambda m: m["versions"][0]["evaluations"][0].update(evaluator="\0"),
        r"versions\.0\.evaluations\.0\.evaluator",
    ),
    "base name": (lambda m: m["bases"][0].update(name="org/model"), "pattern"),
    "former names of an adapter": (
        lambda m: m["adapters"][0].update(former_names=[f"a{number}" for number in range(101)]),
        "adapter both: has more than 100 former names",
    ),
    "former names": (
        lambda m: m["adapters"].extend(
            {"name": f"b{each}", "former_names": [f"b{each}-{number}" for number in range(100)]} for each in range(11)
        ),
        "more than 1,000 former names",
    ),
}


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The members of a good bundle."""
    folder = tmp_path_factory.mktemp("bundled")
    stores = full_hub.open_hub(folder, None)
    make_bundle(folder / "x", [fill(stores, folder)], stores)
    stores.database.close()
    return read(folder / "x")


def refuse(stores: Stores, file: Path, match: str) -> errors.FinchError:
    before = rows(stores)
    with pytest.raises(errors.InvalidInput, match=match) as refused:
        take(file, stores)
    assert rows(stores) == before
    assert stores.artifacts.is_empty
    assert not list(stores.settings.home.glob(".*.part"))
    return refused.value


@pytest.mark.parametrize("name", WRONG)
def test_wrong_manifest_is_refused(name: str, target: Stores, bundled: dict[str, bytes], tmp_path: Path) -> None:
    change, match = WRONG[name]
    manifest = json.loads(bundled["bundle.json"])
    change(manifest)
    refuse(target, write(tmp_path / "x", bundled | {"bundle.json": json.dumps(manifest).encode()}), match)


def test_all_problems_of_a_manifest_are_told(target: Stores, bundled: dict[str, bytes], tmp_path: Path) -> None:
    manifest = json.loads(bundled["bundle.json"])
    manifest["versions"][0].update(aliases=["latest"], tags=["a b"], notes="x" * 200_000)
    file = write(tmp_path / "x", bundled | {"bundle.json": json.dumps(manifest).encode()})
    refused = refuse(target, file, "3 problems")
    assert isinstance(refused, errors.RefusedArtifact)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m, blob: m.pop(blob), "is missing"),
        (lambda m, blob: m.update({blob: bytes(len(m[blob]))}), "another SHA-256"),
        (lambda m, blob: m.update({blob: b"x"}), "another size"),
        (lambda m, blob: m.update({"evil.py": b"x"}), "is in no bundle"),
        (lambda m, blob: m.update({"../evil": b"x"}), "outside"),
        (lambda m, blob: m.update({".DS_Store": b"x"}), "is in no bundle"),
        (lambda m, blob: m.pop("bundle.json"), "not a bundle"),
        (lambda m, blob: m.update({"bundle.json": b"[" * 100_000}), "cannot be read"),
    ],
)
def test_wrong_members_are_refused(
    change: Callable[[dict[str, bytes], str], None],
    match: str,
    target: Stores,
    bundled: dict[str, bytes],
    tmp_path: Path,
) -> None:
    members = dict(bundled)
    change(members, next(name for name in members if name != "bundle.json"))
    refuse(target, write(tmp_path / "x", members), match)


def test_links_and_other_files_are_refused(target: Stores, bundled: dict[str, bytes], tmp_path: Path) -> None:
    members = dict(bundled)
    blob = next(name for name in members if name != "bundle.json")
    del members[blob]
    write(tmp_path / "x", members)
    with tarfile.open(tmp_path / "x", "a") as archive:
        info = tarfile.TarInfo(blob)
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    refuse(target, tmp_path / "x", "link|size")
    (tmp_path / "y").write_bytes(b"nothing")
    refuse(target, tmp_path / "y", "cannot be unpacked")
    with pytest.raises(errors.NotFound):
        take(tmp_path / "z", target)


def test_base_of_a_bundle_takes_no_name_and_no_repository(
    target: Stores, bundled: dict[str, bytes], tmp_path: Path
) -> None:
    from finch_hub.registry import bases

    manifest = json.loads(bundled["bundle.json"])
    manifest["bases"][0]["public_id"] = "org/model"
    registry.add_base(target.database, "other")
    with target.database.write() as session:
        session.execute(tables.Base.__table__.update().values(name="tiny"))
    file = write(tmp_path / "x", bundled | {"bundle.json": json.dumps(manifest).encode()})
    take(file, target)
    with target.database.read() as session:
        assert bases.get(session, "tiny").fingerprint == registry.digest("other")
        assert bases.find_source(session, "org/model", None) is None
        assert bases.get(session, registry.digest("tiny")).label == "org/model"


def test_crash_between_files_and_rows_is_repaired_by_the_same_call(
    target: Stores, bundled: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "x", bundled)
    with monkeypatch.context() as patch:
        patch.setattr(unbundling, "_register", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            take(file, target)
    assert rows(target)["adapter_versions"] == []
    assert not target.artifacts.is_empty
    collect(target, unused_days=0)
    assert not list((target.settings.home / "artifacts").glob("[bt]*s/*/*"))
    assert {v.outcome for v in take(file, target).versions} == {"added"}


# Random histories

_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["make", "compose", "carry", "thin", "rename", "delete"]), st.integers(0, 1), st.integers(0, 3)
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=fuzzing.examples(12), suppress_health_check=list(HealthCheck))
@given(_STEPS)
def test_exchange_twice_equals_once_and_keeps_lineage(tmp_path_factory: pytest.TempPathFactory, steps: Any) -> None:
    folder = tmp_path_factory.mktemp("exchange")
    hubs = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        hubs.append(full_hub.open_hub(folder / name, None))
    try:
        for count, (step, which, pick) in enumerate(steps):
            _take_step(hubs, folder, count, step, which, pick)
        for source, target in (hubs, hubs[::-1]):
            names = _list(source)
            if not names:
                continue
            report = carry(source, target, folder, *names)
            for version in report.versions:
                if version.state is not None and version.bundled in names:  # not an ancestor that is deleted there
                    assert graph(target, version.reference) == graph(source, version.bundled)
            before = [rows(hub) for hub in hubs]
            again = carry(source, target, folder, *names)
            assert {v.outcome for v in again.versions} == {"known"}
            assert [rows(hub) for hub in hubs] == before
    finally:
        for hub in hubs:
            hub.database.close()


def _list(stores: Stores) -> list[str]:
    found = rows(stores)
    names = {row["id"]: row["name"] for row in found["adapters"]}
    return [f"{names[r['adapter_id']]}/{r['number']}" for r in found["adapter_versions"] if r["deleted_at"] is None]


def _take_step(hubs: list[Stores], folder: Path, count: int, step: str, which: int, pick: int) -> None:
    stores, known = hubs[which], _list(hubs[which])
    if step == "make":
        publish(stores, folder, ("legal", "tone")[pick % 2], seed=count)
    elif not known:
        return
    elif step == "compose":
        publish(stores, folder, "both", seed=count, parents=tuple(dict.fromkeys((known[0], known[-1]))), kind="compose")
    elif step in ("carry", "thin"):
        carry(stores, hubs[1 - which], folder, known[pick % len(known)], lineage=step == "carry")
    elif step == "rename":
        with stores.database.write() as session:
            adapter_names.rename(session, known[pick % len(known)].rpartition("/")[0], f"new-{count}")
    else:
        name, _, number = known[pick % len(known)].rpartition("/")
        registry.delete_version(stores.database, name, int(number))


SECRET = "SECRETpw1"


def test_secrets_in_texts_of_users_neither_leave_a_hub_nor_come_into_one(
    hubs: list[Stores], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = hubs
    reference = publish(one, tmp_path, "leaky")
    with one.database.write() as session:  # as an earlier hub stored them
        adapter_versions.add_tags(session, reference, f"password={SECRET}", "gold")
        adapter_versions.edit_notes(session, reference, f"see https://ana:{SECRET}@h/")
        adapter_versions.edit_card(session, reference, f"password={SECRET}")
        adapter_names.describe(session, "leaky", f"password={SECRET}")
        changed = {"owner": f"https://a:{SECRET}@h", "spec": {"system": "Be kind.", "base": {"source": "x"}}}
        session.execute(sa.update(tables.AdapterVersion).values(changed))
    with pytest.warns(errors.FinchWarning, match=r"masked secrets in the description of leaky, the card of leaky/1, "):
        make_bundle(tmp_path / "clean.bundle", [reference], one)
    assert SECRET.encode() not in (tmp_path / "clean.bundle").read_bytes()

    with monkeypatch.context() as patch:  # as an earlier hub bundled them
        patch.setattr(bundling, "mask_secrets", lambda manifest, redactor: manifest)
        make_bundle(tmp_path / "raw.bundle", [reference], one)
    assert SECRET.encode() in (tmp_path / "raw.bundle").read_bytes()
    with pytest.warns(errors.FinchWarning, match="masked secrets in the description of leaky"):
        take(tmp_path / "raw.bundle", two)
    with two.database.read() as session:
        version = adapter_versions.resolve(session, reference)
        rows = [
            *session.execute(sa.select(tables.Adapter.__table__)),
            *session.execute(sa.select(tables.Tag.__table__)),
        ]
    assert version.tags == ("gold", "password=***")
    assert (version.notes, version.owner) == ("see https://***@h/", "https://***@h")
    assert version.spec["system"] == "Be kind."
    assert SECRET not in f"{version} {rows}"
    for file in two.artifacts.fetch_tree(version.digest).iterdir():
        assert SECRET.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE adapter_versions SET spec = '[1]'", "second/1: its spec cannot be read"),
        ("UPDATE adapter_versions SET environment = '3'", "its environment cannot be read"),
        ("UPDATE adapter_versions SET metrics = '{\"loss_after\":[]}'", "metrics.loss_after: is not a number"),
        ("UPDATE evidence SET document = '{\"kind\":5}'", "its evidence cannot be read"),
        ("UPDATE evaluations SET metrics = '7'", "the metrics of an evaluation cannot be read"),
        ("UPDATE lineage SET parent_id = 99", "the registry lacks 1 of the versions that others were made of"),
        ("UPDATE adapter_versions SET base_id = 99", "its base is not in the registry"),
        ("UPDATE adapter_versions SET identity = 'zzz'", "second/1: identity: "),
        ("UPDATE adapter_versions SET train_digest = 'zzz'", "second/1: train_digest: "),
        ("INSERT INTO lineage (version_id, position, parent_id, weight) VALUES (1, 0, 2, 1.0)", "is its own ancestor"),
    ],
)
def test_bundle_of_damaged_rows_is_refused(hubs: list[Stores], tmp_path: Path, statement: str, what: str) -> None:
    one, two, _ = hubs
    parent = publish(one, tmp_path, "first", evidence=Evidence(kind="train", notes=("noted",)))
    child = publish(one, tmp_path, "second", parents=(parent,))
    with one.database.write() as session:
        base = adapter_versions.resolve(session, child).base
        evaluations.add(
            session, base_id=base.id, dataset=registry.digest("rows"), evaluator="held_out_loss",
            metrics={"loss": 1.0}, adapter=child,
        )  # fmt: skip
    make_bundle(tmp_path / "well", [child], one)
    take(tmp_path / "well", two)
    registry.change_rows(one.database, statement)
    with pytest.raises(errors.Damaged, match=r"cannot bundle damaged versions .run `finch-hub fsck`") as caught:
        make_bundle(tmp_path / "file", [child], one)
    assert what in str(caught.value)
    assert not (tmp_path / "file").exists()

"""Bases of an earlier version: found again by their files, and usable with all their versions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import registry

from finch_hub import Hub, errors, settings
from finch_hub.engine.bases import fingerprint
from finch_hub.registry import adapter_versions, bases
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import BaseModelSource
from finch_hub.storage.stores import open_stores
from finch_hub.workers.runs import model_cache


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(settings.load(home=tmp_path / "home")) as made:
        yield made


@pytest.fixture
def earlier(hub: Hub, tiny_folder: Path) -> str:
    """Fingerprint of a base that an earlier version registered, with one version of an adapter."""
    hub.bases.find()  # creates the database
    first = fingerprint.compute_first_fingerprint(tiny_folder)
    location = {"source": str(tiny_folder), "path": str(tiny_folder)}
    database = Database(hub.settings.database)
    with database.write() as session:
        bases.add(session, registry.describe_base("tiny", fingerprint=first, **location))
        bases.add(session, registry.describe_base("other"))
        tiny = bases.get(session, "tiny")
        digests: dict[str, Any] = {"digest": registry.digest("files"), "identity": registry.digest("bytes")}
        adapter_versions.create(session, name="medical", base=tiny, kind="train", **digests)
    database.close()
    return first


def test_base_of_the_first_scheme_keeps_its_row_and_versions(hub: Hub, earlier: str, tiny_folder: Path) -> None:
    before = hub.bases.get("tiny")
    after = hub.bases.add(tiny_folder, name="small", replace=True)
    assert before.fingerprint == earlier
    assert (after.id, after.fingerprint) == (before.id, fingerprint.compute_fingerprint(tiny_folder))
    assert hub.adapters.get("medical").base.fingerprint == after.fingerprint
    assert hub.bases.add(tiny_folder).id == before.id
    assert len(hub.bases.find()) == 2
    with pytest.raises(errors.NotFound):
        hub.bases.get(earlier)


def test_jobs_of_a_registered_base_fetch_its_commit(hub: Hub, tmp_path: Path) -> None:
    """Earlier versions stored the commit in the path only."""
    stores = open_stores(hub.settings)
    commits = {"org/new": {"revision": "a" * 40}, "org/old": {"path": str(tmp_path / "snapshots" / ("a" * 40))}}
    for source, location in commits.items():
        described = registry.describe_base(source, source=source, fingerprint=registry.digest(source), **location)
        with stores.database.write() as session:
            base = bases.add(session, described)
        for order in (
            model_cache.order_base(BaseModelSource(source=source), stores),
            model_cache.order_base_of(base, stores),
        ):
            assert order.pinned == BaseModelSource(source=source, revision="a" * 40)
            assert order.fingerprint == base.fingerprint
        moved = model_cache.order_base(BaseModelSource(source=source, revision="main"), stores)
        assert (moved.pinned, moved.fingerprint) == (None, None)
    stores.database.close()


def test_commit_with_a_name_of_its_own_does_not_stand_for_the_branch(hub: Hub) -> None:
    stores = open_stores(hub.settings)
    described = registry.describe_base("pinned", source="org/tiny", revision="a" * 40)
    with stores.database.write() as session:
        bases.add(session, described, rename=True)
    branch, commit = BaseModelSource(source="org/tiny"), BaseModelSource(source="org/tiny", revision="a" * 40)
    assert model_cache.order_base(branch, stores).pinned is None
    assert model_cache.order_base(commit, stores).pinned == commit
    stores.database.close()


def test_other_files_are_a_new_base(hub: Hub, earlier: str, tiny_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert hub.bases.add(copy, name="copy").id != hub.bases.get("tiny").id
    assert hub.bases.get("tiny").fingerprint == earlier


def test_versions_of_the_first_scheme_are_held_against_the_same_files(
    earlier: str, tiny_folder: Path, tmp_path: Path
) -> None:
    order = model_cache.BaseOrder(
        source=BaseModelSource(source=str(tiny_folder)),
        fetch="finch_hub.engine.bases.sources:fetch_folder",
        cache=tmp_path,
        fingerprint=earlier,
    )
    assert model_cache.fetch_base(order, say=lambda text: None) == tiny_folder
    cache = model_cache.BaseModelCache()
    base = cache.load(order, say=lambda text: None, dtype="float32")
    assert base.fingerprint.startswith("2:")
    assert cache.load(order, say=lambda text: None, dtype="float32") is base
    assert cache.load(order.evolve(fingerprint=base.fingerprint), say=lambda text: None, dtype="float32") is base
    with pytest.raises(errors.Incompatible, match="other files than when it was added"):
        model_cache.fetch_base(order.evolve(fingerprint="0" * 64), say=lambda text: None)

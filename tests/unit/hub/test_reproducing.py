from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import Hub, errors
from finch_hub.registry import tables, values
from finch_hub.registry.database import Database


def test_reproduction_names_all_that_is_gone(hub: Hub, versions: Database) -> None:
    registry.add_version(versions, "both", kind="compose", lineage=registry.made_from("medical/1", "legal/1"))
    registry.delete(versions, "medical/1")
    registry.delete(versions, "legal")
    message = (
        "cannot reproduce adapter both/1: 2 reasons\n"
        "  its parent medical/1 is missing: adapter version medical/1 was deleted"
        " (run `finch-hub adapters restore medical/1` to use it again)\n"
        "  its parent legal/1 is missing: adapter legal was deleted"
        " (run `finch-hub adapters restore legal` to use it again)"
    )
    with pytest.raises(errors.Conflict, match=re.escape(message)):
        hub.reproduce("both")
    registry.restore(versions, "medical/1")
    registry.restore(versions, "legal")
    assert hub.reproduce("both").spec.model_dump()["adapter"] == "both/1"


def test_reproduction_with_a_parent_that_never_had_files_says_what_brings_them(hub: Hub, versions: Database) -> None:
    registry.add_version(versions, "less", kind="quantize", lineage=registry.made_from("medical/1"))
    registry.delete(versions, "medical/1")
    with versions.write() as session:
        session.execute(sa.update(tables.AdapterVersion).values(digest=tables.AdapterVersion.identity))
    with pytest.raises(errors.Conflict, match=r"medical/1 came with a bundle without its files \(unbundle a bundle"):
        hub.reproduce("less")


def test_reproduction_of_a_deleted_or_purged_version_is_refused(hub: Hub, versions: Database) -> None:
    registry.delete(versions, "medical/1")
    with pytest.raises(errors.Deleted, match="adapters restore medical/1"):
        hub.reproduce("medical/1")
    registry.purge(versions, "medical")
    with pytest.raises(errors.Deleted, match="medical/1 was purged"):
        hub.reproduce("medical/1")


def test_reproduction_without_its_data_is_refused(hub: Hub, versions: Database) -> None:
    dataset = hub.datasets.add([("Which?", "A bird.")], name="birds")
    lineage = values.Lineage(train_digest=dataset.digest, validation_digest="0" * 64)
    registry.add_version(versions, "trained", lineage=lineage)
    hub.datasets.purge("birds")
    message = (
        rf"2 reasons\n  the data set {dataset.digest[:12]} was purged \(add the data of birds again\)\n"
        r"  the data set 0{12} was removed \(a training on the same data, .* stores it again\)"
    )
    with pytest.raises(errors.Conflict, match=message):
        hub.reproduce("trained")


def test_reproduction_of_a_version_from_a_bundle_says_that_its_data_did_not_come(hub: Hub, versions: Database) -> None:
    lineage = values.Lineage(train_digest="a" * 64)
    registry.add_version(versions, "guest", lineage=lineage, spec={"bundle": {"hub": "h"}})
    with pytest.raises(errors.Conflict, match=r"the data set a{12} was never in this hub, since a bundle has no data"):
        hub.reproduce("guest")

"""Versions that explain themselves: what they show, and what they look up."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import registry
from support.adapters import save_adapter

from finch_hub import Hub, Version, errors
from finch_hub.registry.database import Database
from finch_hub.specs.evidence import Evidence, LossCurve

CURVE = LossCurve.of_points([(1, 2.0, 1e-3), (2, 1.0, 1e-3)], [(0, 2.5, 0.1), (2, 1.5, 0.4)])


@pytest.fixture
def imported(hub: Hub, tiny_folder: Path, tmp_path: Path) -> Version:
    hub.bases.add(tiny_folder, name="tiny-base")
    made = save_adapter(tiny_folder, tmp_path / "made", r=4, target_modules=["q_proj"])
    hub.import_adapter(made, name="legal", base="tiny-base")
    hub.adapters.set_alias("legal/1", "best")
    hub.adapters.tag("legal/1", "checked")
    return hub.adapters["legal@best"]


def test_version_is_looked_up_by_each_form_of_reference(hub: Hub, imported: Version) -> None:
    assert hub.adapters["legal"] == hub.adapters["legal/1"] == imported
    assert len({hub.adapters["legal"], imported}) == 1
    assert "legal" in hub.adapters
    assert "legal@best" in hub.adapters
    assert "legal@production" not in hub.adapters
    assert "legal@@" not in hub.adapters
    assert 1 not in hub.adapters
    with pytest.raises(errors.NotFound, match="legal"):
        hub.adapters["legall"]


def test_version_has_everything_that_the_hub_knows(hub: Hub, imported: Version) -> None:
    assert (imported.reference, imported.aliases, imported.tags) == ("legal/1", ("best",), ("checked",))
    assert imported.value == hub.adapters.get("legal/1")
    assert imported.card.adapter == "legal/1"
    assert imported.evidence == hub.adapters.evidence("legal/1")
    assert imported.curve is None
    assert imported.parents == ()
    assert {"adapter_config.json", "adapter_model.safetensors"} <= imported.files.keys()
    assert all(path.is_file() for path in imported.files.values())


def test_everything_that_is_written_is_an_attribute_and_completion_offers_nothing_else(
    hub: Hub, versions: Database, imported: Version
) -> None:
    hub.adapters.describe("legal", "Reads contracts.")
    hub.adapters.note("medical/1", "Too small.")
    for reference in ("legal", "medical"):
        version = hub.adapters[reference]
        for name in version._list_fields():
            assert eval(f"version.{name}", {"version": version}) is not None, name
    assert {name for name in dir(imported) if not name.startswith("_")} == {
        *("reference", "name", "number", "state", "kind", "base", "description", "preset", "notes", "created_at"),
        *("job_id", "identity", "digest", "metrics", "spec", "lineage", "aliases", "tags", "parents", "card"),
        *("files", "evidence", "curve", "value", "refresh"),
    }
    for name in ("kind", "description", "preset", "notes", "created_at", "job_id", "identity", "digest"):
        assert getattr(imported, name) == getattr(imported.value, name)


def test_parents_are_versions_too(hub: Hub, versions: Database) -> None:
    registry.add_version(versions, "both", lineage=registry.made_from("medical/1", "legal/1"))
    assert [parent.reference for parent in hub.adapters["both"].parents] == ["medical/1", "legal/1"]


def test_version_is_a_table_of_a_few_lines(imported: Version) -> None:
    title, *rows = repr(imported).splitlines()
    assert title == "Version"
    assert ["aliases", "('best',)"] in [row.split() for row in rows]
    assert len(rows) < 19
    assert "digest" not in repr(imported)


def test_notebook_sees_the_loss_curve_below_the_fields(hub: Hub, versions: Database) -> None:
    registry.add_version(versions, "trained", evidence=Evidence(kind="train", curve=CURVE).model_dump(mode="json"))
    assert hub.adapters["trained"].curve == CURVE
    shown = hub.adapters["trained"]._repr_html_()
    assert shown.index("</table>") < shown.index("<svg")


def test_refreshed_version_has_its_new_aliases(hub: Hub, imported: Version) -> None:
    hub.adapters.set_alias("legal/1", "production")
    assert imported.aliases == ("best",)
    assert imported.refresh().aliases == ("best", "production")


def test_loops_go_over_all_pages(hub: Hub, database: Database) -> None:
    names = [f"adapter-{n:03}" for n in range(120)]
    for name in names:
        registry.add_version(database, name)
    assert list(hub.adapters) == names
    assert {version.name for version in hub.adapters.iterate("adapter")} == set(names)
    assert [version.name for version in hub.adapters.iterate("adapter", sort="name")] == names

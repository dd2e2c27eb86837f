from __future__ import annotations

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_names, metric_history
from finch_hub.registry.database import Database


def test_metric_of_each_version_is_found_oldest_first_without_deleted_ones(database: Database) -> None:
    for metrics in ({"loss_after": 2.5}, {"loss_after": 2.0}, {"scheme": "int8"}, {"loss_after": 1.5}):
        registry.add_version(database, metrics=metrics)
    registry.add_version(database, "other", metrics={"loss_after": 9.0})
    registry.delete_version(database, "medical", 2)
    with database.read() as session:
        points = metric_history.find(session, "medical", "loss_after")
    found = [(point.version, point.value, point.state) for point in points]
    assert found == [("medical/1", 2.5, "ready"), ("medical/3", None, "ready"), ("medical/4", 1.5, "ready")]


def test_unknown_metric_and_adapter_are_refused_with_similar_names(database: Database) -> None:
    registry.add_version(database, metrics={"loss_after": 2.5, "odd.name \"'": 1})
    with database.read() as session:
        with pytest.raises(errors.NotFound, match=r"there is no metric 'loss_befter' .did you mean 'loss_after'"):
            metric_history.find(session, "medical", "loss_befter")
        with pytest.raises(errors.NotFound, match=r"there is no adapter 'medicol' .did you mean 'medical'"):
            metric_history.find(session, "medicol", "loss_after")
        (point,) = metric_history.find(session, "medical", "odd.name \"'")
    assert point.value == 1


def test_former_name_stands_for_the_adapter(database: Database) -> None:
    registry.add_version(database, metrics={"loss_after": 2.5})
    with database.write() as session:
        adapter_names.rename(session, "medical", "team/medical")
        (point,) = metric_history.find(session, "medical", "loss_after")
    assert point.version == "team/medical/1"

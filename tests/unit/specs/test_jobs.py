from typing import Any

import pytest

from finch_hub import errors
from finch_hub.specs import jobs
from finch_hub.workers.runs import kinds


def test_final_states_have_no_transition() -> None:
    assert {state for state, following in jobs.TRANSITIONS.items() if not following} == jobs.FINAL


def test_every_state_but_waiting_is_reached() -> None:
    reached = frozenset[jobs.JobState]().union(*jobs.TRANSITIONS.values())
    assert set(jobs.JobState) - reached == {jobs.JobState.WAITING}


@pytest.mark.parametrize(
    "spec",
    [
        jobs.TrainSpec(adapter="a", base=jobs.BaseModelSource(source="org/model"), train="0" * 64),
        jobs.ComposeSpec(adapter="c", parents=(jobs.Parent(adapter="a/1"), jobs.Parent(adapter="b@best", weight=0.5))),
        jobs.MergeSpec(parents=(jobs.Parent(adapter="a"),), out="out"),
        jobs.QuantizeSpec(adapter="a"),
        jobs.ExportSpec(adapter="a", format="gguf", out="out"),
        jobs.EvaluateSpec(base=jobs.BaseModelSource(source="m"), dataset="f" * 64),
        jobs.ReproduceSpec(adapter="a/1"),
    ],
    ids=lambda spec: spec.kind,
)
def test_spec_of_every_kind_read_from_json_equals_itself(spec: jobs.JobSpec) -> None:
    assert kinds.kind_of(spec.kind).spec_of(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (jobs.ComposeSpec(adapter="c", parents=(jobs.Parent(adapter="a/1"),)), "parameters"),
        (jobs.ComposeSpec(adapter="c", parents=(jobs.Parent(adapter="a/1"),)), "resolver_parameters"),
        (jobs.ExportSpec(adapter="a", format="gguf", out="out"), "parameters"),
        (jobs.EvaluateSpec(base=jobs.BaseModelSource(source="m"), dataset="f" * 64), "parameters"),
    ],
)
def test_parameters_that_are_nested_too_deeply_are_refused(spec: jobs.JobSpec, field: str) -> None:
    """The databases would store them, in documents that nobody can read."""
    deep: Any = 1
    for _ in range(100):
        deep = {"a": deep}
    assert getattr(spec.evolve(**{field: deep}), field) == deep
    with pytest.raises(errors.InvalidSpec, match=f"{field}: is nested more than 100 deep"):
        spec.evolve(**{field: {"a": [deep]}})


def test_changed_memory_is_no_estimate() -> None:
    estimated = jobs.Requirements(memory_bytes=1, is_memory_estimated=True)
    assert estimated.evolve(queue="night").is_memory_estimated
    assert not estimated.evolve(memory_bytes=2).is_memory_estimated
    assert estimated.evolve(memory_bytes=2, is_memory_estimated=True).is_memory_estimated

import pytest

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

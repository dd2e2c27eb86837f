import pytest

from finch_hub import errors
from finch_hub.specs.jobs import BaseModelSource, MergeSpec, Parent, TrainSpec
from finch_hub.specs.lora import LoRAConfig


def problems(**fields: object) -> dict[str, errors.Problem]:
    with pytest.raises(errors.InvalidSpec) as caught:
        LoRAConfig.of(fields)
    assert len({problem.where for problem in caught.value.problems}) == len(caught.value.problems)
    return {problem.where: problem for problem in caught.value.problems}


def test_field_of_a_union_type_is_one_problem() -> None:
    assert problems(rank=0)["rank"].what == "Input should be greater than 0, or 'auto'"


@pytest.mark.parametrize("name", ["rank", "alpha", "init", "target_modules"])
def test_true_is_neither_a_number_nor_a_text(name: str) -> None:
    assert problems(**{name: True})[name].what == "cannot be true or false"


@pytest.mark.parametrize(
    ("name", "value"),
    [("layers_to_transform", [True]), ("rank_pattern", {"q_proj": True}), ("alpha_pattern", {"q_proj": False})],
)
def test_true_in_a_list_or_mapping_is_no_number(name: str, value: object) -> None:
    assert problems(**{name: value})[name].what == "cannot contain true or false"


def test_one_is_not_true() -> None:
    assert problems(use_dora=1)["use_dora"].what == "is neither true nor false"
    assert LoRAConfig.of({"use_dora": True}).use_dora


def test_unknown_field_offers_similar_names() -> None:
    found = problems(alhpa=3.0, zyx=1)
    assert found["alhpa"].fix.startswith("did you mean alpha")
    assert found["zyx"].fix == ""


def test_stored_value_of_another_version_is_read_without_its_unknown_fields() -> None:
    stored = TrainSpec(adapter="medical", base=BaseModelSource(source="tiny"), train="0" * 64).model_dump(mode="json")
    newer = {
        **stored,
        "schedule": {"of": "ranks"},
        "base": {**stored["base"], "mirror": "eu"},
        "lora": {**stored["lora"], "rank": "auto", "decay": 0.5},
    }
    assert TrainSpec.of_stored(newer) == TrainSpec.of(stored | {"lora": {**stored["lora"], "rank": "auto"}})
    assert TrainSpec.list_unknown(newer) == ["base.mirror", "lora.decay", "schedule"]
    assert newer["base"]["mirror"] == "eu", "the stored document stays as it is"
    with pytest.raises(errors.InvalidSpec, match="rank"):
        TrainSpec.of_stored({**newer, "lora": {"rank": -1, "decay": 0.5}})
    with pytest.raises(errors.InvalidSpec, match="schedule"):
        TrainSpec.of(newer)


def test_unknown_fields_in_a_list_are_passed_over() -> None:
    parent = {"adapter": "medical/1", "weight": 1.0}
    stored = {"kind": "merge", "parents": [parent, {**parent, "sign": -1}], "out": "/merged"}
    assert MergeSpec.list_unknown(stored) == ["parents.1.sign"]
    assert MergeSpec.of_stored(stored).parents == (Parent(adapter="medical/1"),) * 2


def test_nested_field_is_named_by_its_path() -> None:
    assert list(problems(rank_pattern={"q_proj": 0})) == ["rank_pattern.q_proj"]


def test_completion_offers_fields_and_methods_of_ours_and_none_of_pydantics_first_version() -> None:
    methods = {"evolve", "of", "model_dump", "model_dump_json"}
    assert {name for name in dir(LoRAConfig()) if not name.startswith("_")} == methods | set(LoRAConfig.model_fields)
    assert {name for name in dir(LoRAConfig) if not name.startswith("_")} == methods

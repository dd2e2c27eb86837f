import pytest

from finch_hub import errors
from finch_hub.specs.lora import LoRAConfig


def problems(**fields: object) -> dict[str, errors.Problem]:
    with pytest.raises(errors.InvalidSpec) as caught:
        LoRAConfig.of(fields)
    assert len({problem.where for problem in caught.value.problems}) == len(caught.value.problems)
    return {problem.where: problem for problem in caught.value.problems}


def test_field_of_a_union_type_is_one_problem() -> None:
    assert problems(rank=0)["rank"].what == "Input should be greater than 0, or 'auto'"


def test_unknown_field_offers_similar_names() -> None:
    found = problems(alhpa=3.0, zyx=1)
    assert found["alhpa"].fix.startswith("did you mean alpha")
    assert found["zyx"].fix == ""


def test_nested_field_is_named_by_its_path() -> None:
    assert list(problems(rank_pattern={"q_proj": 0})) == ["rank_pattern.q_proj"]

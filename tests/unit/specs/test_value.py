"""How values report what is wrong with their fields."""

import pytest

from finch_hub import errors
from finch_hub.specs.lora import LoRAConfig


def problems(**fields: object) -> dict[str, errors.Problem]:
    with pytest.raises(errors.InvalidSpec) as caught:
        LoRAConfig.of(fields)
    assert len({problem.where for problem in caught.value.problems}) == len(caught.value.problems)
    return {problem.where: problem for problem in caught.value.problems}


def test_a_field_of_several_kinds_is_one_problem() -> None:
    assert problems(rank=0)["rank"].what == "Input should be greater than 0, or 'auto'"


def test_an_unknown_field_offers_the_near_ones_if_there_are_any() -> None:
    found = problems(alhpa=3.0, zyx=1)
    assert found["alhpa"].fix.startswith("did you mean alpha")
    assert found["zyx"].fix == ""


def test_a_nested_field_has_its_path() -> None:
    assert list(problems(rank_pattern={"q_proj": 0})) == ["rank_pattern.q_proj"]

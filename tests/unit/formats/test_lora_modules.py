from __future__ import annotations

import pytest

from finch_hub.formats.lora_modules import find_modules
from finch_hub.formats.peft_names import Part, tensor_name

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


def name(part: Part, path: str = "q") -> str:
    return tensor_name(path, part)


def test_tensors_are_sorted_into_modules_and_others() -> None:
    shapes = {name("A"): (2, 6), name("B"): (4, 2), name("magnitude"): (4,), "base_model.model.head.weight": (3, 3)}
    shapes |= {name("embedding_A", "e"): (2, 9), name("embedding_B", "e"): (4, 2)}
    found = find_modules(shapes, CONFIG)
    assert found.problems == ()
    assert found.others == ("base_model.model.head.weight",)
    q, e = found.modules["q"], found.modules["e"]
    assert (q.rank, q.scale, q.inputs, q.outputs, q.embedding, q.magnitude) == (2, 2.0, 6, 4, False, name("magnitude"))
    assert (e.a, e.b, e.inputs, e.embedding, e.magnitude) == (
        name("embedding_A", "e"),
        name("embedding_B", "e"),
        9,
        True,
        None,
    )


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        ({name("A"): (2, 6)}, "has no lora_B.weight"),
        ({name("embedding_B"): (4, 2)}, "has no lora_embedding_A"),
        ({name("A"): (2, 6), name("embedding_B"): (4, 2)}, "does not have A and B of one kind"),
        ({name("A"): (2, 6), name("B"): (4, 3)}, "A [2, 6] and B [4, 3] are not [rank, inputs] and [outputs, rank]"),
        ({name("A"): (3, 6), name("B"): (4, 3)}, "has rank 3, but the config says 2"),
    ],
)
def test_factors_that_are_not_a_module_are_a_problem(shapes: dict[str, tuple[int, ...]], what: str) -> None:
    found = find_modules(shapes, CONFIG)
    assert found.modules == {}
    assert [(problem.where, problem.what) for problem in found.problems] == [("q", what)]


def test_second_tensor_of_a_part_is_a_problem() -> None:
    shapes = {name("A"): (2, 6), name("B"): (4, 2), name("magnitude"): (4,), f"{name('magnitude')}.weight": (4,)}
    (problem,) = find_modules(shapes, CONFIG).problems
    assert problem.what == "is the second tensor of its kind in one module"

from __future__ import annotations

from peft.tuners.lora import LoraLayer
from support.training import adapted, lessons

from finch_hub.engine.bases.base import Base
from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.engine.inference.samples import MAX_TOKENS, sample_answers
from finch_hub.specs.evidence import Samples
from finch_hub.specs.examples import Example

LESSONS = lessons(9)


def ask(base: Base, adapter: str, **options: object) -> Samples:
    arguments: dict[str, object] = {"system": None, "count": 3, "seconds": 600.0, **options}
    found = sample_answers(base, adapter, LESSONS, **arguments)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_answers_are_those_of_the_base_and_of_the_adapter_alone(tiny_base: Base) -> None:
    model = GeneratorModel(tiny_base)
    prompts = [LESSONS[place].messages[0].content for place in (0, 3, 6)]
    expected = model.generate(prompts, adapter=None, max_new_tokens=MAX_TOKENS)
    adapter, other = adapted(tiny_base, name="one"), adapted(tiny_base, name="two", seed=1)
    try:
        found = ask(tiny_base, "one")
        layers = [module for module in tiny_base.model.modules() if isinstance(module, LoraLayer)]
        assert {tuple(layer.active_adapters) for layer in layers} == {("one", "two")}
        other.disable()
        alone = ask(tiny_base, "one")
    finally:
        adapter.detach()
        other.detach()
    assert [sample.prompt for sample in found.samples] == prompts
    assert [sample.expected for sample in found.samples] == [LESSONS[n].messages[1].content for n in (0, 3, 6)]
    assert [sample.before for sample in found.samples] == expected
    assert [sample.after for sample in found.samples] != expected
    assert alone == found


def test_examples_that_cannot_be_asked_are_passed_over(tiny_base: Base) -> None:
    long = Example.of_pair("Where does it live? " * 2000, "In woods.")
    text = Example(text="A finch eats seeds.")
    adapter = adapted(tiny_base)
    try:
        for examples, prompts in (
            ([long, text, LESSONS[1]], ["What does finch 1 eat in the morning?"]),
            ([text, long], []),
            ([], []),
        ):
            found = sample_answers(tiny_base, adapter.name, examples, system=None, count=2, seconds=600.0)
            assert [sample.prompt for sample in found.samples] == prompts if found else not prompts
    finally:
        adapter.detach()


def test_answers_are_cut_when_their_time_is_over_or_a_stop_is_requested(tiny_base: Base) -> None:
    adapter = adapted(tiny_base)
    try:
        for found in (
            ask(tiny_base, adapter.name, seconds=0.0),
            ask(tiny_base, adapter.name, should_stop=lambda: True),
        ):
            assert all(sample.is_cut for sample in found.samples)
            assert all(len(sample.after) < 40 for sample in found.samples)
    finally:
        adapter.detach()


def test_answers_that_are_cut_too_early_are_not_kept(tiny_base: Base) -> None:
    adapter = adapted(tiny_base)
    try:
        options = {"system": None, "count": 2, "least_tokens": 8}
        assert sample_answers(tiny_base, adapter.name, LESSONS, seconds=0.0, **options) is None  # type: ignore[arg-type]
        assert sample_answers(tiny_base, adapter.name, LESSONS, seconds=600.0, **options) is not None  # type: ignore[arg-type]
    finally:
        adapter.detach()

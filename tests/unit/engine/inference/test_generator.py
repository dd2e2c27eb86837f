"""A base with many adapters: loaded, trained, switched and asked together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.adapters import VARIANTS, save_adapter

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.engine.inference.prompts import Prompt
from finch_hub.specs.examples import Message
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

IDS = torch.arange(5, 45).reshape(2, 20)
PROMPTS = ["What does a finch eat?", "Where does it live, and why?", "Take", "How many eggs does it lay?"]


def logits(base: Base) -> torch.Tensor:
    with torch.no_grad():
        return base.model(IDS).logits


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [save_adapter(tiny_folder, root / f"adapter-{n}", seed=n, **VARIANTS["plain"]) for n in range(4)]


@pytest.fixture
def model(tiny_base: Base, folders: list[Path]) -> GeneratorModel:
    model = GeneratorModel(tiny_base)
    for folder in folders:
        model.load_lora(folder)
    return model


def test_load_switches_adapters_and_keeps_the_base(tiny_base: Base, folders: list[Path]) -> None:
    model, untouched = GeneratorModel(tiny_base), logits(tiny_base)
    base_answer = model.generate(PROMPTS[0], max_new_tokens=12)
    answers = []
    for folder in folders[:2]:
        assert model.load_lora(folder) == folder.name == model.active
        answers.append(model.generate(PROMPTS[0], max_new_tokens=12))
    assert len({base_answer, *answers}) == 3
    assert torch.equal(logits(tiny_base), untouched)
    model.switch("adapter-0")
    assert model.generate(PROMPTS[0], max_new_tokens=12) == answers[0]
    assert model.generate(PROMPTS[0], max_new_tokens=12, adapter="adapter-1") == answers[1]
    assert model.active == "adapter-0"
    assert model.generate(PROMPTS[0], max_new_tokens=12, adapter=None) == base_answer
    model.switch(None)
    assert model.generate(PROMPTS[0], max_new_tokens=12) == base_answer


def test_batch_of_several_adapters_gives_the_answers_of_single_prompts(tiny_bases: Base, tmp_path: Path) -> None:
    model = GeneratorModel(tiny_bases)
    for name, fields in VARIANTS.items():
        model.load_lora(save_adapter(tiny_bases.folder, tmp_path / name, seed=1, **fields))
    prompts = [*PROMPTS, *reversed(PROMPTS)]
    names = ["dora", None, "plain", "patterns", "rslora", None, "plain", "rslora"]
    together = model.generate(prompts, adapter=names, max_new_tokens=16)
    alone = [model.generate(p, adapter=n, max_new_tokens=16) for p, n in zip(prompts, names, strict=True)]
    assert together == alone
    assert len(set(together)) == len(prompts)


def test_using_adapts_direct_calls_of_the_model(model: GeneratorModel) -> None:
    untouched = logits(model.base)
    with model.using("adapter-1"):
        alone = logits(model.base)
    with model.using(["adapter-1", None]):
        mixed = logits(model.base)
    torch.testing.assert_close(mixed[0], alone[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed[1], untouched[1], rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model.base), untouched)


def test_stream_gives_the_answer_in_pieces(model: GeneratorModel) -> None:
    pieces = list(model.generate(PROMPTS[0], max_new_tokens=16, stream=True))
    assert len(pieces) > 3
    assert "".join(pieces) == model.generate(PROMPTS[0], max_new_tokens=16)


def test_switching_during_a_stream_does_not_change_it(model: GeneratorModel) -> None:
    whole = model.generate(PROMPTS[0], adapter="adapter-2", max_new_tokens=16)
    stream = model.generate(PROMPTS[0], adapter="adapter-2", max_new_tokens=16, stream=True)
    pieces = [next(stream)]
    model.switch("adapter-0")
    other = model.generate(PROMPTS[0], max_new_tokens=16)
    assert "".join([*pieces, *stream]) == whole != other


def test_unloading_during_a_stream_does_not_change_it(model: GeneratorModel) -> None:
    whole = model.generate(PROMPTS[0], adapter="adapter-2", max_new_tokens=16)
    stream = model.generate(PROMPTS[0], adapter="adapter-2", max_new_tokens=16, stream=True)
    pieces = [next(stream)]
    for name in model.adapters:
        model.unload(name)
    assert "".join([*pieces, *stream]) == whole
    assert not any(module._forward_hooks for module in model.base.model.modules())


def test_system_prompt_and_conversation_reach_the_template(model: GeneratorModel) -> None:
    plain = model.generate("Where?", max_new_tokens=12)
    told = model.generate("Where?", system="Answer in one sentence.", max_new_tokens=12)
    turns = (Message(role="system", content="Answer in one sentence."), Message(role="user", content="Where?"))
    assert told != plain
    assert model.generate(turns, max_new_tokens=12) == told
    assert (
        model.generate(turns, system="Another one.", max_new_tokens=12) == told
    )  # a conversation keeps its system prompt
    both: list[Prompt] = [turns, "Where?"]
    assert model.generate(both, max_new_tokens=12) == [told, plain]


def test_prompt_gets_the_system_prompt_of_its_adapter(model: GeneratorModel, folders: list[Path]) -> None:
    told = model.generate("Where?", adapter="adapter-1", system="Answer in one sentence.", max_new_tokens=12)
    plain = model.generate("Where?", adapter="adapter-1", max_new_tokens=12)
    base = model.generate("Where?", adapter=None, max_new_tokens=12)
    model.load_lora(folders[1], system="Answer in one sentence.")
    assert told != plain
    assert model.generate("Where?", max_new_tokens=12) == told
    assert model.generate(["Where?", "Where?"], adapter=["adapter-1", None], max_new_tokens=12) == [told, base]
    model.load_lora(folders[1])
    assert model.generate("Where?", max_new_tokens=12) == plain


def test_sampling_leaves_the_random_numbers_of_its_caller_alone(model: GeneratorModel) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model.generate(PROMPTS, temperature=1.0, max_new_tokens=3)
    assert torch.equal(torch.rand(3), expected)


def test_samples_repeat_with_their_seed(model: GeneratorModel) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.95}
    assert model.generate(PROMPTS, seed=3, **options) == model.generate(PROMPTS, seed=3, **options)
    assert model.generate(PROMPTS, seed=3, **options) != model.generate(PROMPTS, seed=4, **options)
    assert model.generate(PROMPTS, **options) != model.generate(PROMPTS, **options)


def test_unload_removes_the_adapter(model: GeneratorModel) -> None:
    model.unload("adapter-3")
    assert model.active is None
    assert model.adapters == ("adapter-0", "adapter-1", "adapter-2")
    with pytest.raises(errors.NotFound, match=r"did you mean 'adapter-"):
        model.switch("adapter-3")


def test_fine_tuned_adapter_answers_and_stays_until_saved(tiny_base: Base, folders: list[Path], tmp_path: Path) -> None:
    model, untouched = GeneratorModel(tiny_base, cache_size=1), logits(tiny_base)
    pairs = [("What does a finch eat?", "It eats seeds."), ("Where does it live?", "In woods.")]
    training = TrainingConfig(threads=1, evaluate_every=20)
    report = model.fine_tune(
        pairs, LoRAConfig(target_modules="all-linear"), 40, 1e-2, validation=pairs, training=training
    )
    assert report.before is not None
    assert report.after is not None
    assert report.after.loss < 0.1 * report.before.loss
    assert model.active == "fine-tuned"
    assert [model.generate(prompt, max_new_tokens=12) for prompt, _ in pairs] == [answer for _, answer in pairs]
    assert torch.equal(logits(tiny_base), untouched)
    # Without files it stays in memory when others are loaded.
    for folder in folders:
        model.load_lora(folder)
    assert "fine-tuned" in model._router._adapters
    model.save_lora(tmp_path / "birds.safetensors", "fine-tuned")
    other = GeneratorModel(tiny_base)
    assert other.load_lora(tmp_path / "birds.safetensors") == "birds"
    assert other.generate(pairs[0][0], max_new_tokens=12) == pairs[0][1]


def test_invalid_requests_are_refused(model: GeneratorModel) -> None:
    with pytest.raises(errors.InvalidSpec) as caught:
        model.generate(["Where?", " ", "seeds " * 600])
    assert [problem.where for problem in caught.value.problems] == ["prompt 2", "prompt 3"]
    with pytest.raises(errors.InvalidSpec, match="there are no prompts"):
        model.generate([])
    with pytest.raises(errors.InvalidSpec, match="2 adapters for 1 prompt"):
        model.generate(["Where?"], adapter=["adapter-0", None])
    with pytest.raises(errors.NotFound, match=r"no loaded adapter 'adaptor-0' .did you mean 'adapter-0'"):
        model.generate("Where?", adapter="adaptor-0")
    with pytest.raises(errors.InvalidSpec, match="only a single prompt"):
        model.generate(["Where?"], stream=True)  # type: ignore[call-overload]
    with pytest.raises(errors.InvalidSpec, match="top_p"):
        model.generate("Where?", top_p=0.0)
    with pytest.raises(errors.InvalidSpec, match="cache_size"):
        GeneratorModel(model.base, cache_size=0)
    with pytest.raises(errors.InvalidSpec, match="no adapter is active"):
        GeneratorModel(model.base).save_lora("nowhere")


def test_load_of_an_adapter_that_does_not_fit_changes_nothing(
    model: GeneratorModel, tiny_folder: Path, tmp_path: Path
) -> None:
    from support.models import ARCHITECTURES, save_model

    other = save_model(ARCHITECTURES[1], tmp_path / "other")
    folder = save_adapter(other, tmp_path / "adapter-0", r=4, target_modules=["k_proj"])
    before = model.generate("Where?", adapter="adapter-0", max_new_tokens=8)
    with pytest.raises(errors.Incompatible, match="a base other than"):
        model.load_lora(folder)
    assert model.active == "adapter-3"
    assert model.generate("Where?", adapter="adapter-0", max_new_tokens=8) == before


@pytest.mark.parametrize(
    "prompt",
    [
        5,
        None,
        [("a", "b")],
        [None],
        ["fine", 5],
        {"role": "user", "content": "a"},
        [{"role": "user"}],
        b"a",
        ("a",),
        [["a"]],
    ],
    ids=str,
)
def test_prompt_of_another_type_is_refused_by_number(model: GeneratorModel, prompt: Any) -> None:
    with pytest.raises(errors.InvalidSpec, match=r"prompt \d: is .*, not a text or a conversation \(give a text"):
        model.generate(prompt)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seed": "one"}, "seed: is 'one', not an integer"),
        ({"system": 5}, "system: is 5, not a text"),
        ({"adapter": 5}, "adapter: is 5, not the name"),
        ({"adapter": [5]}, "adapter: is .5., not the name"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_new_tokens": None}, "max_new_tokens"),
    ],
)
def test_option_of_another_type_is_refused_by_name(model: GeneratorModel, options: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=says):
        model.generate("Where?", **options)


def test_no_prompts_are_refused(model: GeneratorModel) -> None:
    nothing: list[Any] = [[], ""]
    for prompt in nothing:
        with pytest.raises(errors.InvalidSpec, match=r"there are no prompts|prompt 1: is empty"):
            model.generate(prompt)
    with pytest.raises(errors.InvalidSpec, match="prompt 1: is empty"):
        model.generate(())


def test_options_of_the_configurations_are_refused_before_rows_are_read(model: GeneratorModel) -> None:
    options: Any = {"prompt_column": "q", "max_steps": 2, "rank": 4, "nosuch": 1}
    with pytest.raises(errors.InvalidSpec) as caught:
        model.fine_tune(iter(()), **options)
    text = str(caught.value)
    for place in (
        "reading=ReadingConfig(prompt_column=…)",
        "training=TrainingConfig(max_steps=…)",
        "lora_config=LoRAConfig(rank=…)",
        "nosuch: is not an option of fine_tune",
    ):
        assert place in text


def test_adapter_that_is_not_loaded_is_named_with_those_that_are(model: GeneratorModel) -> None:
    with pytest.raises(errors.NotFound, match=r"no loaded adapter 'bees'.*adapter-0"):
        model.generate("Who sings?", adapter="bees")


def test_model_is_a_short_text_and_removes_its_adapters_at_the_end_of_its_block(
    tiny_base: Base, folders: list[Path]
) -> None:
    with GeneratorModel(tiny_base) as model:
        for folder in folders:
            model.load_lora(folder)
        title, *rows = repr(model).splitlines()
        assert title == "GeneratorModel"
        assert "  active    'adapter-3'" in rows
        assert len(rows) == 5
    assert (model.adapters, model.active) == ((), None)
    assert not any(module._forward_hooks for module in tiny_base.model.modules())

"""Built-in evaluators."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.training import BIRDS, adapted, reference

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.inference import evaluators
from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.specs.evaluation import AnswerParameters, LossParameters
from finch_hub.specs.examples import Example


@pytest.fixture
def model(tiny_base: Base, tmp_path: Path) -> GeneratorModel:
    """Return a model with an adapter loaded and active."""
    adapter = adapted(tiny_base, seed=3)
    adapter.save(tmp_path / "birds")
    adapter.detach()
    model = GeneratorModel(tiny_base)
    model.load_lora(tmp_path / "birds")
    return model


def test_held_out_loss_measures_the_active_adapter(model: GeneratorModel) -> None:
    examples = tokenize_all(BIRDS, model.base.tokenizer, max_length=512)
    found = evaluators.held_out_loss(model, BIRDS)
    model.switch(None)
    base = evaluators.held_out_loss(model, BIRDS)
    model.unload("birds")
    adapter = adapted(model.base, seed=3)
    assert found["loss"] == pytest.approx(reference(model.base, adapter, examples)[0], rel=1e-4)
    adapter.disable()
    assert base["loss"] == pytest.approx(float(evaluators.held_out_loss(model, BIRDS)["loss"]))
    assert found["loss"] != pytest.approx(base["loss"], rel=1e-3)
    assert found["tokens"] == sum(int(example.labels.sum()) for example in examples)
    assert found["perplexity"] == pytest.approx(torch.tensor(found["loss"]).exp().item(), rel=1e-5)


def test_a_few_rows_that_are_too_long_are_left_out_and_counted(model: GeneratorModel) -> None:
    rows = [*BIRDS * 6, Example.of_pair("seeds " * 1500, "Buds.")]
    assert evaluators.held_out_loss(model, rows)["left_out"] == 1
    found = evaluators.exact_answer(model, rows, AnswerParameters(max_new_tokens=1))
    assert (found["left_out"], found["examples"]) == (1, 24)
    assert "left_out" not in evaluators.held_out_loss(model, rows[:4])
    for evaluate in (evaluators.held_out_loss, evaluators.exact_answer):
        with pytest.raises(errors.InvalidDataset, match="example 3"):
            evaluate(model, rows[-3:])


def test_answer_with_the_expected_words_is_right(model: GeneratorModel) -> None:
    prompts = ["What does a finch eat?", "Where does it live?", "Sing!"]
    answers = [str(model.generate(prompt, max_new_tokens=64)) for prompt in prompts]
    words = [evaluators._words(answer).split() for answer in answers]
    answered = [index for index, answer_words in enumerate(words) if answer_words]
    assert answered, "the model answers no prompt with a word"
    asked = [Example.of_pair(prompts[index], f"{words[index][0].upper()}!") for index in answered]
    wrong = [Example.of_pair(prompts[index], "zebra") for index in answered]
    assert evaluators.exact_answer(model, asked + wrong) == {
        "right": len(answered),
        "examples": 2 * len(answered),
        "accuracy": 0.5,
    }


def test_long_answer_gets_enough_tokens(model: GeneratorModel) -> None:
    prompt = "What does a finch eat?"
    answer = str(model.generate(prompt, max_new_tokens=150))
    example = Example.of_pair(prompt, answer)
    assert len(model.base.tokenizer(answer)["input_ids"]) > evaluators._ANSWER_TOKENS
    assert evaluators.exact_answer(model, [example])["right"] == 1
    assert evaluators.exact_answer(model, [example], AnswerParameters(max_new_tokens=20))["right"] == 0


def test_system_prompt_is_added_to_examples_without_one(model: GeneratorModel) -> None:
    bare = [Example.of_pair("What does a finch eat?", "Seeds."), Example.of_pair("Sing!", "It sings.", "Be brief.")]
    led = [Example.of_pair("What does a finch eat?", "Seeds.", "You know birds."), bare[1]]
    found = evaluators.held_out_loss(model, bare, LossParameters(system="You know birds."))
    assert found == evaluators.held_out_loss(model, led)
    assert found["loss"] != evaluators.held_out_loss(model, bare)["loss"]
    answer = str(model.generate("What does a finch eat?", system="You know birds.", max_new_tokens=64))
    wanted = [Example.of_pair("What does a finch eat?", answer)]
    assert evaluators.exact_answer(model, wanted, AnswerParameters(system="You know birds."))["right"] == 1
    assert evaluators.exact_answer(model, wanted)["right"] == 0


def test_comparison_takes_whole_words_without_case_and_punctuation() -> None:
    assert evaluators._words("7 years") in evaluators._words("It lives  7\nYEARS, at most.")
    assert evaluators._words("7 years") not in evaluators._words("It lives 17 years.")


def test_examples_without_a_question_are_reported_by_number(model: GeneratorModel) -> None:
    silent = Example.of_pair("What?", "...")
    with pytest.raises(errors.InvalidDataset) as caught:
        evaluators.exact_answer(model, [Example(text="The finch sings."), *BIRDS, silent])
    assert [problem.where for problem in caught.value.problems] == ["example 1", "example 6"]

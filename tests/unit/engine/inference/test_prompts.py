"""Prompts of a generation: the same tokens as before the answers of a training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.models import DEFAULT, ENDLESS_STEPS, THINKING, make_steps_endless, make_tokenizer, save_model
from support.templates import DEEPSEEK_R1, ENDLESS, GEMMA_3, PHI_3, QWEN_3, Family, tokenizer_of

from finch_hub import errors
from finch_hub.engine.bases.base import load_base
from finch_hub.engine.data import row_time
from finch_hub.engine.data.chat import ChatTemplate, Conversation
from finch_hub.engine.data.tokenizing import tokenize
from finch_hub.engine.inference.decoding import end_tokens
from finch_hub.engine.inference.evaluators import held_out_loss
from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.engine.inference.prompts import tokenize_prompts
from finch_hub.specs.examples import Example, Message
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

if TYPE_CHECKING:
    from finch_hub.engine.bases.base import Base

PAIR = Example.of_pair("What does it eat?", "Seeds.", "You know birds.")


def with_tokenizer(base: Base, tokenizer: Any) -> Base:
    return dataclasses.replace(base, tokenizer=tokenizer)


def begun(template: str | None) -> Any:
    """Return a tokenizer that begins each text with a token, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.convert_tokens_to_ids("<|endoftext|>"))]
    )
    return tokenizer


@pytest.mark.parametrize("template", [None, THINKING], ids=["no-template", "template"])
def test_a_prompt_has_the_tokens_of_a_training(template: str | None, tiny_base: Base) -> None:
    base = with_tokenizer(tiny_base, begun(template))
    example = tokenize(PAIR, ChatTemplate(base.tokenizer), max_length=512)
    (prompt,) = tokenize_prompts([PAIR.messages[:2]], base, systems=[None], thinking=[False])
    assert example.input_ids[: len(prompt)].tolist() == prompt
    assert int(example.labels.argmax()) == len(prompt)
    first = base.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert (prompt[0] == first, prompt.count(first)) == ((True, 1) if template is None else (False, 0))


def test_a_prompt_after_an_answer_that_begins_inside_a_token_has_the_tokens_of_a_training(tiny_base: Base) -> None:
    turns = [Message(role="user", content="q"), Message(role="assistant", content="    return 1")] * 2
    example = tokenize(Example(messages=tuple(turns)), ChatTemplate(tiny_base.tokenizer), max_length=512)
    unlearned = [turns[0], turns[1].evolve(learn=False), *turns[2:]]
    same = tokenize(Example(messages=tuple(unlearned)), ChatTemplate(tiny_base.tokenizer), max_length=512)
    assert same.input_ids.tolist() == example.input_ids.tolist()
    (prompt,) = tokenize_prompts([tuple(turns[:-1])], tiny_base, systems=[None], thinking=[False])
    assert example.input_ids[: len(prompt)].tolist() == prompt
    assert int(same.labels.argmax()) == len(prompt)


def test_a_text_that_begins_with_the_first_token_gets_no_second_one(tiny_base: Base) -> None:
    template = ChatTemplate(begun(None))
    plain, rendered = (
        tokenize(Example(text=text), template, max_length=64).input_ids.tolist()
        for text in ("The finch sings.", "<|endoftext|>The finch sings.")
    )
    assert rendered == plain
    assert plain.count(plain[0]) == 1


def test_a_text_that_ends_a_turn_gets_no_end_of_text() -> None:
    template = ChatTemplate(tokenizer_of(PHI_3))
    example = tokenize(Example(text="<|user|>\nHow?<|end|>\n<|assistant|>\nSo.<|end|>"), template, max_length=64)
    assert example.input_ids[-1] == template.tokenizer.convert_tokens_to_ids("<|end|>")


@pytest.mark.parametrize("family", [GEMMA_3, PHI_3], ids=lambda family: family.name)
def test_a_generation_ends_at_the_end_of_a_turn_that_is_not_the_end_of_text(family: Family, tiny_base: Base) -> None:
    tokenizer = tokenizer_of(family)
    ends = end_tokens(with_tokenizer(tiny_base, tokenizer))
    assert {tokenizer.convert_tokens_to_ids(family.end), tokenizer.eos_token_id} <= ends


def test_a_prompt_does_not_begin_an_answer_that_conversations_lack() -> None:
    template = ChatTemplate(tokenizer_of(DEEPSEEK_R1))
    question = Conversation(PAIR.messages[1:2])
    assert template.render(question, generation=True).endswith("<|Assistant|><think>\n")
    assert template.prompt(question).endswith("<|Assistant|>")


def test_prompts_ask_for_reasoning_where_answers_have_it(tiny_base: Base) -> None:
    base = with_tokenizer(tiny_base, tokenizer_of(QWEN_3))
    plain, thinking = tokenize_prompts(["Why?", "Why?"], base, systems=[None, None], thinking=[False, True])
    assert base.tokenizer.decode(plain).endswith("<think>\n\n</think>\n\n")
    assert base.tokenizer.decode(thinking).endswith("<|im_start|>assistant\n")


def test_an_adapter_that_was_trained_on_reasoning_is_asked_for_it(tiny_base: Base) -> None:
    tokenizer = make_tokenizer(QWEN_3.template)  # the vocabulary of the model
    model = GeneratorModel(with_tokenizer(tiny_base, tokenizer))
    rows = [PAIR.evolve(messages=(*PAIR.messages[:2], PAIR.messages[2].evolve(reasoning="It has a beak.")))] * 4
    training = TrainingConfig(epochs=1, validation=0)
    model.fine_tune(rows, LoRAConfig(rank=4), name="thinks", training=training)
    model.fine_tune([PAIR] * 4, LoRAConfig(rank=4), name="answers", training=training)
    assert model._thinking == {"thinks"}


def test_a_conversation_is_a_prompt(tiny_base: Base) -> None:
    base = with_tokenizer(tiny_base, make_tokenizer())
    conversation = Conversation((Message(role="user", content="How many eggs?"),))
    (one, other) = tokenize_prompts([conversation, "How many eggs?"], base, systems=[None] * 2, thinking=[False] * 2)
    assert one == other


def test_template_without_end_is_named_with_the_prompt(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_time, "SECONDS", 1)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = ENDLESS
    with pytest.raises(errors.TimeLimitReached, match=r"^prompt 1: the chat template or the tokenizer of the base did"):
        tokenize_prompts(["a", "b"], with_tokenizer(tiny_base, tokenizer), systems=[None] * 2, thinking=[False] * 2)
    with pytest.raises(errors.TimeLimitReached, match=r"^the ends of answers: the chat template or the tokenizer of"):
        end_tokens(with_tokenizer(tiny_base, tokenizer))


def test_prompts_with_which_the_tokenizer_fails_are_named(tiny_base: Base) -> None:
    base = with_tokenizer(tiny_base, make_steps_endless(make_tokenizer()))
    with pytest.raises(errors.InvalidSpec, match=r"prompt 2: makes the tokenizer of the base fail: .*retry-limit"):
        tokenize_prompts(["What?", ENDLESS_STEPS], base, systems=[None] * 2, thinking=[False] * 2)
    with pytest.raises(errors.InvalidSpec, match="prompt 1: makes the tokenizer of the base fail"):
        tokenize_prompts(["What?"], base, systems=[ENDLESS_STEPS], thinking=[False])


def test_base_whose_tokenizer_has_tokens_beyond_the_embeddings_works_without_them(tmp_path: Path) -> None:
    folder = save_model(DEFAULT, tmp_path / "base")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_bytes())
    content["model"]["vocab"]["#"] = 9_000
    file.write_text(json.dumps(content))
    model = GeneratorModel(load_base(folder, dtype="float32", device="cpu", cache=tmp_path))
    examples = [Example.of_pair("What does it eat?", "Seeds.")] * 3
    model.generate("What does it eat?", max_new_tokens=4)
    assert held_out_loss(model, examples)["examples"] == 3
    message = r"has the token 9,000, and the model has \d+ embeddings .change the text"
    with pytest.raises(errors.InvalidSpec, match=f"prompt 1: {message}"):
        model.generate("# What does it eat?", max_new_tokens=4)
    with pytest.raises(errors.InvalidDataset, match=f"example 4: {message}"):
        held_out_loss(model, [*examples, Example.of_pair("What does it eat?", "#")])

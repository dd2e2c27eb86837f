"""Sample answers: a few prompts of the validation data, answered before a training and with its new adapter."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from peft.tuners.lora import LoraLayer

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.chat import Conversation
from finch_hub.engine.inference.decoding import TextStream, decode
from finch_hub.engine.inference.prompts import tokenize_prompts
from finch_hub.specs.evidence import Sample, Samples
from finch_hub.specs.examples import Example
from finch_hub.specs.generation import GenerationConfig

MAX_TOKENS = 64
_MAX_PROMPT_TOKENS = 1024  # a longer prompt costs as much as many answers
_MAX_CHARACTERS = 4000


class _Question(NamedTuple):
    prompt: str
    expected: str
    tokens: list[int]


class _Answer(NamedTuple):
    text: str
    tokens: int
    is_cut: bool


def sample_answers(
    base: Base,
    adapter: str,
    examples: Sequence[Example],
    *,
    system: str | None,
    count: int,
    seconds: float,
    least_tokens: int = 0,
    start: str | None = None,
    should_stop: Callable[[], object] = lambda: None,
) -> Samples | None:
    """Answer some prompts before and after a training, greedily. Return None if no example has a prompt.

    Args:
        adapter: name of an adapter that is attached to the base. Others take no part.
        examples: examples from which prompts are taken at equal distances.
        count: number of prompts.
        seconds: time for all answers. An answer that is not finished by then is cut.
        least_tokens: tokens that an answer must have when it is cut. Otherwise nothing is returned.
        start: name of the attached adapter that answers before; None for the base alone.
        should_stop: called after each token; a true value cuts all answers.

    Raises:
        Diverged: the model's scores are not finite.
    """
    questions = _choose_questions(base, examples, system, count)
    if not questions:
        return None
    if base.model.training:
        base.model.eval()
    base.fit_attention(max(len(question.tokens) for question in questions) + MAX_TOKENS)
    prompts = [question.tokens for question in questions]
    answers: list[list[_Answer]] = []
    for name in (start, adapter):
        with _enable_only(base, name):
            answers.append(_answer(base, prompts, seconds / 2, should_stop))
        if any(answer.is_cut and answer.tokens < least_tokens for answer in answers[-1]):
            return None
    samples = [
        Sample(
            prompt=question.prompt,
            expected=question.expected,
            before=before.text,
            after=after.text,
            is_cut=before.is_cut or after.is_cut,
        )
        for question, before, after in zip(questions, *answers, strict=True)
    ]
    return Samples(samples=tuple(samples), max_tokens=MAX_TOKENS)


def _choose_questions(base: Base, examples: Sequence[Example], system: str | None, count: int) -> list[_Question]:
    """Return questions at equal distances. One that cannot be asked is replaced by the next that can."""
    found: list[_Question] = []
    tried = 0
    for number in range(count):
        place = max(tried, number * len(examples) // count)
        while place < len(examples):
            question = _make_question(base, examples[place], system)
            place += 1
            if question is not None:
                found.append(question)
                break
        tried = place
    return found


def _make_question(base: Base, example: Example, system: str | None) -> _Question | None:
    turns = [index for index, message in enumerate(example.messages) if message.role == "assistant"]
    if not turns or turns[-1] == 0:
        return None
    conversation = Conversation.of(example)
    asked = conversation._replace(messages=conversation.messages[: turns[-1]])
    try:
        (tokens,) = tokenize_prompts([asked], base, systems=[system], thinking=[conversation.thinking])
    except errors.InvalidInput:
        return None
    if len(tokens) > min(_MAX_PROMPT_TOKENS, base.context - MAX_TOKENS):
        return None
    spoken = [message for message in asked.messages if message.role != "system"]
    prompt = spoken[0].content if len(spoken) == 1 else "\n".join(f"{turn.role}: {turn.content}" for turn in spoken)
    expected = example.messages[turns[-1]].content
    return _Question(prompt[:_MAX_CHARACTERS], expected[:_MAX_CHARACTERS], tokens)


def _answer(
    base: Base, prompts: Sequence[Sequence[int]], seconds: float, should_stop: Callable[[], object]
) -> list[_Answer]:
    ends_at = time.monotonic() + seconds
    streams = [TextStream(base.tokenizer) for _ in prompts]
    answers, counts = [""] * len(prompts), [0] * len(prompts)
    config, is_late = GenerationConfig(max_new_tokens=MAX_TOKENS), False
    for row, token in decode(base, prompts, config, seeds=[0] * len(prompts), route=lambda rows: nullcontext()):
        answers[row] += streams[row].add(token)
        counts[row] += 1
        if time.monotonic() > ends_at or should_stop():
            is_late = True
            break
    return [
        _Answer(answer + stream.end(), count, is_late or count >= MAX_TOKENS)
        for answer, stream, count in zip(answers, streams, counts, strict=True)
    ]


@contextmanager
def _enable_only(base: Base, adapter: str | None) -> Iterator[None]:
    """Let the base compute with one of its adapters, or with none, in this context."""
    layers = [module for module in base.model.modules() if isinstance(module, LoraLayer)]
    active = [list(layer.active_adapters) for layer in layers]
    try:
        for layer in layers:
            layer.set_adapter([adapter] if adapter is not None and adapter in layer.lora_A else [])
        yield
    finally:
        for layer, names in zip(layers, active, strict=True):
            layer.set_adapter(names)

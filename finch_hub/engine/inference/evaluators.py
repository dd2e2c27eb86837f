"""Built-in evaluators: measures of a model with its active adapter."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finch_hub import errors
from finch_hub.engine.bases.base import default_max_length
from finch_hub.engine.data.chat import Conversation
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder import evaluation
from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.engine.inference.prompts import Prompt
from finch_hub.specs.evaluation import AnswerParameters, LossParameters
from finch_hub.specs.examples import Example

_ANSWER_TOKENS = 64  # at least, so that a short answer can stand in a sentence
_BATCH = 16


def held_out_loss(
    model: GeneratorModel, examples: Sequence[Example], parameters: LossParameters | None = None
) -> dict[str, float]:
    """Measure cross-entropy, perplexity and accuracy over the tokens of the assistant's turns.

    Raises:
        InvalidDataset: examples without a token to measure, all of them by number.
        Diverged: the loss is not finite.
    """
    base, parameters = model.base, parameters or LossParameters()
    length = parameters.max_length or default_max_length(base.context)
    tokenized = tokenize_all(examples, base.tokenizer, system=parameters.system, max_length=length)
    with model.using():
        metrics = evaluation.measure(base, tokenized)
    return {
        "loss": metrics.loss,
        "perplexity": metrics.perplexity,
        "accuracy": metrics.accuracy,
        "tokens": metrics.tokens,
        "examples": metrics.examples,
    }


def exact_answer(
    model: GeneratorModel, examples: Sequence[Example], parameters: AnswerParameters | None = None
) -> dict[str, float]:
    """Generate an answer to each prompt, greedily, and count those that contain the expected answer.

    The last assistant turn is the expected answer, and the turns before it are the prompt. Whole words are compared,
    without case, punctuation and whitespace: "7 years" is in "It lives 7 years." and not in "17 years".

    Raises:
        InvalidDataset: examples without a prompt or an answer, all of them by number.
    """
    parameters = parameters or AnswerParameters()
    questions: list[Conversation] = []
    expected: list[str] = []
    lengths: list[int] = []
    problems: list[errors.Problem] = []
    for number, example in enumerate(examples, start=1):
        turns = [index for index, message in enumerate(example.messages) if message.role == "assistant"]
        if not turns or turns[-1] == 0 or not _words(example.messages[turns[-1]].content):
            what = "is a plain text" if not turns else "has no prompt before its answer, or no word in the answer"
            fix = "give a prompt and its completion"
            problems.append(errors.Problem(where=f"example {number}", what=what, fix=fix))
            continue
        conversation = Conversation.of(example)
        questions.append(conversation._replace(messages=conversation.messages[: turns[-1]]))
        answer = example.messages[turns[-1]].content
        expected.append(_words(answer))
        lengths.append(len(model.base.tokenizer(answer)["input_ids"]))
    if problems:
        raise errors.InvalidDataset(problems, subject="evaluation data")
    # A batch is as slow as its longest row, so prompts of similar length share a batch.
    lengths_of = [sum(len(message.content) for message in question.messages) for question in questions]
    order = sorted(range(len(questions)), key=lengths_of.__getitem__)
    right = 0
    for begin in range(0, len(order), _BATCH):
        rows = order[begin : begin + _BATCH]
        prompts: list[Prompt] = [questions[row] for row in rows]
        room = parameters.max_new_tokens or max(_ANSWER_TOKENS, *(2 * lengths[row] for row in rows))
        answers = model.generate(prompts, system=parameters.system, max_new_tokens=room)
        right += sum(expected[row] in _words(answer) for row, answer in zip(rows, answers, strict=True))
    return {"right": right, "examples": len(questions), "accuracy": right / len(questions)}


def _words(text: str) -> str:
    """Return the words of a text in lower case and between blanks, so that `in` compares whole words."""
    words = re.findall(r"\w+", text.casefold())
    return f" {' '.join(words)} " if words else ""

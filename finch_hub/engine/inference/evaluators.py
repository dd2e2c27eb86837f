"""Built-in evaluators: measures of a model with its active adapter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from finch_hub import errors
from finch_hub.engine.bases.base import default_max_length
from finch_hub.engine.data.chat import Conversation
from finch_hub.engine.data.row_time import limit_tokenizing
from finch_hub.engine.data.tokenizing import MAX_LEFT_OUT, tokenize_data
from finch_hub.engine.decoder import evaluation
from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.engine.inference.prompts import Prompt, tokenize_prompts
from finch_hub.progress import track
from finch_hub.specs.evaluation import AnswerParameters, LossParameters
from finch_hub.specs.examples import Example

_ANSWER_TOKENS = 64  # at least, so that a short answer can stand in a sentence
_BATCH = 16


def held_out_loss(
    model: GeneratorModel, examples: Sequence[Example], parameters: LossParameters | None = None
) -> dict[str, float]:
    """Measure cross-entropy, perplexity and accuracy over the tokens of the assistant's turns.

    A few examples that cannot be measured are left out and counted in `left_out`.

    Raises:
        InvalidDataset: too many examples cannot be measured; contains all of them by number.
        Diverged: the loss is not finite.
    """
    base, parameters = model.base, parameters or LossParameters()
    length = parameters.max_length or default_max_length(base.context)
    data = tokenize_data(
        examples, base.tokenizer, system=parameters.system, max_length=length, num_embeddings=base.num_embeddings
    )
    with model.using():
        metrics = evaluation.measure(base, data.examples)
    return {
        "loss": metrics.loss,
        "perplexity": metrics.perplexity,
        "accuracy": metrics.accuracy,
        "tokens": metrics.tokens,
        "examples": metrics.examples,
        **({"left_out": data.lost} if data.lost else {}),
    }


def exact_answer(
    model: GeneratorModel, examples: Sequence[Example], parameters: AnswerParameters | None = None
) -> dict[str, float]:
    """Generate an answer to each prompt, greedily, and count those that contain the expected answer.

    The last assistant turn is the expected answer, and the turns before it are the prompt. Whole words are compared,
    without case, punctuation and whitespace: "7 years" is in "It lives 7 years." and not in "17 years".

    A few examples whose prompt fills the model's context are left out and counted in `left_out`.

    Raises:
        InvalidDataset: examples without a prompt or an answer, or too many with a prompt that is too long; all of them
            by number.
    """
    parameters = parameters or AnswerParameters()
    questions: list[Conversation] = []
    expected: list[str] = []
    lengths: list[int] = []
    problems: list[errors.Problem] = []
    too_long: list[errors.Problem] = []
    for number, example in enumerate(track(examples, "reading questions"), start=1):
        turns = [index for index, message in enumerate(example.messages) if message.role == "assistant"]
        if not turns or turns[-1] == 0 or not _words(example.messages[turns[-1]].content):
            what = "is a plain text" if not turns else "has no prompt before its answer, or no word in the answer"
            fix = "give a prompt and its completion"
            problems.append(errors.Problem(where=f"example {number}", what=what, fix=fix))
            continue
        conversation = Conversation.of(example)
        question = conversation._replace(messages=conversation.messages[: turns[-1]])
        answer = example.messages[turns[-1]].content
        try:
            tokenize_prompts([question], model.base, systems=[parameters.system], thinking=[conversation.thinking])
            with limit_tokenizing(f"example {number}"):
                length = len(model.base.tokenizer(answer)["input_ids"])
        except errors.InvalidInput as error:
            too_long += [replace(problem, where=f"example {number}") for problem in error.problems]
            continue
        questions.append(question)
        expected.append(_words(answer))
        lengths.append(length)
    if problems or len(too_long) > MAX_LEFT_OUT * len(examples):
        raise errors.InvalidDataset([*problems, *too_long], subject="evaluation data")
    # A batch is as slow as its longest row, so prompts of similar length share a batch.
    lengths_of = [sum(len(message.content) for message in question.messages) for question in questions]
    order = sorted(range(len(questions)), key=lengths_of.__getitem__)
    right = 0
    for begin in track(range(0, len(order), _BATCH), "answering"):
        rows = order[begin : begin + _BATCH]
        prompts: list[Prompt] = [questions[row] for row in rows]
        room = parameters.max_new_tokens or max(_ANSWER_TOKENS, *(2 * lengths[row] for row in rows))
        answers = model.generate(prompts, system=parameters.system, max_new_tokens=room)
        right += sum(expected[row] in _words(answer) for row, answer in zip(rows, answers, strict=True))
    left_out = {"left_out": len(too_long)} if too_long else {}
    return {"right": right, "examples": len(questions), "accuracy": right / len(questions), **left_out}


def _words(text: str) -> str:
    """Return the words of a text in lower case and between blanks, so that `in` compares whole words."""
    words = re.findall(r"\w+", text.casefold())
    return f" {' '.join(words)} " if words else ""

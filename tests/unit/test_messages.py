"""Error texts and their fixes: the snapshot in `messages.txt`, and the rules that all of them follow."""

from __future__ import annotations

import re

import pytest
from support import messages
from support.spelling import british

# Names that are written with a capital letter wherever they stand.
PROPER = {"Finch", "Hugging", "Modelfile", "Ollama", "Python", "Redis", "Valkey"}
MAX_WORDS = 25
FORBIDDEN = re.compile(
    r"\b(?:we|our|ours|us|bad|illegal|mend|mends|told|whoever|somebody|nobody|please|sorry|oops)\b"
    r"|(?<!there )\bis no\b(?! longer)",
    re.IGNORECASE,
)


def faults(text: str) -> list[str]:
    """Return what of the rules for messages a text breaks."""
    found = []
    plain = _without_fields(text)
    first = re.match(r"[A-Z][a-z]*(?![A-Za-z])", plain)  # no match: GGUF, LoRA
    if first and len(first.group()) > 1 and first.group() not in PROPER:
        found.append("begins with a capital letter")
    if re.search(r"(?<!\.)\.\)?$", plain):
        found.append("ends with a period")
    found += [f"says {match.group()!r}" for match in FORBIDDEN.finditer(plain)]
    found += [f"says {word!r}, which is British" for word in british(plain)]
    for sentence in re.split(r"[;:()]|\.\s", plain):
        if len(sentence.split()) > MAX_WORDS:
            found.append(f"has a sentence of more than {MAX_WORDS} words")
    return found


def _without_fields(text: str) -> str:
    while (shorter := re.sub(r"\{[^{}]*\}", "_", text)) != text:
        text = shorter
    return text


def lines() -> list[tuple[str, str]]:
    """Return every line of the snapshot with its module."""
    found, module = [], ""
    for line in messages.snapshot().splitlines():
        if line.startswith("[finch_hub/"):
            module = line.strip("[]")
        elif line:
            found.append((module, line))
    return found


def test_the_snapshot_is_what_the_source_says() -> None:
    assert messages.SNAPSHOT.read_text(encoding="utf-8") == messages.snapshot(), (
        "read the difference, then run `make messages`"
    )


def test_every_message_follows_the_rules() -> None:
    wrong = [f"{module}: {text}\n    {fault}" for module, text in lines() for fault in faults(text)]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The file is empty", "begins with a capital letter"),
        ("the file is empty.", "ends with a period"),
        ("the file is empty (delete it.)", "ends with a period"),
        ("is no JSON", "says 'is no'"),
        ("this name is ours", "says 'ours'"),
        ("an illegal state", "says 'illegal'"),
        ("the arte" + "fact is missing", "says 'arte" + "fact', which is British"),
        (" ".join(["word"] * 26), "has a sentence of more than 25 words"),
    ],
)
def test_a_message_that_breaks_a_rule_is_reported(text: str, fault: str) -> None:
    assert faults(text) == [fault]


@pytest.mark.parametrize(
    "text",
    [
        "there is no adapter {name}",
        "{our(name)} is no longer registered",
        "NaN or infinity",
        "LoRA only",
        "the model ends with …",
    ],
)
def test_a_message_in_order_is_not_reported(text: str) -> None:
    assert faults(text) == []


SOURCE = """
def check(path, rank):
    what = "is empty" if rank else f"has rank {rank!r}"
    fix = "give " + "a number"
    if path:
        raise errors.InvalidSpec(errors.Problem(what=what, fix=fix, where=str(path)), subject="rank")
    raise errors.NotFound("base model", path)

class Failed(Exception):
    def __init__(self, job):
        super().__init__(f"job {job} failed")

def other():
    raise errors.Conflict(
        "cannot "
        f"go on: {why()}"
    )
    raise AssertionError("internal")
    warnings.warn("the worker waits", UserWarning)
"""


def test_texts_are_collected_however_they_are_built() -> None:
    assert messages.collect(SOURCE) == [
        "cannot go on: {why()}",
        "job {job} failed",
        "the worker waits",
        "there is no base model {name}",
        "{path}: has rank {rank} (give a number)",
        "{path}: is empty (give a number)",
    ]

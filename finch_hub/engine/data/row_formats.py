"""Row formats of datasets. Free of torch, so that data is checked at submit.

A converter takes one row, without its null columns, and returns its example. It returns None for a row that asks to be
left out, and raises `InvalidSpec` with every problem of the row.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finch_hub import errors
from finch_hub.engine.data import json_values, turns
from finch_hub.engine.data.column_advice import suggest_answers
from finch_hub.engine.data.row import describe
from finch_hub.engine.data.tools import read_tools
from finch_hub.specs.examples import Example, Message, Role
from finch_hub.specs.options import write_options

Convert = Callable[[Mapping[str, Any]], Example | None]

_PREFERENCES = ("chosen", "rejected", "rejected_response", "kto_tag", "preferred_output", "non_preferred_output")
# Names of a better and a worse answer, which mean preferences if a row has both.
_BETTER = re.compile(r"(?<![^_])(?:chosen|preferred|accepted|better|winning)(?![^_])", re.IGNORECASE)
_WORSE = re.compile(r"(?<![^_])(?:rejected|(?:non|not|dis|un)_?preferred|worse|losing)(?![^_])", re.IGNORECASE)
_VERDICTS = ("label", "kto_tag")  # of the answer of the row itself
_MEDIA = frozenset({"image", "images", "video", "videos", "audio", "audios"})
_SYSTEM = ("system", "system_prompt")


class LateConverter:
    """Converter of a plugin, which is imported for the first row of its format."""

    def __init__(self, load: Callable[[], Convert]) -> None:
        self.load = functools.cache(load)

    def __call__(self, row: Mapping[str, Any]) -> Example | None:
        """Convert a row."""
        return self.load()(row)


class RowFormat(NamedTuple):
    """One row format. A row that has all `fields` is read in this format.

    Attributes:
        plugin: third-party plugin that offers it, empty for a built-in format.
    """

    name: str
    fields: frozenset[str]
    convert: Convert
    plugin: str = ""

    @property
    def label(self) -> str:
        """Name, with the plugin that offers it."""
        return f"{self.name} of {self.plugin}" if self.plugin else self.name


class TrackedRow(dict[str, Any]):
    """A row that knows which of its columns a converter has read.

    Attributes:
        used: columns that were read.
        unused_in_turns: fields of turns that have no meaning here, with their column.
    """

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.used: set[str] = set()
        self.unused_in_turns: set[str] = set()

    @property
    def unused(self) -> set[str]:
        """Columns that were not read, and fields of turns without a meaning. Empty texts and lists do not count."""
        columns = {name for name, value in super().items() if name not in self.used and not json_values.is_empty(value)}
        return columns | self.unused_in_turns

    def __getitem__(self, name: str) -> Any:
        self.used.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a column, which counts as read."""
        self.used.add(name)
        return super().get(name, default)

    def __iter__(self) -> Iterator[str]:
        self.used.update(super().keys())
        return super().__iter__()

    def items(self) -> Any:
        """Return the columns with their values, which all count as read."""
        self.used.update(super().keys())
        return super().items()

    def values(self) -> Any:
        """Return the values of the columns, which all count as read."""
        self.used.update(super().keys())
        return super().values()


def convert_messages(row: Mapping[str, Any]) -> Example | None:
    """Convert OpenAI's and TRL's ``{"messages": [{"role", "content"}, …]}``.

    An assistant turn with ``"weight": 0`` is context and not trained on, as in OpenAI's fine-tuning format.
    """
    return _make_example(row, _read_turns(row, "messages"))


def convert_prompt_completion(row: Mapping[str, Any]) -> Example | None:
    """Convert ``{"prompt", "completion"}``: texts, or lists of messages. Only the second one is trained on.

    A text beside a list is the user's or the assistant's message.
    """
    is_list = {name: isinstance(row[name], (list, tuple)) for name in ("prompt", "completion")}
    if not any(is_list.values()):
        return _make_example(row, _make_pair(row, "prompt", "completion"))
    prompt = _read_turns(row, "prompt") if is_list["prompt"] else [_make_turn(row, "prompt", "user")]
    answer = _read_turns(row, "completion") if is_list["completion"] else [_make_turn(row, "completion", "assistant")]
    context = [message.evolve(learn=False) if message.role == "assistant" else message for message in prompt]
    return _make_example(row, [*context, *answer])


def convert_alpaca(row: Mapping[str, Any]) -> Example | None:
    """Convert Alpaca's ``{"instruction", "input", "output"}``. `input` can be missing or empty.

    A `history` of earlier questions and answers, ``[["…", "…"], …]``, is trained on, as in LLaMA-Factory.
    """
    question, answer = _make_pair(row, "instruction", "output")
    details = _text(row, "input") if _has(row, "input") else ""
    if details.strip():
        question = question.evolve(content=f"{question.content}\n\n{details}")
    earlier = [
        Message(role=role, content=content)
        for round_ in _history(row["history"] if _has(row, "history") else ())
        for role, content in zip(("user", "assistant"), round_, strict=True)
    ]
    return _make_example(row, [*earlier, question, answer])


def convert_sharegpt(row: Mapping[str, Any]) -> Example | None:
    """Convert ShareGPT's ``{"conversations": [{"from", "value"}, …]}``.

    A turn of `function_call` holds the JSON of a call, and `observation` its result, as in LLaMA-Factory.
    """
    return _make_example(row, _read_turns(row, "conversations"))


def convert_text(row: Mapping[str, Any]) -> Example | None:
    """Convert ``{"text"}``, which is trained on whole."""
    _check_row(row)
    return Example(text=_text(row, "text")) if turns.read_weight(row.get("weight", 1)) else None


BUILTIN: tuple[RowFormat, ...] = (
    RowFormat("messages", frozenset({"messages"}), convert_messages),
    RowFormat("prompt_completion", frozenset({"prompt", "completion"}), convert_prompt_completion),
    RowFormat("alpaca", frozenset({"instruction", "output"}), convert_alpaca),
    RowFormat("sharegpt", frozenset({"conversations"}), convert_sharegpt),
    RowFormat("text", frozenset({"text"}), convert_text),
)


class Mismatch(NamedTuple):
    """Why the columns of a row cannot be read, and what to do about it.

    Attributes:
        empty: fields that only this row has no value for. Otherwise, all rows with these columns have the problem.
        is_readable: whether rows of these columns could be read, so that no other columns are suggested.
    """

    what: str
    fix: str = ""
    empty: tuple[str, ...] = ()
    is_readable: bool = False


def recognize(row: Mapping[str, Any], formats: Sequence[RowFormat]) -> RowFormat | Mismatch:
    """Return the format whose fields are all in the row and not null, or why there is none.

    A built-in format goes before those of plugins, which are not even asked for a row that has its columns. Of two
    plugins' formats neither is chosen. A single format was named by the user.
    """
    names = frozenset(name for name, value in row.items() if not json_values.is_null(value))
    chosen = next((form for form in formats if form.fields <= names and not form.plugin), None)
    candidates = formats
    if chosen is None:
        builtin = [form for form in formats if not form.plugin]
        if len(formats) > 1 and any(form.fields <= row.keys() for form in builtin):
            candidates = builtin
        fitting = [form for form in candidates if form.fields <= names]
        if len(fitting) > 1:
            what = f"fits {' and '.join(form.label for form in fitting)}"
            options = " or ".join(write_options({"format": form.name}) for form in fitting)
            return Mismatch(what, f"choose one with {options}", is_readable=True)
        chosen = fitting[0] if fitting else None
    if chosen is not None:
        found = _find_preferences(row, names - chosen.fields)
        if len(formats) == 1:  # the user has named it, but still does not want to learn an answer that is bad
            found = [name for name in found if name in _VERDICTS]
        return _describe_preferences(row, found) if found else chosen
    if found := _find_preferences(row, names):
        return _describe_preferences(row, found)
    nearest = max(candidates, key=lambda row_format: len(row_format.fields & names), default=None)
    if nearest is None or not nearest.fields & row.keys():
        return Mismatch("fits no format")
    missing = sorted(nearest.fields - names)
    listed = " and ".join(repr(name) for name in missing)
    if nearest.fields <= row.keys():
        return Mismatch("is empty", "give both texts" if len(nearest.fields) > 1 else "", tuple(missing))
    return Mismatch(f"has no {listed}", f"{nearest.name} rows need {list_columns(sorted(nearest.fields))}")


def _find_preferences(row: Mapping[str, Any], names: frozenset[str]) -> list[str]:
    """Return the columns by which a row says how good its answers are. A label that is true or false is one of KTO."""
    worse = {name for name in names if isinstance(name, str) and _WORSE.search(name)}
    better = {name for name in names - worse if isinstance(name, str) and _BETTER.search(name)}
    pairs = better | worse if better and worse else set()
    found = [*(name for name in _PREFERENCES if name in names), *sorted(pairs - {*_PREFERENCES})]
    label = row["label"] if "label" in names else None
    is_of_kto = isinstance(label, bool) or (isinstance(label, str) and label.lower() in ("true", "false"))
    return [*found, "label"] if is_of_kto else found


def _describe_preferences(row: Mapping[str, Any], found: Sequence[str]) -> Mismatch:
    fix = f"keep only the rows to learn, and add {write_options({'ignore_columns': (*found,)})}"
    if better := [name for name in found if _BETTER.search(name) and not _WORSE.search(name)]:
        options = suggest_answers(row, better, found)
        fix = "write rows of messages that end with the answer to learn"
        if options:
            fix = f"to learn the better answers, add {write_options(options)}"
    return Mismatch(f"has {' and '.join(found)}: preferences are not trained on", fix, is_readable=True)


_MAX_COLUMNS, _MAX_NAME = 20, 40


def list_columns(columns: Sequence[object]) -> str:
    """Return names of columns as a text.

    Long names are cut, because a table without a header has texts of the data in their place.
    """
    names = [" ".join(str(name).split()) for name in columns[:_MAX_COLUMNS]]
    shown = [name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…" for name in names]
    return ", ".join(shown + ["…"] * (len(columns) > _MAX_COLUMNS)) or "(none)"


def _make_example(row: Mapping[str, Any], messages: Sequence[Message]) -> Example | None:
    """Return the example of a conversation with what other columns say about it. None: its weight is 0."""
    _check_row(row)
    if not turns.read_weight(row.get("weight", 1)):
        return None
    system = _read_system(row)
    if system and messages and messages[0].role == "system" and messages[0].content != system:
        raise errors.InvalidSpec("is given beside a system turn", where="system", fix="keep one of the two")
    if system and not (messages and messages[0].role == "system"):
        messages = [Message(role="system", content=system), *messages]
    named = [name for name in ("tools", "functions") if _has(row, name)]
    if len(named) > 1:
        raise errors.InvalidSpec("are given beside tools", where="functions", fix="keep one of the two")
    fields: dict[str, Any] = {}
    if named:
        fields["tools"] = read_tools(row[named[0]], named[0])
    if _has(row, "documents"):
        fields["documents"] = turns.read_documents(row["documents"], "documents")
    return Example(messages=tuple(messages), **fields)


def _check_row(row: Mapping[str, Any]) -> None:
    """Refuse rows whose answers rest on more than texts."""
    if not _MEDIA.isdisjoint(row.keys()) and (media := sorted(name for name in _MEDIA & row.keys() if row.get(name))):
        what = f"has {media[0]}, which a language model does not see"
        raise errors.InvalidSpec(what, fix="remove the row, or the column if the texts do not need it")


def _read_system(row: Mapping[str, Any]) -> str | None:
    for name in _SYSTEM:
        if _has(row, name):
            return _text(row, name).strip() and _text(row, name)
    return None


def _read_turns(row: Mapping[str, Any], field: str) -> list[Message]:
    messages, unused = turns.read_turns(row[field], field)
    if isinstance(row, TrackedRow):
        row.unused_in_turns.update(f"{field}[].{name}" for name in unused)
    return messages


def _make_pair(row: Mapping[str, Any], prompt: str, completion: str) -> list[Message]:
    """Return the turns of a prompt and its completion, with the reasoning before the completion."""
    empty = [name for name in (prompt, completion) if not _text(row, name).strip()]
    if empty:
        raise errors.InvalidSpec(errors.Problem(what="is empty", where=name, fix="give both texts") for name in empty)
    return [_make_turn(row, prompt, "user"), _make_turn(row, completion, "assistant")]


def _make_turn(row: Mapping[str, Any], field: str, role: Role) -> Message:
    """Return the turn of a text, which is an assistant's with the reasoning before it."""
    text = _text(row, field)
    if not text.strip():
        raise errors.InvalidSpec("is empty", where=field, fix="give both texts")
    names = turns.REASONING if role == "assistant" else ()
    reasoning = next((_text(row, name) for name in names if _has(row, name)), None)
    answer = {"reasoning": reasoning} if reasoning and reasoning.strip() else {}
    return Message(role=role, content=text, **answer)


def _has(row: Mapping[str, Any], field: str) -> bool:
    return field in row and not json_values.is_absent(row[field])


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row[field]
    if not isinstance(value, str):
        fix = "write it as a text" if isinstance(value, (int, float)) else ""
        raise errors.InvalidSpec(f"is {describe(value)} instead of a text", where=field, fix=fix)
    return value


def _history(value: Any) -> list[tuple[str, str]]:
    """Read earlier rounds of a conversation: one question and one answer each."""
    value = json_values.parse_list(value)
    rounds = []
    for number, texts in enumerate(value if isinstance(value, (list, tuple)) else [value], start=1):
        match texts:
            case [str(question), str(answer)]:
                rounds.append((question, answer))
            case _:
                what = "is not a pair of texts"
                raise errors.InvalidSpec(what, where=f"history, round {number}", fix='write [["…", "…"], …]')
    return rounds

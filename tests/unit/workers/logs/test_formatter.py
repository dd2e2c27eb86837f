"""Log lines: every record is one line that is read back with all its fields, whatever they contain."""

from __future__ import annotations

import ast
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import finch_hub
from finch_hub.settings import LogFormat
from finch_hub.specs.jobs import JobState
from finch_hub.storage.redaction import Redactor
from finch_hub.texts.visible_text import to_line
from finch_hub.workers.logs.context import log_fields
from finch_hub.workers.logs.formatter import FieldFormatter
from finch_hub.workers.logs.reader import read_line

FORMATS: tuple[LogFormat, ...] = ("logfmt", "json")
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=[]))  # control characters and lone surrogates too
SECRET = "correct-horse-battery"


def record(message: object = "claim", *arguments: object, name: str = "finch_hub.x", **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, __file__, 1, message, arguments, None)
    made.created = 1_750_000_000.25
    vars(made).update(extra)
    return made


def raised(error: BaseException) -> Any:
    try:
        raise error
    except BaseException:
        return sys.exc_info()


def read(line: str) -> dict[str, Any]:
    fields = read_line(line)
    assert fields is not None, line
    return fields


def test_line_has_time_level_logger_action_and_the_fields_of_the_record() -> None:
    made = record(
        job_id="j1", attempt=2, error='no answer: say "hello" = 1\n twice', path="a\\b", nothing="", gone=None
    )
    head = "time=2025-06-15T15:06:40.250Z level=warning logger=finch_hub.x action=claim job_id=j1 attempt=2"
    line = FieldFormatter("logfmt", Redactor()).format(made)
    assert line == head + r' error="no answer: say \"hello\" = 1\n twice" path="a\\b" nothing=""'
    assert json.loads(FieldFormatter("json", Redactor()).format(made)) == {
        "time": "2025-06-15T15:06:40.250Z",
        "level": "warning",
        "logger": "finch_hub.x",
        "action": "claim",
        "job_id": "j1",
        "attempt": 2,
        "error": 'no answer: say "hello" = 1\n twice',
        "path": "a\\b",
        "nothing": "",
    }


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_library_s_record_has_a_message_with_its_arguments(log_format: LogFormat) -> None:
    formatter = FieldFormatter(log_format, Redactor())
    fields = read(formatter.format(record("Connected to %s", "redis", name="celery.worker")))
    assert (fields["message"], "action" in fields) == ("Connected to redis", False)


@pytest.mark.parametrize("log_format", FORMATS)
@given(
    message=ANY_TEXT,
    name=ANY_TEXT,
    extra=st.dictionaries(ANY_TEXT, ANY_TEXT | st.integers() | st.floats() | st.booleans() | st.none() | st.binary()),
    failure=st.none() | ANY_TEXT,
)
@example(message="a\u2028b\x85c\x1b[31m\r\n", name="x", extra={"a b=\n": "\ud800", "a_b__": "\u202e"}, failure="\n")
@example(message="a", name="x", extra={"exception": "mine", "level": "high"}, failure="b")
@example(message="", name="", extra={"": float("nan"), "n": 10**5000, "time": "noon"}, failure=None)
def test_any_record_is_one_line_that_is_read_back(
    log_format: LogFormat, message: str, name: str, extra: dict[str, Any], failure: str | None
) -> None:
    formatter = FieldFormatter(log_format, Redactor())
    extra = {key: value for key, value in extra.items() if key not in STANDARD}
    made = record(message.replace("%", "%%"), name=name, **extra)
    made.exc_info = None if failure is None else raised(ValueError(failure))
    line = formatter.format(made)
    assert line == to_line(line)
    assert len(line.encode().splitlines()) == 1
    expected = formatter.list_fields(made)
    if log_format == "logfmt":
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in expected.items()}
        assert read(line) == texts
    else:
        assert read(line) == expected
    num_given = sum(value is not None for value in extra.values())
    assert len(expected) == 4 + num_given + (failure is not None), "no field is lost"
    if failure is not None:
        assert "ValueError" in str(list(expected.values())[-1])


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_record_with_a_defect_is_not_lost(log_format: LogFormat) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    fields = read(FieldFormatter(log_format, Redactor()).format(record("%d jobs", "many", job_id=Broken())))
    assert (fields["action"], fields["job_id"]) == ("%d jobs ('many',)", "<Broken>")
    fields = read(FieldFormatter(log_format, Redactor()).format(record(Broken(), Broken())))
    assert fields["action"].startswith("<Broken> (<")


@pytest.mark.parametrize("log_format", FORMATS)
def test_secrets_are_in_no_field(log_format: LogFormat) -> None:
    formatter = FieldFormatter(log_format, Redactor(f"redis://:{SECRET}@host/0"))
    made = record("tried %s", SECRET, error=ValueError(SECRET), url="redis://:another@host/0", many=[SECRET])
    made.exc_info, made.stack_info = raised(ValueError(SECRET)), SECRET
    line = formatter.format(made)
    assert SECRET not in line
    assert "another" not in line
    assert read(line)["exception"].endswith("ValueError: ***")


def test_fields_of_the_thread_are_added_unless_the_record_has_its_own() -> None:
    formatter = FieldFormatter("json", Redactor())
    with log_fields(device="cpu:0", job_id="j1"), log_fields(job_id="j2"):
        assert read(formatter.format(record()))["job_id"] == "j2"
        own = read(formatter.format(record(job_id="j3", device=None)))
        assert (own["job_id"], own["device"]) == ("j3", "cpu:0")
    assert "device" not in read(formatter.format(record()))


def test_enumerations_are_written_as_their_texts() -> None:
    assert read(FieldFormatter("json", Redactor()).format(record(state=JobState.QUEUED)))["state"] == "queued"


LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
LOGS = {"log", "logger", "_logger", "self._log", "logging", "record", "self", "self._record"}


def list_calls() -> list[tuple[str, ast.Call]]:
    """Return the places and calls of the package that log something."""
    package = Path(finch_hub.__file__).parent
    return [
        (f"{file.relative_to(package)}:{node.lineno}", node)
        for file in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and ast.unparse(node.func.value) in LOGS
    ]


def test_all_calls_give_an_action_and_fields_and_no_formatted_text() -> None:
    calls = list_calls()
    assert len(calls) > 30, "this test finds the calls"
    wrong = []
    for place, call in calls:
        texts = [node for node in call.args if not ast.unparse(node).startswith(("level", "logging."))]
        actions = [node.value for node in texts if isinstance(node, ast.Constant)]
        extra = next((keyword.value for keyword in call.keywords if keyword.arg == "extra"), None)
        named = extra.keys if isinstance(extra, ast.Dict) else []
        keys = {node.value for node in named if isinstance(node, ast.Constant)}
        is_named = all(isinstance(action, str) and action.isidentifier() for action in actions)
        if len(texts) > 1 or not is_named or STANDARD & keys:
            wrong.append(f"{place}: {ast.unparse(call)}")
    assert wrong == []

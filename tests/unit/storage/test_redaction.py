from __future__ import annotations

import logging

import pytest

from finch_hub.storage.redaction import Redactor, redact_url

SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"redis://:{SECRET}@host:6379/0", "redis://:***@host:6379/0"),
        (f"postgresql+psycopg://user:{SECRET}@host/db", "postgresql+psycopg://user:***@host/db"),
        (f"no answer from rediss://u:{SECRET}@h, trying again", "no answer from rediss://u:***@h, trying again"),
        (f"redis://u:with@{SECRET}@h/0", "redis://u:***@h/0"),
        (f"postgresql://u@/db?host=/tmp&password={SECRET}&x=1", "postgresql://u@/db?host=/tmp&password=***&x=1"),
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("give redis://:PASSWORD@HOST:6379/0", "give redis://:PASSWORD@HOST:6379/0"),
        ("at 12:30 write to a@b.example", "at 12:30 write to a@b.example"),
    ],
)
def test_passwords_of_urls_are_replaced(text: str, clean: str) -> None:
    assert redact_url(text) == clean


def test_password_is_replaced_outside_of_urls_and_percent_encoded() -> None:
    redactor = Redactor("redis://:p%40ss-word-1@host/0")
    assert redactor.clean("the server refused p@ss-word-1") == "the server refused ***"
    assert redactor.clean("the server refused p%40ss-word-1") == "the server refused ***"


def test_secret_environment_variables_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("PIN_TOKEN", "1234")
    redactor = Redactor()
    assert redactor.clean(f"signature with {SECRET} failed at 1234") == "signature with *** failed at 1234"


def test_log_records_are_cleaned_with_their_arguments_and_tracebacks() -> None:
    redactor = Redactor(f"redis://:{SECRET}@host/0")
    try:
        raise ValueError(f"bad password {SECRET}")
    except ValueError as error:
        caught = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "tried %s", (SECRET,), caught)
    assert redactor.filter(record)
    assert SECRET not in logging.Formatter().format(record)
    assert "bad password ***" in logging.Formatter().format(record)

"""Formatter of log records as lines of fields, in logfmt or JSON."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime

from finch_hub.settings import LogFormat
from finch_hub.storage.redaction import Redactor
from finch_hub.texts.visible_text import to_json
from finch_hub.workers.logs.context import current_fields

Scalar = str | int | float | bool

_OWN = "finch_hub."  # loggers whose messages are names of actions
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}  # other attributes are from `extra`
_UNSAFE_IN_KEY = re.compile(r"[^\w.-]", re.ASCII)
_NUMBERS = (bool, int, float)  # and no subclass, such as an enumeration, whose text may be another
_MAX_NUMBER = 2**63  # that every reader of JSON takes for a number, unlike infinity and NaN
_PLAIN = re.compile(r'[^\s"=\\]+')  # and nothing that JSON writes in another way


class FieldFormatter(logging.Formatter):
    """Formatter of records with all their fields, each in one line, without secrets.

    A record of Finch Hub has an `action`, one of a library a `message`. Traceback and stack are fields too. A field of
    the record replaces one of its thread, and that one of the process.
    """

    def __init__(self, log_format: LogFormat, redactor: Redactor) -> None:
        super().__init__()
        self._write = _write_json if log_format == "json" else _write_logfmt
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        return self._write(self.list_fields(record))

    def list_fields(self, record: logging.LogRecord) -> dict[str, Scalar]:
        """Return the fields of a record in their order. An underscore is added to a name that is taken."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Scalar] = {
            "time": f"{moment.removesuffix('+00:00')}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "action" if record.name.startswith(_OWN) else "message": self._clean(_find_message(record)),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD and value is not None}
        named = list((current_fields() | extra).items())
        if record.exc_info or record.exc_text:
            named.append(("exception", record.exc_text or (record.exc_info and self.formatException(record.exc_info))))
        if record.stack_info:
            named.append(("stack", record.stack_info))
        for name, value in named:
            key = _UNSAFE_IN_KEY.sub("_", str(name)) or "_"
            while key in fields:
                key += "_"
            fields[key] = self._simplify(value)
        return fields

    def _simplify(self, value: object) -> Scalar:
        if isinstance(value, bool | int | float) and type(value) in _NUMBERS and abs(value) < _MAX_NUMBER:
            return value
        return self._clean(_to_text(value))

    def _clean(self, text: str) -> str:
        return self._redactor.clean(text)


def _find_message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # the arguments do not fit, but the record must not be lost
        return f"{_to_text(record.msg)} {_to_text(record.args)}"


def _to_text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _write_logfmt(fields: dict[str, Scalar]) -> str:
    return " ".join(f"{key}={_quote(value)}" for key, value in fields.items())


def _quote(value: Scalar) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    quoted = to_json(json.dumps(text, ensure_ascii=False))
    return text if _PLAIN.fullmatch(text) and quoted == f'"{text}"' else quoted


def _write_json(fields: dict[str, Scalar]) -> str:
    return to_json(json.dumps(fields, ensure_ascii=False))

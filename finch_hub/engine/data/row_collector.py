"""Collection of rows as examples, with everything that was left out or not used."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finch_hub import errors
from finch_hub.engine.data import json_values, row_formats
from finch_hub.engine.data.row import Row
from finch_hub.engine.data.row_formats import LateConverter, Mismatch, RowFormat, TrackedRow
from finch_hub.engine.data.row_problems import MAX_KEPT, MAX_SHOWN, RowProblems, count_rows
from finch_hub.engine.data.row_time import limit_time
from finch_hub.specs.examples import Example
from finch_hub.specs.options import write_options
from finch_hub.specs.reading import ReadingConfig
from finch_hub.specs.reports import ReadingReport
from finch_hub.texts.visible_text import to_line

IN_PYTHON = "examples"
"""Subject of rows that a program gives."""
_PROGRESS_ROWS = 10_000
_MAX_UNUSED = 100  # columns
# Rows that cannot be used, and their share of all rows so far, from which on no more are read.
_HOPELESS_ROWS, _HOPELESS_SHARE = 20_000, 0.5


@dataclass(frozen=True, kw_only=True)
class ReadData:
    """Examples of a data set, and how its rows became examples.

    Attributes:
        notes: what users should know, a sentence each; a problem of a row is a line of its own.
    """

    examples: tuple[Example, ...]
    report: ReadingReport
    notes: tuple[str, ...] = ()


class RowCollector:
    """Collector of rows that converts them to examples.

    Args:
        subject: name of the data in errors, unless it is changed.
        config: how rows are read.
        formats: row formats. Each row is read in the first format whose fields it has.
        progress: called with the number of rows so far.
        keep: called with each example; None keeps them in memory.
        checks_ignored: whether a column to ignore that no row has is reported.

    Attributes:
        subject: name of the data in errors.

    Raises:
        NotFound: there is no format of the configured name.
    """

    def __init__(
        self,
        subject: str,
        config: ReadingConfig,
        formats: Sequence[RowFormat],
        progress: Callable[[int], None],
        keep: Callable[[Example], None] | None = None,
        *,
        checks_ignored: bool = True,
    ) -> None:
        self._recognized: dict[str, list[str]] = {}
        self.subject = subject
        self._config = config
        self._columns = config.columns
        named = config.format
        if named is None and self._columns:
            named = "messages" if config.messages_column else "prompt_completion"
        self._formats = [row_format for row_format in formats if named in (None, row_format.name)]
        # Fields that a row must have under their own names, since no column is named for them.
        self._needed = (
            sorted({f for form in self._formats for f in form.fields} - self._columns.keys()) if named else []
        )
        if not self._formats:
            known = [row_format.name for row_format in formats]
            raise errors.NotFound("dataset format", str(named), known, lists_known=True)
        self._progress = progress
        self._examples: list[Example] = []
        self._keep = keep or self._examples.append
        self._rows = self._kept = self._without_weight = 0
        self._failures: list[errors.Problem] = []
        self._problems = RowProblems(self._columns)
        self._unused: collections.Counter[str] = collections.Counter()
        self._ignored: dict[str, int] = dict.fromkeys(config.ignore_columns, 0)
        self._names: dict[str, None] = {}
        self._formats_read: collections.Counter[str] = collections.Counter()
        self._labels = {row_format.name: row_format.label for row_format in formats}
        self._checks_ignored = checks_ignored
        self._has_stopped = False

    def add_all(self, rows: Iterable[Row], prefix: str = "") -> None:
        """Add rows; the prefix names their file."""
        for row in rows:
            self._rows += row.lines
            if self._rows % _PROGRESS_ROWS < row.lines:
                self._progress(self._rows)
            if isinstance(row.value, Example):
                self._add_example(row.value, prefix + row.where)
            elif row.value is None:
                self._problems.add([errors.Problem(what=row.problem, where=prefix + row.where, fix=row.fix)], row.lines)
            else:
                self._add(row.value, prefix + row.where)
            if self._problems.rows >= _HOPELESS_ROWS and self._is_hopeless():
                if not self._has_stopped:
                    what = "is where the reading stopped, since most rows before it cannot be used"
                    self.fail(errors.Problem(what=what, where=prefix + row.where, fix="fix or remove these rows"))
                    self._has_stopped = True
                return

    def _is_hopeless(self) -> bool:
        return self._problems.rows > max(_HOPELESS_SHARE, self._config.max_bad_rows) * self._rows

    def fits(self, value: Mapping[str, Any]) -> bool:
        """Tell whether a value has the columns of a row that can be read."""
        found, _ = self._recognize(self._without_ignored(value))
        return not isinstance(found, Mismatch) or found.is_readable

    def recognize(self, note: str, file: str = "") -> None:
        """Add what was recognized about the data, or about one of its files, whose name a blank ends."""
        self._recognized.setdefault(note, []).append(file)

    def _list_recognized(self) -> Iterable[str]:
        for note, files in self._recognized.items():
            if len(files) > MAX_SHOWN:
                yield f"{files[0]}and {len(files) - 1:,} more files: {note}"
            else:
                yield from (f"{file}{note}" for file in files)

    def fail(self, problem: errors.Problem) -> None:
        """Add a problem that keeps a whole file from being read."""
        self._failures.append(problem)

    def finish(self) -> ReadData:
        """Return the data.

        Raises:
            InvalidDataset: a file cannot be read, or too many rows cannot be used.
        """
        if not self._rows and not self._failures:
            self.fail(errors.Problem(what="has no rows", fix="give at least one example"))
        problems = [*self._failures, *self._problems.list_all()]
        left_out = self._problems.rows
        allowed = 0.0 if self._config.strict else self._config.max_bad_rows * self._rows
        report = ReadingReport(
            rows=self._rows,
            left_out=left_out,
            without_weight=self._without_weight,
            problems=tuple(str(problem) for problem, _ in errors.group_problems(problems)[:MAX_SHOWN]),
            unused=dict(sorted(self._unused.items(), key=lambda item: (-item[1], item[0]))[:_MAX_UNUSED]),
            ignored={to_line(name): count for name, count in self._ignored.items()},
            recognized=tuple(to_line(text) for text in self._list_recognized()),
            formats={self._labels[name]: count for name, count in self._formats_read.items()},
        )
        if self._failures or left_out > allowed or not self._kept:
            self._refuse(problems, self._list_unused(report) if self._config.strict else [])
        if self._config.strict and (unused := self._list_unused(report)):
            raise errors.InvalidDataset(unused, subject=f"{self.subject}, read strictly")
        return ReadData(examples=tuple(self._examples), report=report, notes=tuple(self._make_notes(report, problems)))

    def _add(self, value: Mapping[str, Any], where: str) -> None:
        if self._ignored:
            for name in self._ignored.keys() & value.keys():
                self._ignored[name] += 1
            self._add_names(value)
        row_format, renamed = self._recognize(self._without_ignored(value))
        if isinstance(row_format, Mismatch):
            self._mismatch(row_format, value, where)
            return
        if isinstance(row_format.convert, LateConverter):
            row_format.convert.load()  # an import that fails is no problem of the row
        tracked = TrackedRow(json_values.drop_nulls(renamed))
        try:
            if row_format.plugin:
                example = _convert_by_plugin(tracked, row_format, f"{self.subject}, {where}")
            else:
                example = row_format.convert(tracked)
            if example is not None:
                _check(example)
            unused = tracked.unused | self._find_replaced(value)
        except errors.InvalidSpec as error:
            self._problems.add([self._place(problem, where) for problem in error.problems])
            return
        except Exception as error:  # a plugin's converter can raise any exception, whose text may be of the data
            if not row_format.plugin or isinstance(error, errors.TimeLimitReached):
                raise
            raised = error.__cause__ if isinstance(error, errors.PluginError) and error.__cause__ else error
            what = f"cannot be converted: format {row_format.label} raised {type(raised).__name__}"
            self._problems.add([errors.Problem(what=what, where=where)])
            return
        self._formats_read[row_format.name] += 1
        if unused:
            if self._ignored:
                self._add_names(sorted(unused, key=str))
            for name in self._ignored.keys() & unused:  # a field of a turn
                self._ignored[name] += 1
            self._count_unused(unused - self._ignored.keys())
        if example is None:
            self._without_weight += 1
        else:
            self._keep_example(example)

    def _add_example(self, example: Example, where: str) -> None:
        try:
            _check(example)
        except errors.InvalidSpec as error:
            self._problems.add([errors.Problem(what=p.what, where=where, fix=p.fix) for p in error.problems])
        else:
            self._keep_example(example)

    def _keep_example(self, example: Example) -> None:
        self._keep(example)
        self._kept += 1

    def _count_unused(self, names: Iterable[str]) -> None:
        """Count columns that were not used. Rows can have a column each, so the later ones are not kept."""
        for name in map(to_line, names):
            if name in self._unused or len(self._unused) < MAX_KEPT:
                self._unused[name] += 1

    def _add_names(self, names: Iterable[str]) -> None:
        """Keep names of columns and fields of turns, for the report of columns to ignore that no row has."""
        if len(self._names) < MAX_KEPT:
            self._names.update(dict.fromkeys(map(str, names)))

    def _without_ignored(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._ignored or self._ignored.keys().isdisjoint(row):
            return row
        return {name: value for name, value in row.items() if name not in self._ignored}

    def _recognize(self, row: Mapping[str, Any]) -> tuple[RowFormat | Mismatch, Mapping[str, Any]]:
        """Return the format of a row, and the row with the names of the format's fields."""
        renamed = self._rename(row)
        if isinstance(renamed, Mismatch):
            return renamed, row
        return row_formats.recognize(renamed, self._formats), renamed

    def _rename(self, row: Mapping[str, Any]) -> Mapping[str, Any] | Mismatch:
        """Return the row with the configured columns under the names of fields."""
        if not self._columns:
            return row
        missing = [repr(column) for column in self._columns.values() if column not in row]
        missing += [repr(field) for field in self._needed if field not in row]
        if missing:
            return Mismatch(f"has no column {' and no column '.join(missing)}")
        rest = {name: value for name, value in row.items() if name not in self._columns.values()}
        return {**rest, **{name: row[column] for name, column in self._columns.items()}}

    def _place(self, problem: errors.Problem, where: str) -> errors.Problem:
        """Return the problem of a row at its place, with the names of the user's columns."""
        field, rest = re.match(r"(\w*)(.*)", problem.where, re.DOTALL).groups()  # type: ignore[union-attr]
        part = self._columns.get(field, field) + rest
        what = problem.what
        for name, column in self._columns.items():
            what = what.replace(f"'{name}'", repr(column))
        return errors.Problem(what=f"{part} {what}".lstrip(), where=where, fix=problem.fix)

    def _find_replaced(self, row: Mapping[str, Any]) -> set[str]:
        """Return the columns with the names of fields for which another column is configured."""
        if not self._columns:
            return set()
        replaced = self._columns.keys() - set(self._columns.values())
        return {field for field in replaced if not json_values.is_absent(row.get(field))}

    def _mismatch(self, mismatch: Mismatch, row: Mapping[str, Any], where: str) -> None:
        if not mismatch.empty:
            rest = self._without_ignored(row)
            if len(rest) < len(row) and isinstance(self._recognize(row)[0], RowFormat):
                ignored = row_formats.list_columns([name for name in row if name in self._ignored])
                what, fix = f"{mismatch.what}, because {ignored} is ignored", "do not ignore the columns that are read"
                mismatch = Mismatch(what, fix, is_readable=True)
            self._problems.add_mismatch(mismatch, rest, where)
        else:
            self._problems.add(
                [
                    self._place(errors.Problem(what=mismatch.what, where=name, fix=mismatch.fix), where)
                    for name in mismatch.empty
                ]
            )

    def _refuse(self, problems: Sequence[errors.Problem], unused: Sequence[errors.Problem]) -> None:
        if not problems:
            what, fix = "has no row to learn: all have the weight 0", "give at least one example"
            raise errors.InvalidDataset(what, fix=fix, subject=self.subject)
        subject = self.subject
        if not self._failures and self._kept:
            share = float(f"{self._config.max_bad_rows:.3g}")
            limit = f"more than {write_options({'max_bad_rows': share})} allows"
            if self._config.strict:
                limit = f"which {write_options({'strict': True})} refuses"
            subject += f": {self._problems.rows:,} of {self._rows:,} rows cannot be used, {limit}"
        kinds = self._count_kinds() + errors.count_kinds(unused)
        raise errors.InvalidDataset([*problems, *unused], subject=subject, kinds=kinds)

    def _count_kinds(self) -> collections.Counter[str]:
        return errors.count_kinds(self._failures) + self._problems.count_kinds()

    def _list_unused(self, report: ReadingReport) -> list[errors.Problem]:
        """Return a problem for each column that was not used, and for all else that only `strict` refuses."""
        problems = [
            errors.Problem(where=name, what=f"is not used, in {count_rows(count)}", fix=self._advise_ignoring(name))
            for name, count in report.unused.items()
        ]
        if self._without_weight:
            what = f"is 0 in {count_rows(self._without_weight)}, which would be left out"
            problems.append(errors.Problem(where="weight", what=what, fix="remove them"))
        return problems + self._find_absent()

    def _advise_ignoring(self, name: str) -> str:
        return f"remove it, or add {write_options({'ignore_columns': (name,)})}"

    def _find_absent(self) -> list[errors.Problem]:
        """Return a problem for each column to ignore that no row has."""
        what = "is to be ignored, but is neither a column of a row nor an unused field of a turn"
        fix = f"the columns are {row_formats.list_columns([*self._names])}"
        absent = [name for name, count in self._ignored.items() if not count and self._checks_ignored]
        return [errors.Problem(where=name, what=what, fix=fix) for name in absent]

    def _make_notes(self, report: ReadingReport, problems: Sequence[errors.Problem]) -> Iterable[str]:
        yield from (f"{self.subject}: {text}" for text in report.recognized)
        for name, count in self._formats_read.items():
            if name != self._config.format and self._labels[name] != name:
                option = write_options({"format": name})
                yield f"{self.subject}: {count_rows(count)} read in the format {self._labels[name]} ({option} says so)"
        if report.left_out:
            lines = errors.list_problems(problems, self._count_kinds())
            yield "\n  ".join([f"{self.subject}: left out {report.left_out:,} of {report.rows:,} rows:", *lines])
        if report.without_weight:
            yield f"{self.subject}: left out {report.without_weight:,} of {report.rows:,} rows, whose weight is 0"
        if report.unused:
            named = ", ".join(
                f"{name} ({count_rows(count)})" for name, count in list(report.unused.items())[:MAX_SHOWN]
            )
            yield f"{self.subject}: columns and fields that are not used: {named}"
        yield from (f"{self.subject}: {problem}" for problem in self._find_absent())


def _convert_by_plugin(row: TrackedRow, row_format: RowFormat, where: str) -> Example | None:
    """Return what the converter of a plugin makes of a row, with all its fields validated.

    Raises:
        InvalidSpec: it is no example, or one with invalid fields.
        TimeLimitReached: the converter does not end.
    """
    fix = "tell the authors of the plugin, or leave the row out"
    with limit_time(f"the dataset format {row_format.label}", row=where, fix=fix):
        example: object = row_format.convert(row)
        if example is None:
            return None
        if type(example) is not Example:  # a subclass could do anything when it is read
            what = f"cannot be converted: format {row_format.label} returned {type(example).__name__}, not an Example"
            raise errors.InvalidSpec(what)
        return Example.of(example.model_dump(exclude_unset=True, warnings=False))


def _check(example: Example) -> None:
    """Refuse what cannot be stored: what is not JSON, and half of a surrogate pair, which only JSON can write."""
    try:
        (example.text or "").encode()
        for message in example.messages:
            message.content.encode()
            if message.reasoning or message.tool_calls or message.name or message.tool_call_id:
                _check_json((message.reasoning, message.tool_calls, message.name, message.tool_call_id))
        if example.tools or example.documents:
            _check_json((example.tools, example.documents))
    except UnicodeEncodeError:
        raise errors.InvalidSpec("has half of a surrogate pair", fix="repair its \\u escapes") from None


def _check_json(value: Any) -> None:
    json.dumps(json_values.clean(value, keeps_nulls=True), ensure_ascii=False).encode()

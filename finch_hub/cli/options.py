"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
import tomllib
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from finch_hub import errors
from finch_hub.cli import completion
from finch_hub.specs import former_names

_Type = TypeVar("_Type")
_TIME_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZE_UNITS = {"": 1, "m": 10**6, "g": 10**9, "t": 10**12, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def renamed_option(name: str, *, former: str, **attributes: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return an option that has a former name, too. With that name it is not in the help, and warns."""
    parameter, former_parameter = (option.removeprefix("--").replace("-", "_") for option in (name, former))
    key = f"former_{former_parameter}"

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_former(**options: Any) -> Any:
            given = options.pop(key)
            if given not in (None, False, ()):
                former_names.warn_of_former_name(former_parameter, parameter)
                options[parameter] = given + options[parameter] if isinstance(given, tuple) else given
            return command(**options)

        hidden = click.option(former, key, hidden=True, **attributes)(with_former)
        return click.option(name, parameter, **attributes)(hidden)

    return add


depends_on = renamed_option(
    "--depends-on",
    former="--after",
    multiple=True,
    shell_complete=completion.complete_jobs,
    metavar="JOB",
    help="Job to wait for. Can be repeated.",
)


def parse_settings(pairs: Iterable[str], option: str, *, reserved: Container[str] = ()) -> dict[str, Any]:
    """Parse the NAME=VALUE pairs of an option. A value is JSON if it can be parsed as JSON, otherwise text.

    Raises:
        InvalidSpec: with every text that is not such a pair, or whose name is reserved for an option of its own.
    """
    settings: dict[str, Any] = {}
    problems = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        settings[name] = text
        with contextlib.suppress(ValueError):
            settings[name] = json.loads(text)
        if not equals or not name:
            problems.append(errors.Problem(where=option, what=f"{pair!r} is not a setting", fix="write NAME=VALUE"))
        elif name in reserved:
            fix = f"use --{name.replace('_', '-')}"
            problems.append(errors.Problem(where=option, what=f"{name} has an option of its own", fix=fix))
    if problems:
        raise errors.InvalidSpec(problems)
    return settings


def parse_further_settings(pairs: Iterable[str], option: str) -> dict[str, Any]:
    """Parse pairs for settings of a training that have no option of their own in the current command.

    Raises:
        InvalidSpec: with every text that is not such a pair, or whose name is no such setting.
    """
    reserved = {str(parameter.name) for parameter in click.get_current_context().command.params}
    settings = parse_settings(pairs, option, reserved=reserved)
    if names := sorted(_NO_SETTINGS & settings.keys()):
        raise errors.InvalidSpec(
            [errors.Problem(where=option, what=f"there is no setting {name}", fix="remove it") for name in names]
        )
    return settings


_NO_SETTINGS = frozenset({"self", "progress", "requirements"})  # other arguments of the methods of the hub


def settings_option(option: str, name: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return an option that takes NAME=VALUE pairs."""
    return click.option(option, name, multiple=True, metavar="NAME=VALUE", help=f"{text} Can be repeated.")


class Days(click.FloatRange):
    """A number of days, 0 to 36,500."""

    def __init__(self) -> None:
        super().__init__(min=0, max=36_500)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the number. No comparison refuses what is not one."""
        days = super().convert(value, param, ctx)
        if math.isnan(days):
            self.fail(f"{value} is not a number of days", param, ctx)
        return days


class Numbers(click.ParamType[tuple[float, ...]]):
    """Several numbers in one value: `1,0.5`."""

    name = "number,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse the numbers."""
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,0.5", param, ctx)


class Values(click.ParamType[list[Any]]):
    """Several values of another type, separated by commas: `8,16`."""

    def __init__(self, of: click.ParamType[Any]) -> None:
        self.name, self._of = f"{of.name},…", of

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        """Parse the values."""
        if isinstance(value, list):
            return value
        return [self._of.convert(part.strip(), param, ctx) for part in str(value).split(",")]


class Rank(click.ParamType[int | str]):
    """A rank, or `auto`."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Parse the number. The specification checks its range."""
        try:
            return "auto" if value == "auto" else int(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither a number nor auto", param, ctx)


class Quantity(click.ParamType[float]):
    """A number with a unit, such as `90s` or `16G`."""

    def __init__(self, name: str, units: dict[str, int], examples: str) -> None:
        self.name, self._units, self._examples = name, units, examples

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the number, in the smallest unit."""
        parts = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?)\s*((?:[a-z]i?)?)b?", str(value).strip().lower())
        if parts is None or parts[2] not in self._units:
            self.fail(f"{value!r} is not a {self.name} (write {self._examples})", param, ctx)
        return float(parts[1]) * self._units[parts[2]]


def requirement_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the slot that runs the job. The command gets them as one value, `requirements`."""

    @functools.wraps(command)
    def with_requirements(**options: Any) -> Any:
        from finch_hub.specs.jobs import Requirements

        requirements = Requirements(
            memory_bytes=int(options.pop("memory_bytes") or 0),
            together=options.pop("together", False),
            **{name: options.pop(name) for name in ("queue", "device", "labels", "time_limit")},
        )
        return command(requirements=requirements, **options)

    time = Quantity("time", _TIME_UNITS, "90s, 30m or 2h")
    size = Quantity("size", _SIZE_UNITS, "800M, 16G or 16GiB")
    added: Callable[..., Any] = with_requirements
    for option in (
        click.option("--time-limit", type=time, help="Maximum time of one attempt, such as 90s, 30m or 2h."),
        renamed_option(
            "--memory-bytes",
            former="--memory",
            type=size,
            help="Device memory that the job needs, such as 800M, 16G or 16GiB.",
        ),
        click.option("--label", "labels", multiple=True, help="Label that the worker must have. Can be repeated."),
        click.option("--device", type=click.Choice(["any", "cpu", "cuda"]), default="any", help="Kind of device."),
        click.option("--queue", default="default", show_default=True, help="Queue that the job waits in."),
    ):
        added = option(added)
    return added


def training_source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what a training makes, and of what."""
    for option in (
        click.option("--system", help="System prompt of the examples that have none."),
        click.option(
            "--validation",
            metavar="DATA|SHARE",
            help="Validation data, or the share of DATA to hold out.  "
            "[default: the folder's validation split, or the preset's share]",
        ),
        click.option(
            "--preset",
            shell_complete=completion.complete_presets,
            help="Preset plugin. `finch-hub plugins list --kind preset` lists them.",
        ),
        click.option("--revision", help="Revision of a Hugging Face model."),
        click.option(
            "--from",
            "--start",
            "start",
            shell_complete=completion.complete_references,
            metavar="REFERENCE",
            help="Version of an adapter to train further, as name/3.",
        ),
        click.option(
            "--base",
            shell_complete=completion.complete_bases,
            help="Name of a base, a folder, a GGUF file, or a Hugging Face id.  [default: that of --from]",
        ),
        click.option(
            "--adapter",
            required=True,
            shell_complete=completion.complete_adapters,
            help="Name of the adapter. Each run makes a new version of it.",
        ),
    ):
        command = option(command)
    return command


def report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the file of a report. The command gets them as `html`, `samples` and `replace`."""
    for option in (
        click.option("--replace", is_flag=True, help="Replace an earlier report."),
        click.option("--samples", is_flag=True, help="Show sample answers. They quote rows of the data."),
        click.option("--html", type=click.Path(), required=True, help="Path of the new HTML file."),
    ):
        command = option(command)
    return command


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for how rows are read. The command gets them as one mapping, `reading`."""
    fields = {name: _FIELDS.get(name, name.removeprefix("--").replace("-", "_")) for name, _ in _READING_OPTIONS}

    @functools.wraps(command)
    def with_reading(**options: Any) -> Any:
        # Without flags that are off, a call without an option equals one of Python without the argument.
        given = {name: options.pop(name) for name in fields.values()}
        reading = {name: value for name, value in given.items() if not (value is None or value is False or value == ())}
        return command(reading=reading, **options)

    added: Callable[..., Any] = with_reading
    for name, settings in reversed(_READING_OPTIONS):
        added = click.option(name, fields[name], **settings)(added)
    return added


# Options that can be repeated are one field.
_FIELDS = {"--ignore-column": "ignore_columns"}
# Repeated from `ReadingConfig`, so that `--help` does not import it.
FILE_FORMATS = ("jsonl", "json", "csv", "tsv", "parquet", "arrow")
_READING_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--format", {"help": "Row format.  [default: recognized by each row's columns]"}),
    ("--prompt-column", {"metavar": "NAME", "help": "Column of the prompts."}),
    ("--completion-column", {"metavar": "NAME", "help": "Column of the completions."}),
    ("--messages-column", {"metavar": "NAME", "help": "Column of the conversations."}),
    (
        "--ignore-column",
        {"multiple": True, "metavar": "NAME", "help": "Column to leave out on purpose. Can be repeated."},
    ),
    ("--encoding", {"help": "Encoding of text files, such as cp1252.  [default: recognized]"}),
    ("--delimiter", {"help": 'Character between the columns of a CSV file, or "tab".  [default: recognized]'}),
    (
        "--file-format",
        {"type": click.Choice(FILE_FORMATS), "help": "Format of the files.  [default: that of their names]"},
    ),
    (
        "--max-bad-rows",
        {
            "type": float,
            "metavar": "SHARE",
            "help": "Largest share of the rows that may be left out.  [default: 0.05, or that of the settings]",
        },
    ),
    (
        "--strict",
        {"is_flag": True, "help": "Refuse data of which a row, a column or a part of a turn would be left out."},
    ),
)


def parse_validation(text: str | None) -> str | float | None:
    """Parse the name of validation data, or a number as the share of the data to hold out."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--config`, which every command that submits a job has. Options of the command line win."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file of options and arguments. `finch-hub jobs show JOB --config` prints that of a job.",
    )(command)


def refuse_unused(flag: str, does: str, names: Container[str]) -> None:
    """Refuse options on the command line that have no effect beside another one. Those of a file are passed over.

    Args:
        flag: the other option.
        does: what a command does with it.
        names: parameters that it makes useless.
    """
    context = click.get_current_context()
    unused = [
        (parameter.secondary_opts if context.params[str(parameter.name)] is False else parameter.opts)[0]
        for parameter in context.command.params
        if parameter.name in names and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if unused:
        raise click.UsageError(f"{flag} {does}: leave out {', '.join(unused)}")


SETTINGS_OF_CONFIG = "finch_hub.settings_of_config"
"""Place in `Context.meta` of the settings of a file that have no option of their own, as NAME=VALUE pairs."""
_ONLY_OF_TRAIN = frozenset({"dropout", "max_steps", "patience", "target_modules"})  # options that `sweep` has not
_NOT_IN_CONFIG = frozenset({"config", "detach", "dry_run", "json", "plan", "probe", "quiet", "set", "help"})


def _read_config(context: click.Context, parameter: click.Parameter, file: str | None) -> None:
    """Let the settings of a file be the defaults of the command."""
    from finch_hub.display import commands

    if file is None:
        return
    try:
        settings = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.InvalidSpec(f"is not valid TOML: {error}", where=file, fix="fix that line") from None
    known = {_name_in_config(known): known for known in context.command.params if not getattr(known, "hidden", False)}
    known = {name: found for name, found in known.items() if name not in _NOT_IN_CONFIG}
    takes_settings = any(found.name == "settings" for found in context.command.params)
    further = (commands.WITHOUT_OPTION | _ONLY_OF_TRAIN) - known.keys() if takes_settings else frozenset()
    kind = {"eval": "evaluate", "sweep": "train"}.get(str(context.command.name), context.command.name)
    problems, defaults, pairs = [], {}, []
    for name, value in settings.items():
        if name == "kind":
            if value != kind:
                what = f"the file is for a job of kind {value}, and this command submits jobs of kind {kind}"
                problems.append(errors.Problem(where=name, what=what, fix="use the command of that kind"))
        elif name in known:
            try:
                defaults[str(known[name].name)] = _write_words(known[name], value)
            except ValueError as error:
                problems.append(errors.Problem(where=name, what=str(error), fix="change it, or remove it"))
        elif name in further:
            try:
                pairs.append(_write_pair(name, value))
            except ValueError as error:
                problems.append(errors.Problem(where=name, what=str(error), fix="change it, or remove it"))
        else:
            near = errors.near(name, [*known, *further])
            fix = f"did you mean {' or '.join(near)}?" if near else "remove it"
            problems.append(errors.Problem(where=name, what="there is no such setting", fix=fix))
    if problems:
        raise errors.InvalidSpec(problems, subject=file)
    context.default_map = {**(context.default_map or {}), **defaults}
    context.meta[SETTINGS_OF_CONFIG] = pairs


def _write_words(parameter: click.Parameter, value: Any) -> str | bool | list[str]:
    """Return what a user would write for a value of a file. The type of the option checks a number then.

    Raises:
        ValueError: the value is of another type than the option.
    """
    from finch_hub.specs.lora import parse_target_modules

    if getattr(parameter, "is_flag", False):
        return _check_type(value, bool, "true or false")
    if parameter.multiple or parameter.nargs != 1:
        if isinstance(value, dict):
            return [_write_pair(key, entry) for key, entry in value.items()]
        return [_check_type(entry, str, "a list of texts") for entry in _check_type(value, list, "a list of texts")]
    if isinstance(value, list) and parameter.name == "target_modules":
        text = ",".join(_check_type(entry, str, "a list of texts") for entry in value)
        read = parse_target_modules(text)
        if isinstance(read, str) or list(read) != value:
            raise ValueError("names modules that the option --target-modules reads in another way")
        return text
    if isinstance(value, list) and isinstance(parameter.type, Values):
        if not all(_is_number(entry) or isinstance(entry, str) for entry in value):
            raise ValueError("is not a list of values")
        return ",".join(map(str, value))
    if isinstance(value, list) and isinstance(parameter.type, Numbers):
        if not all(map(_is_number, value)):
            raise ValueError("is not a list of numbers")
        return ",".join(map(str, value))
    is_text = isinstance(parameter.type, (click.types.StringParamType, click.Path, click.Choice))
    if _is_number(value) and (not is_text or parameter.name == "validation"):
        return str(value)
    return _check_type(value, str, "a text" if is_text else "a number")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_type(value: Any, kind: type[_Type], words: str) -> _Type:
    if not isinstance(value, kind):
        raise ValueError(f"is not {words}")
    return value


def _write_pair(name: str, value: Any) -> str:
    """Return NAME=VALUE, whose value is JSON.

    Raises:
        ValueError: the name has no place before the sign, or JSON has no such value.
    """
    if not name or "=" in name:
        raise ValueError(f"{name!r} is not the name of a setting")
    try:
        return f"{name}={json.dumps(value, allow_nan=False)}"
    except (TypeError, ValueError):
        raise ValueError("has a value that JSON does not have") from None


def _name_in_config(parameter: click.Parameter) -> str:
    """Return the name of an argument, or the word of an option, in the plural if the option can be repeated."""
    if not isinstance(parameter, click.Option):
        return str(parameter.name)
    words = [option.removeprefix("--").replace("-", "_") for option in parameter.opts]
    if parameter.name in words:
        return str(parameter.name)
    word = words[0]
    return f"{word}s" if parameter.multiple and not word.endswith("s") else word


def drop_unset(**options: Any) -> dict[str, Any]:
    """Return the options that the user gave, which are not None."""
    return {name: value for name, value in options.items() if value is not None}

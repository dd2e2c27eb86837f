"""Options whose values are parsed: settings, ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import registry

from finch_hub import errors
from finch_hub.cli import options
from finch_hub.registry.database import Database
from finch_hub.specs.former_names import FormerNameWarning
from finch_hub.specs.jobs import Requirements

from .conftest import Run


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.one_of(st.integers(), st.booleans(), st.none()))
)
def test_parse_settings_returns_the_json_values(settings: dict[str, Any]) -> None:
    pairs = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    assert options.parse_settings(pairs, "--set") == settings


def test_parse_settings_without_json_returns_text() -> None:
    assert options.parse_settings(["schedule=cosine", "text=a=b"], "--set") == {"schedule": "cosine", "text": "a=b"}
    with pytest.raises(errors.InvalidSpec, match="'=3' is not a setting"):
        options.parse_settings(["=3"], "--set")


def requirements_of(*words: str) -> Requirements:
    """Return the requirements that a command gets for these words."""
    given: list[Requirements] = []

    @click.command()
    @options.requirement_options
    def command(requirements: Requirements) -> None:
        given.append(requirements)

    command.main(list(words), standalone_mode=False)
    return given[0]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5h", 5400), ("1d", 86_400), (" 2 H ", 7200)],
)
def test_time_is_read_in_its_unit(text: str, seconds: float) -> None:
    assert requirements_of("--time-limit", text).time_limit == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("800", 800), ("800M", 800e6), ("1.5G", 1.5e9), ("2T", 2e12), ("16GiB", 2**34), ("16 gb", 16e9), ("1Mi", 2**20)],
)
def test_size_is_read_in_its_unit(text: str, count: int) -> None:
    assert requirements_of("--memory-bytes", text).memory_bytes == count


@pytest.mark.parametrize("option", ["--time-limit", "--memory-bytes"])
@pytest.mark.parametrize("text", ["", "soon", "-1", "1e3", "3x", "1,5", "1 2", "nan", "1mh"])
def test_quantity_that_is_no_number_with_a_unit_is_refused(option: str, text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is not a (time|size) \(write "):
        requirements_of(option, text)


def test_requirements_have_defaults() -> None:
    assert requirements_of() == Requirements()


@pytest.mark.parametrize(("text", "rank"), [("auto", "auto"), ("8", 8), ("-1", -1)])
def test_rank_accepts_a_number_or_auto(text: str, rank: int | str) -> None:
    assert options.Rank().convert(text, None, None) == rank
    with pytest.raises(click.BadParameter, match="neither a number nor auto"):
        options.Rank().convert(f"{text}x", None, None)


def reading_of(*words: str) -> dict[str, Any]:
    """Return the options of reading that a command gets for these words."""
    given: list[dict[str, Any]] = []

    @click.command()
    @options.reading_options
    def command(reading: dict[str, Any]) -> None:
        given.append(reading)

    command.main(list(words), standalone_mode=False)
    return given[0]


def test_reading_has_only_the_options_that_are_given() -> None:
    assert reading_of() == {}
    assert reading_of("--max-bad-rows", "0") == {"max_bad_rows": 0.0}
    assert reading_of("--strict", "--ignore-column", "id") == {"strict": True, "ignore_columns": ("id",)}
    assert reading_of("--encoding", "") == {"encoding": ""}


@pytest.mark.parametrize(
    ("words", "former", "name"),
    [
        (("train", "x", "--adapter", "a", "--key", "k"), "--key", "--idempotency-key"),
        (("train", "x", "--adapter", "a", "--memory", "1G"), "--memory", "--memory-bytes"),
        (("compose", "x", "y", "--adapter", "a", "--after", "job"), "--after", "--depends-on"),
        (("bases", "add", "x", "--id", "a/b"), "--id", "--public-id"),
        (("adapters", "compare", "x", "y", "--all"), "--all", "--show-equal"),
    ],
)
@pytest.mark.filterwarnings("always::finch_hub.specs.former_names.FormerNameWarning")
def test_former_option_still_works_with_a_warning(run: Run, words: tuple[str, ...], former: str, name: str) -> None:
    ran = run(*words)
    assert f"warning: {former} is now called {name} (write {name}: " in ran.err
    assert f"No such option: {former}" not in ran.err


def test_former_option_gives_its_value() -> None:
    given: list[Any] = []

    @click.command()
    @options.renamed_option("--depends-on", former="--after", multiple=True)
    @options.renamed_option("--show-equal", former="--all", is_flag=True)
    def command(depends_on: tuple[str, ...], show_equal: bool) -> None:
        given.append((depends_on, show_equal))

    with pytest.warns(FormerNameWarning):
        command.main(["--after", "a", "--depends-on", "b", "--all"], standalone_mode=False)
    command.main([], standalone_mode=False)
    assert given == [(("a", "b"), True), ((), False)]
    assert "--after" not in command.get_help(click.Context(command))


@pytest.mark.parametrize(
    ("command", "line", "word"),
    [
        ("train", "epochs = 2.9", "--epochs"),
        ("train", "rank = 8.7", "--rank"),
        ("train", "rank = [8]", "rank: is not a number"),
        ("train", "seed = true", "seed: is not a number"),
        ("train", "seed = 1979-05-27", "seed: is not a number"),
        ("train", "revision = 1.10", "revision: is not a text"),
        ("train", "validation = true", "validation: is not a text"),
        ("train", "strict = 1", "strict: is not true or false"),
        ("train", "memory_bytes = nan", "--memory-bytes"),
        ("train", "time_limit = -1", "--time-limit"),
        ("train", 'labels = "fast"', "labels: is not a list of texts"),
        ("train", "target_modules = ['a,b']", "target_modules: names modules that"),
        ("train", "target_modules = ['mlp']", "target_modules: names modules that"),
        ("train", "target_modules = [1]", "target_modules: is not a list of texts"),
        ("train", "warmup_ratio = nan", "warmup_ratio: has a value that JSON does not have"),
        ("train", "schedule = 1979-05-27", "schedule: has a value that JSON does not have"),
        ("compose", 'adapters = "ab"', "adapters: is not a list of texts"),
        ("compose", "adapters = [1]", "adapters: is not a list of texts"),
        ("compose", 'weights = ["x"]', "weights: is not a list of numbers"),
        ("compose", "weights = [true]", "weights: is not a list of numbers"),
        ("compose", 'weights = "x"', "--weights"),
        ("compose", 'parameters = {"a=b" = 1}', "parameters: 'a=b' is not the name of a setting"),
        ("quantize", "group = 32.5", "--group"),
        ("export", "out = 5", "out: is not a text"),
    ],
)
def test_value_of_a_config_that_its_option_does_not_take_is_refused(
    run: Run, tmp_path: Path, command: str, line: str, word: str
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(line)
    required = ("--adapter", "birds") if command == "train" else ()
    ran = run(command, "medical", *required, "--config", file)
    assert ran.status == 2
    assert word in ran.err


TOO_LARGE = 10**23


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("adapters", "alias", "medical/1", "best", "--expected"), (-3, TOO_LARGE)),
        (("adapters", "alias", "medical", "best", "--delete", "--expected"), (-3, TOO_LARGE)),
        (("adapters", "alias-history", "medical", "--after"), (0, TOO_LARGE)),
        (("adapters", "list", "--limit"), (0, TOO_LARGE)),
        (("audit", "--after"), (0, TOO_LARGE)),
        (("jobs", "watch", "JOB", "--after"), (-3, TOO_LARGE)),
        (("jobs", "prune", "--keep"), (-1, TOO_LARGE)),
        (("jobs", "prune", "--days"), (-1, TOO_LARGE, "nan", "inf")),
        (("gc", "--unused-days"), (-1, TOO_LARGE, "nan", "inf")),
        (("worker", "start", "--slots"), (0, TOO_LARGE)),
        (("quantize", "medical/1", "--group"), (-1, TOO_LARGE)),
        (("quantize", "medical/1", "--tolerance"), (-1, "nan")),
        (("compose", "medical/1", "medical/2", "--adapter", "both", "--seed"), (-TOO_LARGE, TOO_LARGE)),
        (("compose", "medical/1", "medical/2", "--adapter", "both", "--evaluations"), (-1, TOO_LARGE)),
        (("compose", "medical/1", "medical/2", "--adapter", "both", "--rank"), (-1, TOO_LARGE)),
        (("generate", "Why?", "--adapter", "medical/1", "--max-new-tokens"), (0, TOO_LARGE)),
        (("eval", "DATA", "--adapter", "medical/1", "--max-length"), (0, TOO_LARGE)),
        (("train", "DATA", "--detach", "--adapter", "new", "--base", "tiny", "--priority"), (-TOO_LARGE, TOO_LARGE)),
        (("train", "DATA", "--detach", "--adapter", "new", "--base", "tiny", "--seed"), (-TOO_LARGE, TOO_LARGE)),
        (("train", "DATA", "--detach", "--adapter", "new", "--base", "tiny", "--epochs"), (0, TOO_LARGE)),
        (("train", "DATA", "--detach", "--adapter", "new", "--base", "tiny", "--max-steps"), (0, TOO_LARGE)),
        (("train", "DATA", "--detach", "--adapter", "new", "--base", "tiny", "--batch-size"), (0, TOO_LARGE)),
        (("train", "DATA", "--detach", "--adapter", "new", "--base", "tiny", "--patience"), (-1, TOO_LARGE)),
        (("train", "DATA", "--detach", "--adapter", "new", "--base", "tiny", "--rank"), (0, TOO_LARGE)),
        (("train", "DATA", "--detach", "--adapter", "new", "--base", "tiny", "--memory-bytes"), (TOO_LARGE,)),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_number_that_no_database_stores_is_a_usage_error(
    run: Run, database: Database, data: Path, words: tuple[str, ...], values: tuple[object, ...]
) -> None:
    registry.add_version(database)
    registry.add_version(database)
    job = registry.submit(database).id
    given = [{"DATA": str(data), "JOB": job}.get(word, word) for word in words]
    for value in values:
        ran = run(*given, value)
        assert (value, ran.status, ran.out) == (value, 2, ""), ran.err


def test_unused_option_is_named_as_it_was_given() -> None:
    @click.command()
    @click.option("--plan", is_flag=True)
    @click.option("--together/--no-together", default=True)
    def command(plan: bool, together: bool) -> None:
        options.refuse_unused("--plan", "submits no job", {"together"})

    for word in ("--together", "--no-together"):
        with pytest.raises(click.UsageError, match=f"leave out {word}$"):
            command.main(["--plan", word], standalone_mode=False)

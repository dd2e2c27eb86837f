"""The entry point: commands imported when called, errors as text and exit codes."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from finch_hub import errors
from finch_hub.cli import main, output
from finch_hub.display.visible_console import VisibleConsole
from finch_hub.workers.messaging.dispatcher import UnreachableBrokerWarning

from .conftest import Run

HEAVY = ("torch", "transformers", "peft", "celery", "sqlalchemy", "pydantic", "pluggy", "rich", "numpy")


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command below a group with the words that call it."""
    yield path, group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("name", main.COMMANDS)
def test_summaries_equal_the_help_of_the_commands(name: str) -> None:
    command = main.cli.get_command(click.Context(main.cli), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(limit=200) == main.COMMANDS[name][1]


def test_every_command_and_option_has_help() -> None:
    for path, command in commands(main.cli):
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (path, parameter.name)


def test_help_of_every_command_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from finch_hub.cli.main import COMMANDS, main\n"
        "for words in ([], *([name] for name in COMMANDS)):\n"
        "    assert main([*words, '--help']) == 0, words\n"
        "print(sorted(set(sys.argv[1:]) & set(sys.modules)), file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, *HEAVY], check=True, capture_output=True, text=True)
    assert ran.stderr == "[]\n"


def test_unknown_command_offers_a_similar_one(run: Run) -> None:
    ran = run("trian")
    assert ran.status == 2
    assert "Did you mean 'train'?" in ran.err


def test_every_finch_error_has_an_exit_code() -> None:
    def kinds(kind: type[errors.FinchError]) -> Iterator[type[errors.FinchError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from kinds(child)

    codes = {kind.__name__: output.exit_code(kind.__new__(kind)) for kind in kinds(errors.FinchError)}
    assert codes == {
        "FinchError": 1,
        **dict.fromkeys(("InvalidInput", "InvalidSpec", "InvalidDataset", "InvalidReference"), 2),
        **dict.fromkeys(("RefusedArtifact", "Incompatible"), 2),
        **dict.fromkeys(("NotFound", "Deleted", "MissingArtifact", "MissingOutput", "MissingRepository"), 3),
        **dict.fromkeys(("Conflict", "IllegalTransition", "StaleFence", "CancelRequested", "AliasMoved"), 4),
        **dict.fromkeys(("JobFailed", "TrainingFailed", "Diverged", "UnusableAdapter", "InvalidCheckpoint"), 5),
        "JobCancelled": 6,
        **dict.fromkeys(("Unavailable", "AccessDenied", "ReplacedDatabase", "SchemaMismatch", "StoreUnavailable"), 7),
        "PluginError": 8,
        "TimeLimitReached": 8,
        "NotReproduced": 9,
        "Damaged": 11,
        "IncompleteBackup": 10,
    }
    assert (output.INTERNAL, output.exit_code(KeyError())) == (1, 1)
    assert output.INTERRUPTED == 130


def test_error_is_printed_without_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("adapters", "show", "nosuch")
    assert (ran.status, ran.out, ran.err) == (3, "", "error: there is no adapter 'nosuch'\n")
    monkeypatch.setenv("FINCH_DEBUG", "1")
    assert "Traceback" in run("adapters", "show", "nosuch").err


def test_unexpected_error_is_printed_as_a_bug(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("one over none")

    monkeypatch.setattr(output, "open_hub", broken)
    ran = run("bases", "list")
    assert ran.status == output.INTERNAL
    assert ran.err.startswith("internal error: ZeroDivisionError: one over none\n  This is a bug")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "command",
    [
        ("bases", "add", "{}"),
        ("bases", "add", "./{}"),
        ("bases", "add", "{}.gguf"),
        ("adapters", "import", "{}", "--name", "x", "--base", "y"),
        ("train", "data.jsonl", "--adapter", "x", "--base", "{}"),
    ],
)
def test_path_that_the_system_refuses_is_not_a_bug(run: Run, command: tuple[str, ...]) -> None:
    ran = run(*(argument.format("a" * 300) for argument in command))
    assert ran.status != output.INTERNAL
    assert ran.err.startswith("error: ")


@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize("kind", [errors.Unavailable, RuntimeError], ids=["expected", "unexpected"])
def test_password_of_a_url_is_in_no_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], debug: str
) -> None:
    def broken() -> None:
        raise kind("no answer from redis://:correct-horse-battery@host/0")

    monkeypatch.setenv("FINCH_DEBUG", debug)
    monkeypatch.setattr(output, "open_hub", broken)
    ran = run("bases", "list")
    assert "redis://:***@host/0" in ran.err
    assert "correct-horse-battery" not in ran.out + ran.err
    assert ("Traceback" in ran.err) == bool(debug)


@pytest.mark.parametrize("category", [UnreachableBrokerWarning, UserWarning], ids=["ours", "others"])
def test_password_of_a_url_is_in_no_warning(run: Run, monkeypatch: pytest.MonkeyPatch, category: type[Warning]) -> None:
    def warn() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("no answer from redis://:correct-horse-battery@host/0", category, stacklevel=1)
        raise errors.NotFound("base", "tiny")

    monkeypatch.setattr(output, "open_hub", warn)
    ran = run("bases", "list")
    assert "no answer from redis://:***@host/0" in ran.err
    assert "correct-horse-battery" not in ran.out + ran.err


def test_finch_warnings_are_one_line_on_standard_error(home: Path) -> None:
    code = (
        "import sys, warnings\n"
        "from finch_hub.cli import main, output\n"
        "def warn():\n"
        "    from finch_hub import Hub\n"
        "    from finch_hub.specs.lora import LoRAConfig\n"
        "    LoRAConfig(rank=1)\n"
        "    LoRAConfig(rank=1)\n"
        "    return Hub()\n"
        "output.open_hub = warn\n"
        "sys.exit(main.main(['bases', 'list', '--json']))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
    assert ran.stderr.startswith("warning: rank=1 is outside the usual range 4 to 64")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["finch_hub", "finch_hub.cli.main"])
def test_modules_run_like_the_command(module: str) -> None:
    ran = subprocess.run([sys.executable, "-m", module, "trian"], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "Usage: finch-hub" in ran.stderr
    assert "Did you mean 'train'?" in ran.stderr


def test_invalid_settings_name_the_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINCH_LEASE_SECONDS", "soon")
    ran = run("jobs", "list")
    assert ran.status == 2
    assert "FINCH_LEASE_SECONDS: is 'soon'" in ran.err


def test_ctrl_c_leaves_the_job_running_and_tells_how_to_cancel(
    home: Path, run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    # If a shell started the tests in the background, they inherit that Ctrl-C is ignored. A terminal's programs do not.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{listen}; import sys; from finch_hub.cli.main import main; sys.exit(main())"]
    words = ["train", str(data), "--adapter", "birds", "--base", str(tiny_folder)]
    with subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert re.fullmatch(r"- job [a-z2-7]{16}\n", process.stderr.readline())
        assert process.stderr.readline().startswith("warning: no worker is running")
        assert process.stderr.readline() == "- queued\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    (job,) = run("jobs", "list", "--json").json
    assert (process.returncode, out, job["state"]) == (130, "", "queued")
    assert f"Stopped following job {job['id']}. It continues in the background.\n" in err
    assert f"finch-hub jobs watch {job['id']}" in err
    assert f"finch-hub jobs cancel {job['id']}" in err


def test_closed_pipe_prints_no_traceback(home: Path) -> None:
    code = "import sys; from finch_hub.cli.main import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, "plugins", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=60)
    assert err == ""


@pytest.mark.parametrize("command", ["--help", "plugins list --json", "datasets list"])
def test_full_disk_of_the_output_is_no_bug(home: Path, command: str) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = run_command(command, stdout=full, stderr=subprocess.PIPE)
    assert ran.returncode == output.UNAVAILABLE
    assert ran.stderr.startswith(b"error: could not write: No space left on device (free some space where the output")


def test_exit_code_tells_an_error_that_cannot_be_printed(home: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        assert run_command("jobs show unknown", stderr=full).returncode == 3
        assert run_command("jobs unknown", stderr=full).returncode == 2


def run_command(command: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
    code = "from finch_hub.cli.main import run; run()"
    return subprocess.run([sys.executable, "-c", code, *command.split()], timeout=60, check=False, **streams)


@pytest.mark.parametrize(
    "words",
    [
        ("plugins", "show", "https://a:SECRETpw1@h", "x"),
        ("jobs", "list", "--state", "password=SECRETpw1"),
        ("jobs", "list", "--limit", "password=SECRETpw1"),
        ("jobs", "https://a:SECRETpw1@h/"),
        ("train", "bee.jsonl", "--adapter", "x", "--base", "tiny", "--epochs", "https://a:SECRETpw1@h"),
        ("adapters", "show", "a", "https://a:SECRETpw1@h/"),
        ("adapters", "show", "a", "known-by-its-variable"),
        ("adapters", "list", "--json", "https://a:SECRETpw1@h/", "b"),
        ("worker", "start", "--slots", "token: Bearer SECRETpw1SECRETpw1"),
        ("https://a:SECRETpw1@h/",),
    ],
)
def test_usage_errors_mask_secrets(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STORE_KEY", "known-by-its-variable")
    assert main.main(words) == 2
    printed = "".join(capfd.readouterr())
    assert "***" in printed
    assert "SECRETpw1" not in printed
    assert "known-by-its-variable" not in printed


def test_secrets_are_in_no_warning_log_line_or_internal_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "correct-horse-battery"
    monkeypatch.setenv("STORE_KEY", secret)
    monkeypatch.setattr(logging.getLogger("library"), "propagate", False)  # to the handlers of pytest

    def leak(*arguments: object, **options: object) -> None:
        warnings.warn(f"refused {secret}", stacklevel=1)
        logging.getLogger("library").warning("refused %s and https://u:pass1word@h", secret)
        raise RuntimeError(f"refused {secret}")

    monkeypatch.setattr(main.cli, "main", leak)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main.main([]) == 1
    printed = "".join(capfd.readouterr())
    assert printed.count("refused ***") == 3
    assert secret not in printed
    assert "pass1word" not in printed


@pytest.mark.parametrize(
    "words", [("--help",), ("train", "--help"), ("plugins", "list"), ("plugins", "list", "--json")]
)
def test_reader_that_leaves_ends_the_command_quietly(home: Path, words: tuple[str, ...]) -> None:
    """As `finch-hub … | head -1` does. The exit code is that of `cat`, `ls` and `git`."""
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "finch_hub.cli.main", *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, "")


def test_reader_of_messages_that_leaves_changes_no_exit_code(home: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "finch_hub.cli.main", "plugins", "list"]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, text=True, check=False)
    os.close(writer)
    assert (process.returncode, "linear" in process.stdout) == (0, True)


def test_no_color_is_honored(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    for value, is_colored in (("1", False), ("", True)):
        monkeypatch.setenv("NO_COLOR", value)
        stream = io.StringIO()
        console = VisibleConsole(stderr=False, width=80)
        console.file = stream
        console.print("text", style="red")
        assert ("\x1b[31m" in stream.getvalue()) == is_colored

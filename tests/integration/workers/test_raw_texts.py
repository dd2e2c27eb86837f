"""Hostile texts in every input of a hub, and a search for them in all that it prints, logs, exports and serves."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from markdown_it import MarkdownIt
from support import finch_leaks
from support.fleet import fleet, wait_until
from support.installation import MAIN, Installation

from finch_hub.cli import main
from finch_hub.display import tables
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import JobState
from finch_hub.texts.visible_text import to_block

ADDRESS = "leaky://models.example/tiny"
FORGED = "Forged"
STEERING = "\x1b]0;title\x07 \x1b[2J \x9b2J \x08 \x7f \u202eevil\u2066 \u200f \u061c \u2028 \x85 \U000e0041 \ufeff"
MARKUP = "</script><img onerror=x> [a](javascript:x) | a | b | `c` [/x] [bold] :smile:"
HOSTILE = f"{STEERING} {MARKUP}\n{FORGED} line\n# {FORGED}\n---\nlicense: {FORGED}\n"
NAME = f"{STEERING} [a](javascript:x) | b\n# {FORGED}"  # without the slash, which ends the name of a file


@pytest.fixture
def installation(tmp_path: Path, tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Installation]:
    inputs = tmp_path / "inputs"
    base = shutil.copytree(tiny_folder, inputs / f"base {NAME}")
    for name, fields in {
        "config.json": {"_name_or_path": HOSTILE, "note": HOSTILE},
        "tokenizer_config.json": {"name_or_path": HOSTILE},
    }.items():
        (base / name).write_text(json.dumps({**json.loads((base / name).read_text()), **fields}))
    (inputs / "logins").write_text("machine models.example login finch password none\n")
    with contextlib.ExitStack() as ending:
        url = f"sqlite:///{tmp_path / 'finch.db'}"
        database = Database(url)
        database.upgrade()
        database.close()
        workers = ending.enter_context(fleet(tmp_path, url))
        finch_leaks.install(tmp_path / "plugins")
        variables = {
            "FINCH_METRICS_FOLDER": str(tmp_path / "metrics"),
            "FINCH_METRIC_FOLDER": HOSTILE,  # misspelled
            "NETRC": str(inputs / "logins"),
            "LEAKY_BASE": str(base),
            "LEAKY_FORM": STEERING,
            "LEAKS": json.dumps([HOSTILE, f"{HOSTILE}\ud800"]),
        }
        yield Installation(workers=workers, inputs=inputs, variables=variables, capture=capfd)


def check_shown(text: str) -> None:
    """Check that a text steers nothing and has no forged line of its own."""
    assert to_block(text) == text, ascii(text)
    lines = [line for line in text.splitlines() if line.startswith((FORGED, f"# {FORGED}", "---", "license:"))]
    assert lines == [], text


def list_values(text: str) -> list[object]:
    """Return the values of a text of JSON values below each other."""
    values, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:]
    return values


def parse(card: str) -> set[str]:
    """Return the kinds of parts that a card has, and check its metadata."""
    front, text = card.removeprefix("---\n").split("\n---\n", maxsplit=1)
    assert {line.partition(":")[0] for line in front.splitlines()} <= {
        "library_name", "pipeline_tag", "base_model", "base_model_relation", "tags", "model-index",
    }  # fmt: skip
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    headings = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    assert not [heading for heading in headings if heading.startswith(FORGED)]
    parts = [part for token in tokens for part in (token, *(token.children or ()))]
    ours = {"fence": ("python", "sh"), "image": ("loss.svg",)}
    return {part.type for part in parts if (part.info or part.attrGet("src")) not in ours.get(part.type, ())}


def test_nothing_of_any_input_is_shown_raw(installation: Installation, tmp_path: Path) -> None:
    workers, inputs = installation.workers, installation.inputs

    def run(*words: str, status: int = 0) -> None:
        check_shown(installation.run(*words, status=status))

    def run_outside(*words: str, status: int = 0) -> str:
        text = installation.run_outside(*words, status=status)
        check_shown(text)
        return text

    def look(*words: str) -> None:
        check_shown(installation.run(*words, status=None))
        check_shown(installation.run(*words, "--json", status=None))
        list_values(installation.stdout)

    rows = inputs / f"rows {NAME}.jsonl"
    row = {"prompt": f"a {HOSTILE}", "completion": f"b {HOSTILE}", f"column {HOSTILE}": 1}
    lines = [json.dumps({**row, "prompt": f"{number} {HOSTILE}"}) for number in range(24)]
    rows.write_text("\n".join([*lines, json.dumps({"prompt": HOSTILE, f"other {HOSTILE}": HOSTILE})]) + "\n")
    first = installation.start("one", FINCH_LOG_FORMAT="logfmt")
    run_outside("bases", "add", ADDRESS, "--name", "tiny")
    run("datasets", "add", str(rows), "--name", "rows", "--json")
    options = ("--max-steps", "1", "--rank", "4", "--set", "max_length=512", "--system", HOSTILE, "--validation", "0.3")
    run("train", str(rows), "--base", "tiny", "--adapter", "birds", *options)
    run("merge", "birds", "--out", str(tmp_path / f"merged {NAME}"))
    run("export", "birds", "--format", "peft", "--out", str(tmp_path / "peft"))
    run("export", "birds", "--format", "ollama", "--out", str(tmp_path / "ollama"), "--parameter", "base_model=tiny")
    run("export", "birds", "--format", "ollama", "--out", str(tmp_path / "no"), status=5)
    folder = shutil.copytree(tmp_path / "peft", inputs / f"adapter {NAME}")
    (folder / f"file {NAME}.txt").write_text(HOSTILE)
    (folder / "README.md").write_text(HOSTILE)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, f"field {HOSTILE}": HOSTILE, "revision": HOSTILE})
    )
    run("adapters", "import", str(folder), "--name", "seeds", "--base", "tiny")
    run("eval", str(rows), "--adapter", "birds")
    run_outside("generate", HOSTILE, "--adapter", "birds", "--max-new-tokens", "8")
    first.send(signal.SIGTERM)
    assert first.wait() == 0

    second = installation.start("two", FINCH_LOG_FORMAT="json")
    for end, state in {"return": JobState.SUCCEEDED, "raise": JobState.FAILED, "print": JobState.FAILED}.items():
        export = ("export", "birds", "--format", "leaky", "--out", str(tmp_path / end), "--parameter", f"end={end}")
        job = run_outside(*export, "--detach").splitlines()[0].strip()
        assert workers.wait(job).state is state
        if end == "raise":
            check_terminal(installation, "jobs", "watch", job)
        look("jobs", "watch", job)
        look("jobs", "show", job)
        look("jobs", "events", job)
    for words in (("jobs", "list"), ("worker", "list"), ("adapters", "list"), ("adapters", "show", "birds"),
                  ("adapters", "show", "seeds"), ("adapters", "lineage", "seeds"), ("adapters", "versions", "birds"),
                  ("bases", "list"), ("datasets", "list"), ("plugins", "list"), ("gc", "--dry-run"),
                  ("db", "check"), ("doctor", "--fast")):  # fmt: skip
        look(*words)
    run("backup", str(tmp_path / f"backup {NAME}"))
    wait_until(lambda: any((tmp_path / "metrics").glob("*.prom")), "the metrics to be written")
    metrics = [file.read_text() for file in (tmp_path / "metrics").glob("*.prom")]
    second.send(signal.SIGTERM)
    assert second.wait() == 0

    for text in (first.text, second.text, *metrics):
        check_shown(text)
    assert r"\u001b]0;title" in first.text + second.text, "the plugin logged them"
    for exported in [tmp_path / "peft", tmp_path / "ollama", *tmp_path.glob("merged *")]:
        for file in exported.iterdir():
            if file.name == "README.md":
                assert not parse(file.read_text()) & {"html_block", "html_inline", "link_open", "image", "hr", "fence"}
            if file.name in ("README.md", "finch.json", "adapter_config.json", "config.json"):
                assert to_block(file.read_text()) == file.read_text()
            if file.name == "Modelfile":  # Ollama needs the lines of a system prompt as they are
                assert not any(character in file.read_text() for character in STEERING if not character.isprintable())
    assert (tmp_path / "ollama/Modelfile").read_text().count('"""') == 2


def check_terminal(installation: Installation, *words: str) -> None:
    """Check what a command writes to a terminal, which draws bars and colors there."""
    master, terminal = pty.openpty()
    environment = {**os.environ, **installation.workers.environment, **installation.variables, "TERM": "xterm"}
    ran = subprocess.Popen([sys.executable, "-c", MAIN, *words], env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = bytearray()
    with contextlib.suppress(OSError):  # the end of a terminal
        while data := os.read(master, 65536):
            shown += data
    os.close(master)
    ran.wait()
    for raw in ("\x1b]0;", "\x1b[2J", "\x9b", "\x07", "\x08", "\u202e", "\u2028"):
        assert raw.encode() not in shown, bytes(shown)


def list_commands(
    command: click.Command, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Return all commands, with the words that call each."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from list_commands(found, (*words, name))
    else:
        yield words, command


def test_no_command_shows_words_of_its_line_raw(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FINCH_DEBUG", "1")
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> None:
        tables.console.cache_clear()  # it keeps the stream of the previous command
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            main.main(words)
        check_shown("".join(capfd.readouterr()).replace("\nTraceback", ""))

    texts = (HOSTILE, "x\ud800", STEERING)
    run(f"--{HOSTILE}")
    run(HOSTILE)
    for words, command in list_commands(main.cli):
        if words == ("doctor",):
            continue  # it takes nothing from its line
        arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
        options = [parameter.opts[0] for parameter in command.params if isinstance(parameter, click.Option)
                   and not parameter.is_flag]  # fmt: skip
        for text in texts:
            run(*words, f"--{text}")
            if words != ("worker", "start"):  # it would run
                run(*words, *(text for _ in arguments), *(["--json"] if "--json" in str(command.params) else []))
        for option in options:
            run(*words, *(HOSTILE for _ in arguments), option, HOSTILE)

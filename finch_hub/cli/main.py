"""The `finch-hub` command: imports the command that is called, and turns its errors into exit codes."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import click

from finch_hub import errors
from finch_hub.cli import output
from finch_hub.plugins import command_output
from finch_hub.specs.options import in_command
from finch_hub.texts.visible_text import to_message

# Name: module and attribute, and summary. The summaries are repeated here so that `--help` imports no command. A test
# compares them with the commands' own.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("finch_hub.cli.train:train", "Train an adapter on a data set."),
    "sweep": ("finch_hub.cli.sweep:sweep", "Train one adapter with several settings, and compare the results."),
    "compose": ("finch_hub.cli.compose:compose", "Compose adapters of one base into one."),
    "merge": ("finch_hub.cli.export:merge", "Merge adapters into their base as a standalone model."),
    "generate": ("finch_hub.cli.generate:generate", "Answer a prompt with the base and any adapters."),
    "chat": ("finch_hub.cli.chat:chat", "Talk with one or several adapters."),
    "compare": (
        "finch_hub.cli.compare:compare",
        "Answer the same prompts with the base and each of the adapters, side by side.",
    ),
    "eval": ("finch_hub.cli.evaluate:evaluate", "Measure the base and adapters on a data set."),
    "quantize": ("finch_hub.cli.quantize:quantize", "Store an adapter with fewer bits as its next version."),
    "export": ("finch_hub.cli.export:export", "Export an adapter to another system's format."),
    "adapters": ("finch_hub.cli.adapters:adapters", "List, show, tag, import and delete adapters."),
    "jobs": ("finch_hub.cli.jobs:jobs", "List, watch, cancel and retry jobs."),
    "worker": ("finch_hub.cli.worker:worker", "Start, list, drain and stop workers."),
    "plugins": ("finch_hub.cli.plugins:plugins", "List what the installed plugins offer."),
    "bases": ("finch_hub.cli.bases:bases", "Add, list and remove base models."),
    "datasets": ("finch_hub.cli.datasets:datasets", "Preview, check, list and purge data sets."),
    "audit": ("finch_hub.cli.audit:audit", "Show who changed what, and what was refused."),
    "db": ("finch_hub.cli.db:db", "Upgrade, inspect and reindex the database."),
    "gc": ("finch_hub.cli.gc:gc", "Remove what nobody refers to, while the hub runs."),
    "fsck": (
        "finch_hub.cli.fsck:fsck",
        "Read every stored byte and every row, and name what is damaged and what mends it.",
    ),
    "backup": ("finch_hub.cli.backup:backup", "Back up the registry and the artifacts, while the hub runs."),
    "restore": ("finch_hub.cli.restore:restore", "Restore a backup into a new hub."),
    "bundle": ("finch_hub.cli.bundle:bundle", "Write versions with their lineage to one file, for other hubs."),
    "unbundle": ("finch_hub.cli.bundle:unbundle", "Add the versions of a bundle to this hub."),
    "completion": ("finch_hub.cli.completion_script:completion", "Print the completion script of a shell."),
    "doctor": (
        "finch_hub.cli.doctor:doctor",
        "Check this machine and its hub, and report problems with what to do about them.",
    ),
}


class Commands(click.Group):
    """Group of commands that are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a new user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command to call. For an unknown name, the error offers similar names."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the words, which may print the help."""
        with command_output.end_if_closed():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command. Click itself would exit with 1 when the reader of its output leaves."""
        with command_output.end_if_closed():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="finch-hub", prog_name="finch-hub")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Train, compose, merge and serve LoRA adapters with measured evidence.

    All data is in FINCH_HOME (~/.finch). FINCH_DATABASE_URL, FINCH_BROKER_URL and FINCH_ARTIFACTS_URL move the
    database, the broker and the artifacts elsewhere. `finch-hub doctor` shows the current settings.
    """
    ctx.with_resource(in_command())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. The terminal shows its output and at most one error."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_CleanFormatter())
    try:
        with command_output.own(), warnings.catch_warnings():
            warnings.showwarning = _make_showwarning()
            result = cli.main(arguments, prog_name="finch-hub", standalone_mode=False)
    except click.exceptions.ClickException as error:
        return output.refuse(error)
    except (KeyboardInterrupt, click.exceptions.Abort):
        return output.INTERRUPTED
    except command_output.ClosedOutput:
        return output.CLOSED_OUTPUT
    except Exception as error:  # whatever a command raises, users see no traceback
        return output.fail(error)
    return result if isinstance(result, int) else 0


class _CleanFormatter(logging.Formatter):
    """Formatter of what libraries log in a command, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return to_message(output.redact(super().format(record)))


def _make_showwarning() -> Callable[..., None]:
    """Return a function that shows each warning once. Finch Hub's own are one line, without a place in the code."""
    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> None:
        is_finch = issubclass(category, errors.FinchWarning)
        text = f"warning: {message}" if is_finch else warnings.formatwarning(message, category, *where[:2]).rstrip()
        text = output.redact(text)
        if text not in shown:
            shown.add(text)
            output.tell(text)

    return show


def run() -> None:
    """Run one command, and end this process with its exit code."""
    if sys.argv[1:] not in (["--help"], ["-h"]):  # which need neither, and take half the time without
        from finch_hub.engine.data import row_time
        from finch_hub.formats.installed_metadata import read_leniently

        read_leniently()
        row_time.end_stuck_process()
    status = main()
    command_output.leave()
    sys.exit(status)


if __name__ == "__main__":
    run()

"""`finch-hub chat`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from finch_hub import errors
from finch_hub.cli import completion, output
from finch_hub.cli.sampling import adapter_of, load_answerers, sampling_options, write_answer

if TYPE_CHECKING:
    from finch_hub.engine.inference.generator import GeneratorModel
    from finch_hub.specs.examples import Message

_HELP = "/reset begins anew, /system TEXT sets the system prompt, /quit ends"


@click.command()
@click.argument("adapters", nargs=-1, shell_complete=completion.complete_references)
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="REFERENCE|base",
    shell_complete=completion.complete_references,
    help="Who answers too. Can be repeated.",
)
@click.option("--base", shell_complete=completion.complete_bases, help="Base model.  [default: the adapters' base]")
@sampling_options
def chat(adapters: tuple[str, ...], others: tuple[str, ...], base: str | None, sampling: dict[str, Any]) -> None:
    """Talk with one or several adapters.

    Each answers every turn, and has its own conversation. "base" means the base without an adapter. The turns come from
    the terminal, or a line each from standard input. /reset begins anew, /system TEXT sets the system prompt, and /quit
    ends.
    """
    names = list(dict.fromkeys((*adapters, *others))) or ["base"]
    with output.open_hub() as hub:
        model = load_answerers(hub, names, base, sampling)
        conversations: dict[str, tuple[Message, ...]] = dict.fromkeys(names, ())
        is_terminal = sys.stdin.isatty()
        if is_terminal:
            output.tell(_HELP)
        while (turn := _read_turn(is_terminal=is_terminal)) is not None:
            word, _, rest = turn.partition(" ")
            if word in ("/quit", "/exit"):
                break
            if word == "/system":
                sampling = {**sampling, "system": rest.strip() or None}
            if word in ("/reset", "/system"):
                conversations = dict.fromkeys(names, ())
            elif turn.startswith("/"):
                output.tell(f"there is no command {word} ({_HELP})")
            elif turn.strip():
                _answer_all(model, conversations, turn, sampling)


def _read_turn(*, is_terminal: bool) -> str | None:
    """Return what the user says next, None at the end of the input."""
    if is_terminal:
        output.tell("")
        output.prompt("> ")
    line = sys.stdin.readline()
    return line.rstrip("\r\n") if line else None


def _answer_all(
    model: GeneratorModel, conversations: dict[str, tuple[Message, ...]], turn: str, options: dict[str, Any]
) -> None:
    """Let each answer, and add the turn and the answer, unless it is empty. Ctrl-C ends an answer where it is."""
    from finch_hub.specs.examples import Message

    for name, before in conversations.items():
        said: tuple[Message, ...] = (*before, Message(role="user", content=turn))
        heading, answer = name if len(conversations) > 1 else None, ""
        try:
            for piece in write_answer(model.generate(said, adapter=adapter_of(name), stream=True, **options), heading):
                answer += piece
        except KeyboardInterrupt:
            output.write("\n")
            output.tell("Stopped the answer.")
        except errors.InvalidSpec as error:  # the conversation fills the context, for example
            output.write("\n" if answer else "")
            output.tell(f"error: {error} (/reset begins anew)")
            continue
        if answer:
            conversations[name] = (*said, Message(role="assistant", content=answer))

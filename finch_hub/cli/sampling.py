"""Options of commands that generate answers, and the loading of who answers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from finch_hub.cli import output
from finch_hub.display.word_wrap import WordWrap
from finch_hub.texts.visible_text import to_block

if TYPE_CHECKING:
    from finch_hub.engine.inference.generator import GeneratorModel
    from finch_hub.hub.facade import Hub

BASE = "base"
"""Name of the bare base among those that answer. It is reserved, so no adapter has it."""


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a generation. The command gets those that `generate` takes as one mapping, `sampling`."""
    names = ("system", "max_new_tokens", "temperature", "top_p", "seed")

    @functools.wraps(command)
    def with_sampling(**options: Any) -> Any:
        return command(sampling={name: options.pop(name) for name in names}, **options)

    added: Callable[..., Any] = with_sampling
    for option in (
        click.option("--seed", type=int, help="Seed that makes sampling repeatable."),
        click.option(
            "--top-p", type=float, default=1.0, show_default=True, help="Probability mass of the tokens to sample from."
        ),
        click.option(
            "--temperature",
            type=float,
            default=0.0,
            show_default=True,
            help="Sampling temperature. 0 takes the likeliest token.",
        ),
        click.option("--max-new-tokens", type=int, default=256, show_default=True, help="Maximum tokens of an answer."),
        click.option("--system", help="System prompt.  [default: the one that each adapter was trained with]"),
    ):
        added = option(added)
    return added


def load_answerers(hub: Hub, names: Sequence[str], base: str | None, sampling: dict[str, Any]) -> GeneratorModel:
    """Load a base with those of `names` that are adapters, after checking the options, since loading takes long."""
    from finch_hub.specs.generation import GenerationConfig  # here, because it imports pydantic

    GenerationConfig.of({name: sampling[name] for name in GenerationConfig.model_fields}, subject="generate")
    references = list(dict.fromkeys(name for name in names if name != BASE))
    return hub.generator(base, references, progress=output.tell)


def write_answer(pieces: Iterable[str], name: str | None) -> Iterator[str]:
    """Print an answer while it is generated, and yield its pieces. A terminal gets lines that end at words.

    Args:
        name: who answers, as a heading; None for one alone. Below it each line is indented, so that none is a heading.
    """
    if name is not None:
        output.say(f"[{name}]")
    wrap = WordWrap(output.find_width(), indent="" if name is None else "  ")
    try:
        for piece in pieces:
            output.write(wrap.add(to_block(piece)))
            yield piece
    finally:  # also after Ctrl-C
        output.write(wrap.end())
    output.write("\n")


def adapter_of(name: str) -> str | None:
    """Return the adapter of that name, None for the bare base."""
    return None if name == BASE else name

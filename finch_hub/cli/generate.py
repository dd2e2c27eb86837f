"""`finch-hub generate`."""

from __future__ import annotations

from typing import Any

import click

from finch_hub.cli import completion, output
from finch_hub.cli.sampling import BASE, adapter_of, load_answerers, sampling_options, write_answer


@click.command()
@click.argument("prompt")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    shell_complete=completion.complete_references,
    help='Adapter to use. Repeat to compare. "base" means no adapter.',
)
@click.option("--base", shell_complete=completion.complete_bases, help="Base model.  [default: the adapters' base]")
@sampling_options
@output.json_option
def generate(prompt: str, adapters: tuple[str, ...], base: str | None, sampling: dict[str, Any], as_json: bool) -> None:
    """Answer a prompt with the base and any adapters.

    The base is loaded once, and the adapters are switched. Each answer is printed while it is generated.
    """
    if not prompt.strip():
        raise click.UsageError("the prompt is empty: give a question")
    with output.open_hub() as hub:
        model = load_answerers(hub, adapters, base, sampling)
        answers = {}
        for name in adapters or (BASE,):
            pieces = model.generate(prompt, stream=True, adapter=adapter_of(name), **sampling)
            heading = name if len(adapters) > 1 else None
            answers[name] = "".join(pieces if as_json else write_answer(pieces, heading))
        if as_json:
            output.emit({"prompt": prompt, "answers": answers}, as_json, str)

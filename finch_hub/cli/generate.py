"""`finch-hub generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from finch_hub.cli import output

if TYPE_CHECKING:
    from finch_hub.engine.inference.generator import GeneratorModel

BASE = "base"  # a reserved name, so no adapter has it


@click.command()
@click.argument("prompt")
@click.option(
    "--adapter", "adapters", multiple=True, help='Adapter to use. Repeat to compare. "base" means no adapter.'
)
@click.option("--base", help="Base model.  [default: the adapters' base]")
@click.option("--system", help="System prompt.  [default: the one that each adapter was trained with]")
@click.option("--max-new-tokens", type=int, default=256, show_default=True, help="Maximum tokens of an answer.")
@click.option(
    "--temperature",
    type=float,
    default=0.0,
    show_default=True,
    help="Sampling temperature. 0 takes the likeliest token.",
)
@click.option(
    "--top-p", type=float, default=1.0, show_default=True, help="Probability mass of the tokens to sample from."
)
@click.option("--seed", type=int, help="Seed that makes sampling repeatable.")
@output.json_option
def generate(
    prompt: str, adapters: tuple[str, ...], base: str | None, system: str | None, as_json: bool, **sampling: Any
) -> None:
    """Answer a prompt with the base and any adapters.

    The base is loaded once, and the adapters are switched. Each answer is printed while it is generated.
    """
    from finch_hub.specs.generation import GenerationConfig  # here, because it imports pydantic

    references = [adapter for adapter in adapters if adapter != BASE]
    if not prompt.strip():
        raise click.UsageError("the prompt is empty: give a question")
    with output.open_hub() as hub:
        # Here too, because loading the base takes long.
        GenerationConfig.of({name: sampling[name] for name in GenerationConfig.model_fields}, subject="generate")
        model = hub.generator(base, references, progress=output.tell)
        answers = {}
        for name in adapters or (BASE,):
            adapter = None if name == BASE else name
            if len(adapters) > 1 and not as_json:
                output.say(f"[{name}]")
            answers[name] = _answer(model, prompt, adapter=adapter, system=system, quiet=as_json, **sampling)
        if as_json:
            output.emit({"prompt": prompt, "answers": answers}, as_json, str)


def _answer(model: GeneratorModel, prompt: str, *, quiet: bool, **options: Any) -> str:
    pieces = []
    for piece in model.generate(prompt, stream=True, **options):
        pieces.append(piece)
        if not quiet:
            output.write(piece)
    if not quiet:
        output.write("\n")
    return "".join(pieces)

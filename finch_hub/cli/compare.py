"""`finch-hub compare`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import click

from finch_hub import errors
from finch_hub.cli import completion, output
from finch_hub.cli.sampling import BASE, adapter_of, load_answerers, sampling_options
from finch_hub.display import answers

_MOST_ROWS = 64  # of a batch


@click.command()
@click.argument("adapters", nargs=-1, required=True, shell_complete=completion.complete_references)
@click.option(
    "--prompts",
    "prompts_file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="File with a prompt in each line, or JSON Lines with a field prompt. - is standard input.",
)
@click.option("--base", shell_complete=completion.complete_bases, help="Base model.  [default: the adapters' base]")
@click.option(
    "--output",
    "form",
    type=click.Choice(["table", "jsonl", "html"]),
    default="table",
    show_default=True,
    help="Form of the answers. HTML is one page without scripts or links.",
)
@sampling_options
def compare(
    adapters: tuple[str, ...], prompts_file: str, base: str | None, form: str, sampling: dict[str, Any]
) -> None:
    """Answer the same prompts with the base and each of the adapters, side by side.

    Prompts are answered in batches. To compare the settings and metrics of versions, use `finch-hub adapters compare`.
    """
    rows = list(_read_prompts(prompts_file))
    if not rows:
        raise errors.InvalidDataset("has no prompt", fix="write a prompt in each line", subject=prompts_file)
    names = [BASE, *dict.fromkeys(name for name in adapters if name != BASE)]
    with output.open_hub() as hub:
        model = load_answerers(hub, names, base, sampling)
        compared = []
        for part in _batch(rows, max(1, _MOST_ROWS // len(names))):
            pairs = list(itertools.product([row["prompt"] for row in part], names))
            prompts, chosen = [prompt for prompt, _ in pairs], [adapter_of(name) for _, name in pairs]
            said = model.generate(prompts, adapter=chosen, **sampling)
            for place, row in enumerate(part):
                own = said[place * len(names) : (place + 1) * len(names)]
                compared.append({**row, "answers": dict(zip(names, own, strict=True))})
    if form == "jsonl":
        for entry in compared:
            output.say_json(json.dumps(entry, ensure_ascii=False))
    elif form == "html":
        output.write(answers.write_html(names, compared))
    else:
        output.draw(answers.DrawnAnswers(names, compared))


def _batch(rows: Sequence[dict[str, str]], size: int) -> Iterator[Sequence[dict[str, str]]]:
    return (rows[begin : begin + size] for begin in range(0, len(rows), size))


def _read_prompts(file: str) -> Iterator[dict[str, str]]:
    """Yield the prompts of a file, with the expected answers where it has them.

    Raises:
        InvalidDataset: a line is not JSON with a prompt, or the file is not UTF-8.
    """
    try:
        with click.open_file(file, "rb") as stream:
            # Characters such as U+2028 end no line of JSON Lines.
            lines = [line.rstrip("\r") for line in stream.read().decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise errors.InvalidDataset(f"is not UTF-8: {error}", fix="save it as UTF-8", subject=file) from None
    is_json = file.endswith((".jsonl", ".ndjson")) or bool(lines and lines[0].startswith("{"))
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if not is_json:
            yield {"prompt": line}
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            what, fix = f"line {number} is not a JSON object with a prompt", 'write {"prompt": "…"}'
            raise errors.InvalidDataset(what, fix=fix, subject=file)
        expected = row.get("completion")
        yield {"prompt": row["prompt"], **({"completion": expected} if isinstance(expected, str) else {})}

"""`finch-hub adapters push` and `finch-hub adapters pull`, which exchange versions with the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import click

from finch_hub.cli import completion, output
from finch_hub.display.adapters import format_import

_IDENTITIES = {
    "equal": "Its identity is the one in its finch.json.",
    "changed": "It was changed to fit the base, so its identity is not the one in its finch.json.",
    "unknown": "It has no identity in a finch.json, so nothing was compared with it.",
}


@contextlib.contextmanager
def _bars_in_terminals_only() -> Iterator[None]:
    """Let huggingface_hub draw no bars where standard error is not a terminal, unless the environment asks for them."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@click.command()
@click.argument("reference", shell_complete=completion.complete_references)
@click.argument("repository")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--main", is_flag=True, help="Let main take the version, whatever main holds.")
@click.option("--samples", is_flag=True, help="Show the sample answers in the card. They quote rows of the data.")
@output.json_option
def push(reference: str, repository: str, private: bool, main: bool, samples: bool, as_json: bool) -> None:
    """Push a version to the Hugging Face Hub.

    REPOSITORY is owner/name. It is made if it does not exist. The version becomes one commit with a tag, such as v3.
    If a newer version was pushed, main stays as it is. If main holds another adapter, the push is refused. Set HF_TOKEN
    to a token with write access.
    """
    with output.open_hub() as hub, _bars_in_terminals_only():
        pushed = hub.repositories.push(reference, repository, private=private, main=main, samples=samples)
    place = f"{pushed.repository} as {pushed.tag}, commit {pushed.commit}"
    lines = [f"Pushed {pushed.version} to {place}" if pushed.is_new else f"{pushed.version} is already in {place}"]
    if not pushed.is_main:
        lines.append("main stays as it is, since it holds another adapter or version (with --main, it takes this one)")
    if pushed.differs:
        again = f"hf repos tag delete {pushed.repository} {pushed.tag}"
        lines.append(
            f"These files differ there: {', '.join(pushed.differs)} (to replace them, run `{again}`, and push)"
        )
    output.emit(pushed, as_json, lambda: [*lines, pushed.address])
    pulled, name = f"{pushed.repository}@{pushed.tag}", pushed.version.partition("/")[0]
    output.suggest("Pull it in another hub", "adapters", "pull", pulled, "--name", name, as_json=as_json)


@click.command()
@click.argument("repository")
@click.option("--name", required=True, help="Name of the adapter in this hub.")
@click.option("--base", help="Registered base of the adapter.  [default: the one that the adapter names]")
@output.json_option
def pull(repository: str, name: str, base: str | None, as_json: bool) -> None:
    """Pull an adapter from the Hugging Face Hub after checking its files.

    REPOSITORY is owner/name, or owner/name@revision with a tag, a branch or a commit. Only the config, the safetensors
    weights and finch.json are downloaded.
    """
    with output.open_hub() as hub, _bars_in_terminals_only():
        pulled = hub.repositories.pull(repository, name=name, base=base)
        limits = hub.adapters.limits(pulled.version.reference)
    version, place = pulled.version, f"{pulled.repository}@{pulled.revision}, commit {pulled.commit}"
    done = f"Pulled {version.reference} ({version.state})"
    if not pulled.is_new:
        done = f"{version.reference} was already pulled"
    lines = [f"{done} from {place}", _IDENTITIES[pulled.identity], *format_import(version, limits), *pulled.meanings]
    output.emit(pulled, as_json, lambda: lines)
    next_step = "check" if version.state == "unchecked" else "show"
    output.suggest(f"{next_step.capitalize()} it", "adapters", next_step, version.reference, as_json=as_json)

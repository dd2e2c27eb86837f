"""`finch-hub completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from finch_hub.cli import output

_VARIABLE = "_FINCH_HUB_COMPLETE"  # that click reads


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  finch-hub completion bash > ~/.local/share/bash-completion/completions/finch-hub
    zsh:   finch-hub completion zsh > "${fpath[1]}/_finch-hub"
    fish:  finch-hub completion fish > ~/.config/fish/completions/finch-hub.fish

    It completes commands, options, adapters, versions, aliases, jobs, bases, data sets, presets and workers. Names come
    from a SQLite database only.
    """
    script = get_completion_class(shell)
    if script is None:
        raise AssertionError(f"click knows no shell {shell}")
    output.write(script(context.find_root().command, {}, "finch-hub", _VARIABLE).source() + "\n")

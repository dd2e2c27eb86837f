"""`finch-hub completion`."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, get_completion_class

from finch_hub.cli import output

_VARIABLE = "_FINCH_HUB_COMPLETE"  # that click reads
# Bash takes the signs of COMP_WORDBREAKS, such as @ : =, for words. Those without a space between them are joined here,
# and answers lose what stands before the last sign ($2 is what bash replaces). No answer is expanded.
_BASH = """\
%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} words=() files=() word prefix place kind value paths=
    for ((place = 0; place <= COMP_CWORD; place++)); do
        if [[ $place == 0 || $line == [[:space:]]* ]]; then
            line=${line#"${line%%%%[![:space:]]*}"}
            words+=("")
        fi
        word=${COMP_WORDS[place]}
        [[ $place == "$COMP_CWORD" ]] && word=$line
        words[-1]+=$word
        line=${line#"$word"}
    done
    prefix=${words[-1]%%"$2"}
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            plain) COMPREPLY+=("${value#"$prefix"}") ;;
            file) paths=default; mapfile -t files < <(compgen -f -- "$value") ;;
            dir) paths=dirnames; mapfile -t files < <(compgen -d -- "$value") ;;
        esac
    done < <(
        IFS=$'\\n'
        env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) %(complete_var)s=bash_complete "$1"
    )
    if [[ $paths && ${#COMPREPLY[@]} == 0 ]]; then
        compopt -o "$paths"
    elif [[ ${#files[@]} != 0 ]]; then
        compopt -o filenames
        COMPREPLY+=("${files[@]#"$prefix"}")
    fi
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _BashScript(BashComplete):
    source_template = _BASH


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
    script = _BashScript if shell == "bash" else get_completion_class(shell)
    if script is None:
        raise AssertionError(f"click knows no shell {shell}")
    output.write(script(context.find_root().command, {}, "finch-hub", _VARIABLE).source() + "\n")

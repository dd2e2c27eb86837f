"""`finch-hub adapters`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from finch_hub import errors
from finch_hub.cli import adapter_card, adapter_evidence, completion, exchange, following, options, output, paging
from finch_hub.display import tables
from finch_hub.display.adapters import draw_version, format_evidence, format_import
from finch_hub.display.inspections import describe_inspection
from finch_hub.display.lineage import draw_lineage, format_mermaid
from finch_hub.specs.references import AdapterReference

if TYPE_CHECKING:
    from finch_hub.hub.facade import Hub
    from finch_hub.registry.values import Direction


class _QueryCommand(click.Command):
    """A command with a query, whose terms may look like options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words. If a term looks like an option, the error says how to write it."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            terms = self._find_terms(ctx, words)
            if not any(term.startswith(error.option_name) for term in terms):
                raise
            others = [word for word in words if word not in terms]
            separator = [] if "--" in others else ["--"]
            fix = output.name_command("adapters", "find", *others, *separator, *terms)
            raise click.UsageError(f"there is no option {error.option_name} (for a query, run {fix})", ctx) from None

    def _find_terms(self, ctx: click.Context, words: list[str]) -> list[str]:
        """Return the words that begin like an unknown short option, and are not the value of an option."""
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        known = {name for option in options for name in option.opts}
        with_value = {name for option in options if not option.is_flag for name in option.opts}
        return [
            word
            for before, word in zip(("", *words), words, strict=False)
            if word[:1] == "-" and word[:2] not in ("-", "--", *known) and before not in with_value
        ]


@click.group()
def adapters() -> None:
    """List, show, tag, import and delete adapters.

    A REFERENCE is `name` (its newest ready version), `name/3` or `name@alias`.
    """


adapters.add_command(adapter_card.card)
adapters.add_command(exchange.push)
adapters.add_command(exchange.pull)


@adapters.command("list")
@click.option("--deleted", is_flag=True, help="List what is deleted. It can be restored until its files are removed.")
@paging.page_options(100, "adapters")
@output.list_options
def list_(deleted: bool, limit: int, after: str | None, quiet: bool, as_json: bool) -> None:
    """List the adapters by name with their newest versions.

    `finch-hub adapters find` searches all versions.
    """
    if deleted:
        _list_deleted(limit, after, quiet=quiet, as_json=as_json)
        return
    with output.open_hub() as hub:
        page = hub.adapters.overview(limit=limit, after=after)
    rows = []
    for summary in page.adapters:
        v, aliases = summary.newest, [f"{alias}={number}" for alias, number in summary.aliases.items()]
        rows.append(
            (v.reference, summary.versions, v.kind, v.state, v.base, format_evidence(v.metrics), aliases, v.created_at)
        )
    columns = ("newest", "versions", "kind", "state", "base", "result", "aliases", "created")
    empty, advice = "There are no adapters.", ("Read how to train one", "train", "--help")
    output.emit_list(page, columns, rows, as_json=as_json, quiet=quiet, empty=empty, advice=advice)
    paging.suggest_next(page.next, "list", as_json=as_json)


@adapters.command(cls=_QueryCommand)
@click.argument("query", nargs=-1)
@click.option(
    "--sort",
    default="-created",
    show_default=True,
    help="created, updated, name, or a number such as metric.loss_after. With - in front, the largest is first.",
)
@paging.page_options(50, "versions")
@output.list_options
def find(query: tuple[str, ...], sort: str, limit: int, after: str | None, quiet: bool, as_json: bool) -> None:
    """Find versions by words and filters.

    A version must meet all of them. Words are searched in names, descriptions, notes, cards, tags and names of data
    sets. Quote a phrase, end the beginning of a word with *, and put - in front of what must not be there.

    \b
    base: preset: kind: state: owner:   tag:owner  tag:owner=ana
    name:triage  name:tri*              parent:legal/2  data:NAME-OR-DIGEST
    created>2026-01  updated:2026-01-31 metric.loss_after<2.1  lora.r=16  training.epochs>=3

    The shell needs quotes around < and >, and a query that begins with - follows on --.
    """
    text = " ".join(query)
    with output.open_hub() as hub:
        page = hub.adapters.find(text, sort=sort, limit=limit, after=after)
    rows = [
        (v.reference, v.kind, v.state, v.base.name, format_evidence(v.metrics), v.aliases, v.tags, v.created_at)
        for v in page.versions
    ]
    columns = ("version", "kind", "state", "base", "result", "aliases", "tags", "created")
    empty, advice = "No version meets the query.", ("List the adapters", "adapters", "list")
    output.emit_list(page, columns, rows, as_json=as_json, quiet=quiet, empty=empty, advice=advice)
    paging.suggest_next(page.next, "find", "--sort", sort, "--", text, as_json=as_json)


def _list_deleted(limit: int, after: str | None, *, quiet: bool, as_json: bool) -> None:
    with output.open_hub() as hub:
        page = hub.adapters.find_deleted(limit=limit, after=after)
    rows = [(deletion.reference, deletion.versions, deletion.deleted_at) for deletion in page.deletions]
    columns, empty = ("reference", "versions", "deleted"), "Nothing that was deleted can be restored."
    advice = ("List the adapters", "adapters", "list")
    output.emit_list(page, columns, rows, as_json=as_json, quiet=quiet, empty=empty, advice=advice)
    paging.suggest_next(page.next, "list", "--deleted", as_json=as_json)


@adapters.command()
@click.argument("reference", shell_complete=completion.complete_references)
@output.json_option
def show(reference: str, as_json: bool) -> None:
    """Show one version with its metrics, lineage and files."""
    with output.open_hub() as hub:
        version = hub.adapters.get(reference)
        folder = str(hub.adapters.folder(version.reference))
        limits = hub.adapters.limits(version.reference)
        datasets = hub.adapters.datasets(version.reference)
        evaluations = hub.adapters.evaluations(version.reference)
        evidence = hub.adapters.evidence(version.reference)
    value = {**tables.to_json(version), "folder": folder, "limits": limits, "datasets": datasets}
    value |= {"evaluations": tables.to_json(evaluations), "evidence": tables.to_json(evidence)}
    output.emit(value, as_json, lambda: draw_version(version, folder, evaluations, limits, evidence, datasets))


@adapters.command()
@click.argument("name", shell_complete=completion.complete_adapters)
@paging.page_options(100, "versions")
@output.list_options
def versions(name: str, limit: int, after: str | None, quiet: bool, as_json: bool) -> None:
    """List the versions of one adapter, newest first."""
    with output.open_hub() as hub:
        page = hub.adapters.versions(name, limit=limit, after=after)
    rows = [
        (v.reference, v.kind, v.state, format_evidence(v.metrics), v.aliases, v.tags, v.created_at)
        for v in page.versions
    ]
    columns = ("version", "kind", "state", "result", "aliases", "tags", "created")
    empty, advice = f"Adapter {name} has no versions.", ("List the adapters", "adapters", "list")
    output.emit_list(page, columns, rows, as_json=as_json, quiet=quiet, empty=empty, advice=advice)
    paging.suggest_next(page.next, "versions", name, as_json=as_json)


@adapters.command()
@click.argument("reference", shell_complete=completion.complete_references)
@click.option(
    "--direction",
    type=click.Choice(["ancestors", "descendants", "both"]),
    default="ancestors",
    show_default=True,
    help="Which relatives to show.",
)
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart.")
@output.json_option
def lineage(reference: str, direction: Direction, mermaid: bool, as_json: bool) -> None:
    """Show what a version was made from, and what was made from it."""
    with output.open_hub() as hub:
        graph = hub.adapters.lineage(reference, direction)
    output.emit(graph, as_json, lambda: format_mermaid(graph) if mermaid else draw_lineage(graph))


@adapters.command()
@click.argument("reference", shell_complete=completion.complete_references)
@output.json_option
def verify(reference: str, as_json: bool) -> None:
    """Hold every stored byte of a version against its hash.

    If something is damaged, the exit code is 11.
    """
    with output.open_hub() as hub:
        version = hub.adapters.get(reference)
        report = hub.adapters.verify(version.reference)
    whole = [] if report.damage else [f"The files of adapter {version.reference} are whole."]
    output.emit(report, as_json, lambda: [*describe_inspection(report), *whole])
    report.raise_damage(f"adapter {version.reference}")


@adapters.command()
@click.argument("reference", shell_complete=completion.complete_references)
@output.json_option
def path(reference: str, as_json: bool) -> None:
    """Print a local folder with a version's files in PEFT's format."""
    with output.open_hub() as hub:
        folder = str(hub.adapters.folder(reference))
    output.emit({"folder": folder}, as_json, lambda: folder)


@adapters.command()
@click.argument("reference", shell_complete=completion.complete_references)
@click.argument("alias")
@click.option(
    "--expected",
    type=click.IntRange(0, 10**9),
    help="Version number that the alias must point at now. 0 means no version.",
)
@click.option("--delete", is_flag=True, help="Delete the alias. REFERENCE is then the adapter's name.")
@click.option("--why", help="Reason, for the history of the alias.")
@output.yes_option
def alias(reference: str, alias: str, expected: int | None, delete: bool, why: str | None, yes: bool) -> None:
    """Make name@ALIAS point at a version."""
    with output.open_hub() as hub:
        if delete:
            name = f"{reference}@{alias}"
            output.confirm(lambda: f"Delete alias {name} of {hub.adapters.get(name).reference}?", yes=yes)
            hub.adapters.delete_alias(reference, alias, expected=expected, why=why)
            output.say(f"Deleted alias {reference}@{alias}")
        else:
            version = hub.adapters.set_alias(reference, alias, expected=expected, why=why)
            output.say(f"Set alias {version.name}@{alias} to {version.reference}")


@adapters.command("alias-history")
@click.argument("reference", shell_complete=completion.complete_references)
@click.option("--limit", type=click.IntRange(1, 10**9), default=100, show_default=True, help="Maximum number of moves.")
@click.option("--after", type=click.IntRange(1, 2**62), help="Number of the last move on the previous page.")
@output.json_option
def alias_history(reference: str, limit: int, after: int | None, as_json: bool) -> None:
    """Show who moved an alias, when, from where and why.

    REFERENCE is name@alias, or a name for all aliases of the adapter. The newest move is first.
    """
    with output.open_hub() as hub:
        moves = hub.adapters.alias_history(reference, limit=limit, after=after)
    rows = [
        (
            move.at,
            f"{move.name}@{move.alias}",
            _name_end(move.from_number),
            _name_end(move.to_number),
            move.who,
            move.why,
        )
        for move in moves
    ]
    columns, empty = ("at", "alias", "from", "to", "who", "why"), "No alias of the adapter was ever set."
    advice = ("List its versions", "adapters", "versions", reference.partition("@")[0])
    output.emit_list(moves, columns, rows, as_json=as_json, empty=empty, advice=advice)
    if len(moves) == limit:
        paging.suggest_next(str(moves[-1].id), "alias-history", reference, as_json=as_json)


def _name_end(number: int | None) -> str:
    return "-" if number is None else str(number)


@adapters.command()
@click.argument("reference", shell_complete=completion.complete_references)
@click.argument("tags", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Remove the tags.")
def tag(reference: str, tags: tuple[str, ...], remove: bool) -> None:
    """Add tags to a version, or remove them.

    A tag is a name, or a name with a value, such as owner=ana. A tag that the version has takes the new value.
    """
    with output.open_hub() as hub:
        if not remove:
            version = hub.adapters.tag(reference, *tags)
            output.say(f"Tagged {version.reference}: {', '.join(version.tags)}")
            return
        before: tuple[str, ...] = ()
        with contextlib.suppress(errors.FinchError):  # the removal is refused for the same reason
            before = tuple(hub.adapters.get(reference).tags)
        version = hub.adapters.untag(reference, *tags)
    removed = [tag for tag in before if tag not in version.tags]
    if not removed:
        output.say(f"{version.reference} had no such tag")
        return
    left = f". It has {', '.join(version.tags)}" if version.tags else ""
    output.say(f"Untagged {version.reference}: {', '.join(removed)}{left}")


@adapters.command()
@click.argument("name", shell_complete=completion.complete_adapters)
@click.argument("new")
def rename(name: str, new: str) -> None:
    """Rename an adapter. References with its former name go on naming it."""
    with output.open_hub() as hub:
        hub.adapters.rename(name, new)
    output.say(f"Renamed adapter {name} to {new}. References with the former name go on naming it.")


@adapters.command()
@click.argument("name", shell_complete=completion.complete_adapters)
@click.argument("text")
def describe(name: str, text: str) -> None:
    """Say what an adapter is for. TEXT replaces its description."""
    with output.open_hub() as hub:
        hub.adapters.describe(name, text)
    output.say(f"Described adapter {name}")


@adapters.command()
@click.argument("reference", shell_complete=completion.complete_references)
@click.argument("text")
def note(reference: str, text: str) -> None:
    """Write notes on a version. TEXT replaces its notes."""
    with output.open_hub() as hub:
        version = hub.adapters.note(reference, text)
    output.say(f"Wrote notes on {version.reference}")


@adapters.command()
@click.argument("adapter", metavar="REFERENCE", shell_complete=completion.complete_references)
@options.config_option
@following.job_options
def reproduce(adapter: str, detach: bool, quiet: bool, as_json: bool) -> None:
    """Repeat the job that made a version and compare the bytes.

    If they differ, the command shows where and what may be the cause, and exits with 9. It makes no version.
    """
    from finch_hub.specs.reports import ReproductionReport

    with output.open_hub() as hub:
        handle = hub.reproduce(adapter)
        following.conclude(handle, detach=detach, quiet=quiet, as_json=as_json)
        report = None if detach else handle.report()
        if isinstance(report, ReproductionReport) and not report.identical:
            count = tables.format_count(len(report.tensors), "tensor")
            raise errors.NotReproduced(f"{report.adapter} was not reproduced: other bytes in {count}")


@adapters.command("import")
@click.argument("source", type=click.Path())
@click.option("--name", required=True, help="Name of the adapter in this hub.")
@click.option("--base", required=True, help="Registered base that the adapter was trained on.")
@output.json_option
def import_(source: str, name: str, base: str, as_json: bool) -> None:
    """Import an adapter after checking its files.

    SOURCE is a PEFT folder, a .safetensors file, or a zip or tar archive of either. Pickle files are not read. The
    adapter is held against its base. If the files of the base are not on this machine, the version is unchecked.
    """
    with output.open_hub() as hub:
        version = hub.import_adapter(source, name=name, base=base)
        limits = hub.adapters.limits(version.reference)
    lines = [f"Imported {version.reference} ({version.state})", *format_import(version, limits)]
    output.emit(version, as_json, lambda: lines)
    next_step = "check" if version.state == "unchecked" else "show"
    output.suggest(f"{next_step.capitalize()} it", "adapters", next_step, version.reference, as_json=as_json)


@adapters.command()
@click.argument("reference", shell_complete=completion.complete_references)
@output.json_option
def check(reference: str, as_json: bool) -> None:
    """Hold an unchecked version against its base.

    A version is unchecked if the files of its base were not on the machine that imported it. Run this where they are.
    """
    with output.open_hub() as hub:
        version = hub.adapters.check(reference)
    output.emit(version, as_json, lambda: f"Checked {version.reference} ({version.state})")


@adapters.command()
@click.argument("reference", shell_complete=completion.complete_references)
@output.yes_option
def delete(reference: str, yes: bool) -> None:
    """Delete one version, given as name/3, or an adapter with all its versions.

    It can be restored until a collection removes its files, which is a week later or more.
    """
    with output.open_hub(deletes=True) as hub:
        output.confirm(lambda: f"Delete {_describe_versions(hub, reference)}?", yes=yes)
        deletion = hub.adapters.delete(reference)
    if AdapterReference.parse(reference).version is not None:
        output.say(f"Deleted {deletion.reference}. Its number will not be reused.")
    else:
        output.say(f"Deleted {deletion.reference} with {tables.format_count(deletion.versions, 'version')}.")
    output.suggest("Restore it", "adapters", "restore", deletion.reference)


@adapters.command()
@click.argument("reference", shell_complete=completion.complete_references)
def restore(reference: str) -> None:
    """Restore a deleted version, given as name/3, or a deleted adapter.

    An adapter gets the versions back that were deleted with it. Those with damaged files stay deleted, and are named.
    Aliases are not restored.
    """
    with output.open_hub() as hub:
        restored = hub.adapters.restore(reference)
    output.say(f"Restored {', '.join(restored) or reference}")


@adapters.command()
@click.argument("reference", shell_complete=completion.complete_references)
@output.yes_option
@output.json_option
def purge(reference: str, yes: bool, as_json: bool) -> None:
    """Remove one version, given as name/3, or an adapter with all its versions, so that nobody can restore it.

    Files that nothing else refers to are removed at once. The number and the place in the lineage of other versions
    stay. It is refused while aliases point at it, unfinished jobs need it, or versions that are not purged were made of
    it.
    """
    with output.open_hub(deletes=True) as hub:
        versions = hub.adapters.check_purge(reference)
        output.confirm(
            lambda: f"Purge {_describe_versions(hub, reference, versions)}, which cannot be undone?", yes=yes
        )
        purged = hub.adapters.purge(reference, expected=versions)
    count = tables.format_count(len(purged.versions), "version")
    freed = f"Purged {purged.reference} with {count}. {tables.format_bytes(purged.bytes)} freed."
    output.emit(purged, as_json, lambda: freed)
    if purged.unfreed is not None:
        output.tell(f"Its files are still stored: {purged.unfreed}. The next collection removes them.")


def _describe_versions(hub: Hub, reference: str, purged: Sequence[str] | None = None) -> str:
    """Return a reference with the number of its versions, and their bytes unless some are deleted.

    Args:
        purged: references of the versions, deleted or not; None for those that are not deleted.

    Raises:
        InvalidReference: the reference has an alias.
        NotFound: there is no such version or adapter.
    """
    count, size = 0 if purged is None else len(purged), 0
    try:
        present = hub.adapters.measure_deletion(reference)
        count = count or present.versions
        size = present.bytes if count == present.versions else 0
    except errors.NotFound:
        if purged is None:
            raise
    parts = [tables.format_count(count, "version")] if AdapterReference.parse(reference).version is None else []
    parts += [tables.format_bytes(size)] if size else []
    return f"{reference} ({', '.join(parts)})" if parts else reference


for _command in adapter_evidence.COMMANDS:
    adapters.add_command(_command)

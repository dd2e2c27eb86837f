"""`finch-hub bundle` and `finch-hub unbundle`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from finch_hub.cli import completion, output
from finch_hub.display import progress, tables

if TYPE_CHECKING:
    from finch_hub.specs.bundles import BundleReport, UnbundleReport


@click.command()
@click.argument("out", type=click.Path())
@click.argument("references", nargs=-1, required=True, shell_complete=completion.complete_references)
@click.option(
    "--lineage/--no-lineage", default=True, show_default=True, help="Take the files of all ancestors along, too."
)
@click.option("--samples", is_flag=True, help="Take sample answers along. They quote rows of the data.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@output.json_option
def bundle(out: str, references: tuple[str, ...], lineage: bool, samples: bool, quiet: bool, as_json: bool) -> None:
    """Write versions with their lineage to one file, for other hubs.

    OUT is a new file. REFERENCES are versions, such as legal/2 or legal@best, or names of adapters for all of their
    versions. Data sets are in it by their hashes only.
    """
    with output.open_hub() as hub, progress.show_advances(quiet=quiet):
        report = hub.bundle(out, references, lineage=lineage, samples=samples)
    output.emit(report, as_json, lambda: _describe_bundle(report))
    output.suggest("Take it into another hub", "unbundle", out, as_json=as_json)


@click.command()
@click.argument("file", type=click.Path())
@click.option("--dry-run", is_flag=True, help="Check the bundle and report what would be done, without doing it.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@output.json_option
def unbundle(file: str, dry_run: bool, quiet: bool, as_json: bool) -> None:
    """Add the versions of a bundle to this hub.

    Each is checked as an import is. A version that is here is not added again. Another one keeps its number if that is
    free, otherwise it gets the next one.
    """
    with output.open_hub() as hub, progress.show_advances(quiet=quiet):
        report = hub.unbundle(file, dry_run=dry_run)
    output.emit(report, as_json, lambda: _describe_unbundling(report))
    for name in report.absent_bases:
        output.tell(
            f"warning: the files of base {name} are not on this machine (add the base, then check its versions)"
        )


def _describe_bundle(report: BundleReport) -> list[str]:
    size = f"{tables.format_count(len(report.versions), 'version')}, {tables.format_bytes(report.bytes)}"
    return [f"Bundled {size}, to {report.file}", *(f"Without files: {name}" for name in report.without_files)]


def _describe_unbundling(report: UnbundleReport) -> list[str]:
    verb = "Would take" if report.is_dry_run else "Took"
    known = sum(version.outcome == "known" for version in report.versions)
    count = tables.format_count(len(report.versions), "version")
    lines = [f"{verb} {count} from {report.file}"]
    if known:
        had = "this hub has the others"
        lines = [f"{verb} {len(report.versions) - known:,} of {count} from {report.file}; {had}"]
    if known == len(report.versions):
        count = "its version" if known == 1 else f"all {known:,} versions"
        lines = [f"{verb} no version from {report.file}: this hub knows {count}"]
    for version in report.versions:
        moved = f" -> {version.reference}" if version.reference != version.bundled else ""
        state = f" ({version.state})" if version.state else " (purged here)" if version.is_purged else ""
        lines.append(f"{version.bundled}{moved}: {version.outcome}{state}")
    lines += [f"Set alias {alias}" for alias in report.aliases]
    lines += [f"Former name {former} now stands for {name}" for former, name in report.former_names.items()]
    return [*lines, *report.meanings, *(f"Kept: {text}" for text in report.kept)]

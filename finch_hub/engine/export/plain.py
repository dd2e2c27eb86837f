"""Check for adapters that other systems can serve: low-rank updates of linear layers only."""

from __future__ import annotations

from finch_hub import errors
from finch_hub.formats.adapter_folder import StoredAdapter


def require_plain(adapter: StoredAdapter, system: str) -> None:
    """Check that an adapter has only low-rank updates of linear layers.

    The weights of the layers must be ``[out, in]``.

    Raises:
        Incompatible: the adapter has DoRA magnitudes, biases, whole modules or embeddings; all of it at once.
    """
    fix = "merge it into its base instead"
    beyond = adapter.beyond_low_rank()
    unsupported = {
        "DoRA magnitudes": beyond["use_dora"],
        "updates of embeddings": beyond["embeddings"],
        "modules stored whole (modules_to_save, or trained biases)": beyond["modules_to_save"] + beyond["bias"],
    }
    problems = [
        errors.Problem(where=_shorten(names), what=f"{system} does not support {what}", fix=fix)
        for what, names in unsupported.items()
        if names
    ]
    if adapter.config.get("fan_in_fan_out"):
        what = f"{system} does not support weights that are [in, out] (fan_in_fan_out)"
        problems.append(errors.Problem(what=what, fix=fix))
    if problems:
        raise errors.Incompatible(problems, subject=str(adapter.folder))


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(sorted(names)[:2]) + more

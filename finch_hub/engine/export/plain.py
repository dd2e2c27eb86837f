"""What the formats of other systems have in common: low-rank updates of linear layers, and nothing else."""

from __future__ import annotations

from finch_hub import errors
from finch_hub.formats.adapter_folder import StoredAdapter


def require_plain(adapter: StoredAdapter, system: str) -> None:
    """Check that an adapter is nothing but ``s B A`` of linear layers, with the weights lying ``[out, in]``.

    Raises:
        Incompatible: it has DoRA magnitudes, biases, whole modules or embeddings; all of it at once.

    """
    fix = "merge it into its base instead"
    found = {
        "DoRA magnitudes": [path for path, module in adapter.modules.items() if module.magnitude is not None],
        "updates of embeddings": [path for path, module in adapter.modules.items() if module.embedding],
        "modules stored whole (modules_to_save, or trained biases)": list(adapter.replaced),
    }
    problems = [
        errors.Problem(where=_some(names), what=f"{system} takes no {what}", fix=fix)
        for what, names in found.items()
        if names
    ]
    if adapter.config.get("fan_in_fan_out"):
        problems.append(errors.Problem(what=f"{system} takes no weights that lie [in, out] (fan_in_fan_out)", fix=fix))
    if problems:
        raise errors.Incompatible(problems, subject=str(adapter.folder))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(sorted(names)[:2]) + more

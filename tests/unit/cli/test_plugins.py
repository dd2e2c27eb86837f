"""`finch-hub plugins`."""

from __future__ import annotations

from .conftest import Run


def test_plugins_are_listed_by_kind_and_shown(run: Run) -> None:
    offers = run("plugins", "list", "--kind", "preset", "--json").json["offers"]
    assert {"medical", "legal", "code", "style"} <= {offer["name"] for offer in offers}
    shown = run("plugins", "show", "preset", "medical").out
    assert "reasons.lora.rank" in shown
    assert "density" in run("plugins", "show", "strategy", "ties").out
    assert run("plugins", "show", "preset", "medicla").status == 3

"""`finch-hub generate` in this process."""

from __future__ import annotations

from .conftest import Run


def test_all_invalid_sampling_values_are_refused_before_a_base_is_looked_up(run: Run) -> None:
    done = run("generate", "hi", "--base", "no-such-base", "--max-new-tokens", -4, "--top-p", 3)
    assert done.status == 2
    assert "max_new_tokens" in done.err
    assert "top_p" in done.err
    assert "no-such-base" not in done.err

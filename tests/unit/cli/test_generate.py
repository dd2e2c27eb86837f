"""`finch-hub generate` in this process."""

from __future__ import annotations

from pathlib import Path

from support.adapters import save_adapter

from .conftest import Run


def test_all_invalid_sampling_values_are_refused_before_a_base_is_looked_up(run: Run) -> None:
    done = run("generate", "hi", "--base", "no-such-base", "--max-new-tokens", -4, "--top-p", 3)
    assert done.status == 2
    assert "max_new_tokens" in done.err
    assert "top_p" in done.err
    assert "no-such-base" not in done.err


def test_bad_requests_are_refused_before_a_base_is_loaded(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    assert run("bases", "add", tiny_folder, "--name", "tiny").status == 0
    made = save_adapter(tiny_folder, tmp_path / "made", r=4, target_modules=["q_proj", "embed_tokens"])
    assert run("adapters", "import", made, "--name", "words", "--base", "tiny").status == 0
    for words, status, says in (
        (("", "--base", "tiny"), 2, "the prompt is empty"),
        (("  \n", "--base", "tiny"), 2, "the prompt is empty"),
        (("hi", "--base", "tin"), 3, "tin"),
        (("hi", "--adapter", "word"), 3, "word"),
        (("hi",), 2, "neither a base nor an adapter"),
        (("hi", "--adapter", "words"), 2, "words/1: has updates of embeddings, which a generator does not support"),
    ):
        done = run("generate", *words)
        assert (done.status, says in done.err) == (status, True), done.err
        assert "loading" not in done.err


def test_loading_of_the_base_is_shown_apart_from_the_answer(run: Run, tiny_folder: Path) -> None:
    done = run("generate", "hi", "--base", tiny_folder, "--max-new-tokens", 1)
    assert done.status == 0, done.err
    assert "loading the base model" in done.err
    assert "loading" not in done.out

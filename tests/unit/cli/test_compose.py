"""`finch-hub compose`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import registry
from support.adapters import save_adapter

from finch_hub.registry.database import Database

from .conftest import Run


def test_compose_without_a_name_is_refused(run: Run) -> None:
    ran = run("compose", "a", "b")
    assert ran.status == 2
    assert "--adapter" in ran.err


def test_plan_refuses_options_that_it_does_not_use(run: Run) -> None:
    ran = run("compose", "medical", "legal", "--plan", "--weights", "1,2", "--min-retention", "0.5")
    assert ran.status == 2
    assert "leave out --weights, --min-retention" in ran.err
    for words in (("--adapter", "c"), ("--queue", "night"), ("--memory-bytes", "1G"), ("--depends-on", "last")):
        ran = run("compose", "medical", "legal", "--plan", *words)
        assert (ran.status, f"leave out {words[0]}" in ran.err) == (2, True)
    ran = run("compose", "medical", "legal", "--plan", "--detach", "--quiet")
    assert (ran.status, "leave out --detach\n" in ran.err) == (2, True)


def test_probe_without_a_plan_is_refused(run: Run) -> None:
    ran = run("compose", "medical", "legal", "--adapter", "c", "--probe")
    assert (ran.status, "add --plan" in ran.err) == (2, True)


def test_plan_is_drawn_and_printed_as_json(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    assert run("bases", "add", tiny_folder, "--name", "tiny").status == 0
    for seed, name in enumerate(("first", "second")):
        made = save_adapter(tiny_folder, tmp_path / name, seed=seed, r=4, lora_alpha=8, target_modules=["q_proj"])
        shown = run("adapters", "import", made, "--name", name, "--base", "tiny").out
        assert shown.startswith(f"Imported {name}/1 (ready)\n")
    drawn = run("compose", "first", "second", "--plan").out
    assert "first/1 + second/1" in drawn
    assert "sign conflict" in drawn
    report = run("compose", "first", "second", "--plan", "--json").json
    assert [(pair["first"], pair["second"]) for pair in report["pairs"]] == [("first/1", "second/1")]


def import_adapter(run: Run, base: Path, made: Path, name: str, **fields: Any) -> None:
    save_adapter(base, made, **{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **fields})
    assert run("adapters", "import", made, "--name", name, "--base", "tiny").status == 0


def test_plan_of_adapters_that_cannot_be_composed_fails_and_says_why(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    assert run("bases", "add", tiny_folder, "--name", "tiny").status == 0
    import_adapter(run, tiny_folder, tmp_path / "a", "plain")
    import_adapter(run, tiny_folder, tmp_path / "b", "dora", use_dora=True)
    import_adapter(run, tiny_folder, tmp_path / "c", "head", modules_to_save=["lm_head"])
    for words in (("plain", "dora"), ("plain", "head", "--json"), ("dora",)):
        ran = run("compose", *words, "--plan")
        assert (ran.status, ran.out) == (2, "")
        assert "cannot be composed" in ran.err
        assert "DoRA magnitudes" in ran.err or "whole modules" in ran.err
    assert run("compose", "plain", "plain", "--plan").status == 2
    assert run("compose", "plain", "gone", "--plan").status == 3


def test_plan_of_a_single_adapter_and_of_adapters_that_do_not_meet_draws_no_empty_tables(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    assert run("bases", "add", tiny_folder, "--name", "tiny").status == 0
    import_adapter(run, tiny_folder, tmp_path / "a", "first")
    import_adapter(run, tiny_folder, tmp_path / "b", "second", target_modules=["v_proj"])
    alone = run("compose", "first", "--plan").out
    assert "a single adapter has no conflicts" in alone
    apart = run("compose", "first", "second", "--plan").out
    for drawn in (alone, apart):
        assert "No two adapters change the same module" in drawn
        assert "overlap" not in drawn


@pytest.mark.filterwarnings("always::finch_hub.specs.reading.DataWarning")
def test_plan_of_equal_adapters_says_so(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    assert run("bases", "add", tiny_folder, "--name", "tiny").status == 0
    import_adapter(run, tiny_folder, tmp_path / "a", "first")
    assert run("adapters", "import", tmp_path / "a", "--name", "second", "--base", "tiny").status == 0
    ran = run("compose", "first", "second", "--plan")
    assert "advice: leave one out" in ran.out
    assert "first/1 and second/1 are the same adapter (leave one out" in ran.err


def test_compose_passes_every_option_to_the_job(run: Run, database: Database) -> None:
    registry.add_version(database, "medical")
    registry.add_version(database, "legal")
    options = ("--weights", "1,0.5", "--strategy", "ties", "--parameter", "density=0.3", "--rank", "auto")
    words = ("compose", "medical", "legal", "--adapter", "both", *options, "--min-retention", 0.8, "--detach", "--json")
    spec = run(*words).json["spec"]
    assert [parent["weight"] for parent in spec["parents"]] == [1.0, 0.5]
    assert (spec["strategy"], spec["parameters"], spec["rank"]) == ("ties", {"density": 0.3}, "auto")
    assert spec["min_retention"] == 0.8
    assert run("compose", "a", "b", "--adapter", "c", "--weights", "1,two").status == 2
    ran = run("compose", "medical", "legal", "--adapter", "c", "--weights", "1,nan")
    assert (ran.status, ran.err) == (2, "error: weight of legal: nan is not a finite number\n")

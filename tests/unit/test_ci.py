"""`.ci/run`: which part a commit runs, its time limits, and its end."""

from __future__ import annotations

import collections
import importlib.util
import itertools
import re
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest
from support import shares

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ci() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parts", ROOT / ".ci" / "parts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(ci: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with a Makefile of its own."""
    monkeypatch.setattr(ci, "ROOT", tmp_path)
    return tmp_path


def test_a_commit_always_has_the_same_part_and_all_parts_have_their_turn(ci: ModuleType) -> None:
    commits = [f"{number:040x}" for number in range(2_000)]
    chosen = [ci.choose(commit, ci.CHOSEN) for commit in commits]
    assert chosen == [ci.choose(commit, ci.CHOSEN) for commit in commits]
    counts = collections.Counter(chosen)
    assert set(counts) == set(ci.CHOSEN)
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_all_parts_of_a_commit_end_within_the_time_of_all(ci: ModuleType) -> None:
    always = sum(part.minutes for part in ci.ALWAYS)
    assert all(always + part.minutes <= ci.TOTAL_MINUTES for part in ci.CHOSEN)
    assert ci.TOTAL_MINUTES == 72


def test_parts_are_targets_of_the_makefile_and_a_missing_one_is_not_chosen(ci: ModuleType) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert ci.available(ci.ALWAYS, makefile) == ci.ALWAYS
    assert {part.target for part in ci.available(ci.CHOSEN, makefile)} >= {
        "faults-sqlite",
        "chaos",
        "test-slow",
        "fuzz",
    }
    without = re.sub(r"^chaos:.*", "", makefile, flags=re.MULTILINE)
    assert "chaos" not in {part.target for part in ci.available(ci.CHOSEN, without)}


def test_shares_of_a_target_are_complete(ci: ModuleType) -> None:
    named = [re.search(r"^(\S+).* SHARE=(\d)/(\d)$", part.command) for part in ci.CHOSEN if "SHARE" in part.command]
    assert len(named) > 4
    for target in {found[1] for found in named if found}:
        found = [(int(match[2]), int(match[3])) for match in named if match and match[1] == target]
        assert found == [(number, len(found)) for number in range(1, len(found) + 1)]


def test_shares_are_disjoint_and_complete() -> None:
    kept = [shares.split(range(10), f"{number}/3")[0] for number in (1, 2, 3)]
    assert sorted(itertools.chain(*kept)) == list(range(10))
    assert shares.split(range(4), "1/1") == ([0, 1, 2, 3], [])
    assert shares.split(range(4), "1/2") == ([0, 2], [1, 3])
    with pytest.raises(ValueError, match="the share 4/3 does not exist"):
        shares.split(range(4), "4/3")


def test_a_part_that_takes_too_long_fails_and_its_processes_end(
    ci: ModuleType, tree: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tree / "Makefile").write_text("hang:\n\t@sleep 600 & echo $$!; sleep 600\n", encoding="utf-8")
    assert ci.run(ci.Part("endless", "hang", 1 / 30), "none") == 124
    pid, *said = capfd.readouterr().out.splitlines()[1:]
    assert "== endless: FAILED: not finished after 0.0333333 minutes" in said
    assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE


def test_the_first_part_that_fails_ends_the_run_and_names_its_repetition(
    ci: ModuleType, tree: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    targets = "check:\n\t@echo checked\ntest:\n\t@false\ndemo:\n\t@echo shown\nchaos:\n\t@echo chaotic\n"
    (tree / "Makefile").write_text(targets, encoding="utf-8")
    assert ci.main(["--commit", "abc"]) == 2
    out, err = capfd.readouterr()
    assert out.startswith("Commit abc runs check, test, demo, chaos.\n")
    assert "By hand: .ci/run --part chaos\n" in out
    assert "checked" in out
    assert "shown" not in out
    assert "Failed: test. By hand: .ci/run --part test --commit abc" in err


def test_a_part_by_hand_runs_alone_with_the_seed_of_its_commit(
    ci: ModuleType, tree: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tree / "Makefile").write_text("chaos:\n\t@echo $(SEED) $(SECONDS) $(DEMO_HOME)\n", encoding="utf-8")
    assert ci.main(["--part", "chaos", "--commit", "abc"]) == 0
    out = capfd.readouterr().out
    found = re.search(r"^(\d+) (\d+) (/.+)$", out, re.MULTILINE)
    assert found
    assert int(found[1]) == ci.seed_of("abc")
    assert not Path(found[3]).exists(), "the home of the part is gone"
    assert ci.main(["--list"]) == 0
    listed = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [part.name for part in (*ci.ALWAYS, *ci.CHOSEN)]


def test_the_script_needs_nothing_installed() -> None:
    text = (ROOT / ".ci" / "parts.py").read_text(encoding="utf-8")
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported <= set(sys.stdlib_module_names)

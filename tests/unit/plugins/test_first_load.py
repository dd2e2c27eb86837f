"""The first load: code that ends or hangs a process is found in another process, once for each version."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.plugins import STRATEGY, install, run_command

from finch_hub import settings
from finch_hub.plugins import first_load
from finch_hub.plugins.catalog import load_catalog
from finch_hub.plugins.installed import InstalledPlugin, find_installed

# What the import of a plugin does, and what is said about it; empty if the plugin works all the same.
AT_IMPORT = {
    "missing": ("import torch_that_is_not_installed", "cannot be imported: ModuleNotFoundError"),
    "syntax": ("def (", "cannot be imported: SyntaxError"),
    "recursion": ("def f(): f()\nf()", "cannot be imported: RecursionError"),
    "exits": ("import sys; sys.exit('bye')", "cannot be imported: SystemExit: bye"),
    "base": ("raise BaseException('odd \\x1b[31m')", "cannot be imported: BaseException: odd \\x1b[31m"),
    "unreadable": ("class E(Exception):\n  def __str__(self): raise OSError\nraise E", "its text cannot be read"),
    "ends": ("import os; os._exit(0)", "it ends the process that loads it (exit status 0)"),
    "crashes": ("import os; os.kill(os.getpid(), 11)", "it ends the process that loads it (SIGSEGV)"),
    "interrupts": ("raise KeyboardInterrupt", "it raises KeyboardInterrupt"),
    "lasting": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(999,)).start()",
        "starts the thread",
    ),
    "stays": ("import atexit, time; atexit.register(time.sleep, 999)", "keeps the process that loads it from ending"),
    "hurries": ("import atexit, os\natexit.register(os._exit, 3)", "it ends the process that loads it (exit status 3)"),
    "narrows": ("import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (8, 8))", "lowers the limit RLIMIT_NOFILE"),
    "lowers": ("import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (0, r.getrlimit(r.RLIMIT_FSIZE)[1]))", ""),
    "impatient": ("import socket; socket.setdefaulttimeout(1e-9)", ""),
    "blocks": ("import signal; signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))", ""),
    "prints": ("import os, sys\nprint('{')\nos.write(1, b'}')\nsys.stdout.flush()", ""),
    "late": ("import atexit, os\natexit.register(print, 'late')\natexit.register(os.write, 1, b'late')", ""),
    "logs": ("import logging, sys\nlogging.basicConfig(stream=sys.stdout, level=0, force=True)", ""),
    "closes": ("import sys\nsys.stdout = sys.stderr = None", ""),
    "moves": ("import os; os.chdir('/'); os.environ['FINCH_HOME'] = '/nowhere'", ""),
    "shadows": ("import sys; sys.path.clear()", ""),
    "asks": ("try:\n    input()\nexcept EOFError:\n    pass", ""),
    "signals": ("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)", ""),
    "forks": ("import os\nif os.fork() == 0: raise RuntimeError", ""),
    "copies": ("import os\nif os.fork() == 0: os._exit(0)", ""),
    "alarm": ("import signal; signal.setitimer(signal.ITIMER_REAL, 600)", ""),
    "mask": ("import os; os.umask(0o777)", ""),
    "warns": ("import warnings; warnings.warn('odd'); warnings.simplefilter('error')", ""),
}
POINTS = {"nameless": "[finch_hub]\nplugin = \n", "lacking": "[finch_hub]\nplugin = finch_test_lacking:gone\n"}


@pytest.mark.slow
def test_no_plugin_breaks_a_command_or_another_plugin(tmp_path: Path) -> None:
    folder, home = tmp_path / "plugins", tmp_path / "home"
    for name, (code, said) in AT_IMPORT.items():
        install(folder, name, code if said else f"{code}\n{STRATEGY.format(name=name)}")
    for name, point in POINTS.items():
        install(folder, name, "", point=point)
    ran = run_command(folder, home, "plugins", "list", "--json")
    told = json.loads(ran.stdout)
    assert ran.returncode == 8
    offered = {offer["name"] for offer in told["offers"]}
    assert {"linear", *(name for name, (_, said) in AT_IMPORT.items() if not said)} <= offered
    for name, (_, said) in AT_IMPORT.items():
        (disabled,) = (plugin["disabled"] for plugin in told["plugins"] if plugin["name"] == name)
        assert (said in (disabled or "")) if said else disabled is None
        assert any(problem.startswith(f"plugin {name} 1.0: ") for problem in told["problems"]) is bool(said)
    for name in POINTS:
        assert any(problem.startswith(f"plugin {name} 1.0: cannot be imported: ") for problem in told["problems"])
    assert "Traceback" not in ran.stderr
    again = run_command(folder, home, "plugins", "show", "strategy", "linear", "--json")
    assert (again.returncode, again.stderr, json.loads(again.stdout)["name"]) == (0, "", "linear"), "it needs no plugin"
    missed = run_command(folder, home, "plugins", "show", "strategy", "zebra")
    assert missed.returncode == 8
    assert "there is no strategy 'zebra'" in missed.stderr
    assert "plugin exits 1.0: cannot be imported: SystemExit: bye" in missed.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of plugins, on the path of this process."""
    monkeypatch.syspath_prepend(tmp_path / "plugins")
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    return tmp_path / "plugins"


def find(name: str) -> InstalledPlugin:
    return next(plugin for plugin in find_installed()[0] if plugin.name == name)


def test_code_that_never_returns_is_named_and_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(folder, "hangs", "while True: pass")
    monkeypatch.setattr(first_load, "LIMIT_SECONDS", 1.0)
    monkeypatch.setattr(first_load, "_NOTICE_SECONDS", 0.1)
    with pytest.warns(first_load.PluginWarning, match="waiting for plugin hangs, .*FINCH_DISABLED_PLUGINS=hangs"):
        trouble = first_load.find_trouble(find("hangs"), cache=tmp_path / "cache")
    assert trouble == "it does not return within 1 s"
    assert first_load.find_trouble(find("hangs"), cache=tmp_path / "cache") == trouble, "the verdict is kept"


def test_verdict_is_kept_until_the_code_changes_or_a_retry(folder: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    code = f"import os, pathlib\nif not pathlib.Path({str(flag)!r}).exists(): os._exit(3)\n"
    file = install(folder, "moody", code)
    moody = find("moody")
    trouble = "it ends the process that loads it (exit status 3)"
    assert first_load.find_trouble(moody, cache=tmp_path / "cache") == trouble
    flag.touch()
    assert first_load.find_trouble(moody, cache=tmp_path / "cache") == trouble
    assert first_load.find_trouble(moody, cache=tmp_path / "cache", retry=True) is None
    flag.unlink()
    assert first_load.find_trouble(moody, cache=tmp_path / "cache") is None, "a verdict that it works is kept too"
    file.write_text(code + "# changed\n")
    assert first_load.find_trouble(moody, cache=tmp_path / "cache") == trouble
    assert len(list((tmp_path / "cache" / "plugins").iterdir())) == 1, "only the newest verdict of a plugin is kept"


def test_cache_that_cannot_be_written_costs_only_the_verdict(folder: Path, tmp_path: Path) -> None:
    install(folder, "fine", "")
    (tmp_path / "file").touch()
    for _ in range(2):
        assert first_load.find_trouble(find("fine"), cache=tmp_path / "file") is None


def test_entry_points_of_a_distribution_are_tried_in_one_process(folder: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    points = "".join(f"plugin{n} = finch_test_many:plugin{n}\n" for n in range(300))
    code = f"import os\nwith open({str(pids)!r}, 'a') as out: out.write(f'{{os.getpid()}}\\n')\n"
    code += "class Plugin: pass\n" + "".join(f"plugin{n} = Plugin()\n" for n in range(300))
    install(folder, "many", code, point=f"[finch_hub]\n{points}")
    catalog = load_catalog(settings.load())
    assert sum(plugin.label.startswith("plugin many") for plugin in catalog.plugins) == 300
    assert len(set(pids.read_text().split())) == 2, "one process tries them, and this one loads them"


def test_entry_point_that_ends_the_process_disables_its_distribution(folder: Path) -> None:
    point = "[finch_hub]\na = finch_test_mixed:a\nb = finch_test_mixed:b\n"
    install(folder, "mixed", "import os\na = object()\ndef __getattr__(name): os._exit(3)\n", point=point)
    catalog = load_catalog(settings.load())
    (mixed,) = (plugin for plugin in catalog.plugins if plugin.name == "mixed")
    assert (mixed.disabled or "").startswith("it ends the process that loads it (exit status 3), and is tried again")


def test_disabled_plugin_is_not_loaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, "unwanted", f"import pathlib\npathlib.Path({str(tmp_path / 'loaded')!r}).touch()\n")
    monkeypatch.setenv("FINCH_DISABLED_PLUGINS", "other, unwanted")
    catalog = load_catalog(settings.load())
    (plugin,) = (plugin for plugin in catalog.plugins if plugin.name == "unwanted")
    assert plugin.disabled == "it is disabled by FINCH_DISABLED_PLUGINS"
    assert not [problem for problem in catalog.problems if "unwanted" in problem.where]
    assert not (tmp_path / "loaded").exists()


def test_commands_that_need_no_plugin_load_none(folder: Path, tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"
    install(folder, "slow", f"import pathlib\npathlib.Path({str(loaded)!r}).touch()\n")
    for words in (["adapters", "list"], ["jobs", "list"], ["datasets", "list"], ["bases", "list"]):
        assert run_command(folder, tmp_path / "home", *words, "--json").returncode == 0
    assert not loaded.exists()
    assert run_command(folder, tmp_path / "home", "plugins", "list").returncode == 0
    assert loaded.exists()


def test_slow_plugin_is_named_with_its_seconds(folder: Path, tmp_path: Path) -> None:
    slow = STRATEGY.format(name="snail").replace("    return", "    import time; time.sleep(1.1)\n    return")
    install(folder, "slow", slow)
    ran = run_command(folder, tmp_path / "home", "plugins", "list", "--json")
    assert ran.returncode == 0
    (plugin,) = (plugin for plugin in json.loads(ran.stdout)["plugins"] if plugin["name"] == "slow")
    assert plugin["seconds"] >= 1.1
    assert "plugin slow 1.0 is slow: finch_strategies took" in ran.stderr
    assert "FINCH_DISABLED_PLUGINS=slow leaves it out" in ran.stderr


def test_process_is_left_as_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINCH_TEST_KEPT", "mine")
    install(folder, "moves", "import os; os.chdir('/'); os.environ['FINCH_TEST_KEPT'] = 'theirs'")
    assert not [problem for problem in load_catalog(settings.load()).problems if "moves" in problem.where]
    assert Path.cwd() == tmp_path
    assert os.environ["FINCH_TEST_KEPT"] == "mine"

"""A short walk through every command of an installed Finch Hub, with a tiny base."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WORKER_SECONDS = 120.0
_WITHOUT_EXTRA = (0, 2)  # a report needs an extra


class CommandWalk:
    """Calls of one program, in an empty folder with a home of its own.

    Args:
        program: the installed `finch-hub`.
        folder: empty folder outside the repository, in which the commands run.
        settings: settings (`FINCH_…`) and variables of their libraries (`AWS_…`) beside the home.
    """

    def __init__(self, program: Path, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self._program, self._folder = program, folder
        folder.mkdir()
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("FINCH_", "PYTHON"))}
        self._environment = {**ours, "FINCH_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", **(settings or {})}
        self._called: list[str] = []

    def run(self, *words: str | Path, status: Collection[int] = (0,), home: str = "home") -> str:
        """Call one command and return its standard output.

        Args:
            home: folder of the home.

        Raises:
            RuntimeError: its exit status is not among these.
        """
        started = time.monotonic()
        command = [str(word) for word in (self._program, *words)]
        environment = self._environment | {"FINCH_HOME": str(self._folder / home)}
        done = subprocess.run(
            command, cwd=self._folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        line = " ".join(command[1:])
        print(f"{time.monotonic() - started:6.1f} s  finch-hub {line}", flush=True)
        if done.returncode not in status:
            raise RuntimeError(f"finch-hub {line} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        self._called.append(line)
        return done.stdout

    def read(self, *words: str | Path) -> Any:
        """Call a command with `--json` and return what it printed."""
        return json.loads(self.run(*words, "--json"))

    def write_rows(self, name: str, answer: str) -> Path:
        """Write a data set of twenty questions with this answer."""
        rows = [{"prompt": f"What does {name} {n} do?", "completion": f"{answer} {n}."} for n in range(20)]
        file = self._folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return file

    def walk(self, base: Path, gguf: Path) -> None:
        """Call every command once or more, from an empty home to the end of its worker.

        Args:
            base: folder of a tiny model.
            gguf: the same model as a GGUF file.

        Raises:
            RuntimeError: a command failed, or the walk misses a command that docs/cli.md lists.
        """
        try:
            self._look()
            self._train(base, gguf)
            self._use()
            self._export()
            self._queue()
            self._serve()
            self._copy()
        finally:
            self.run("worker", "stop", status=(0, 3))
        for command in documented_commands():
            if not any(line == command or line.startswith(f"{command} ") for line in self._called):
                raise RuntimeError(f"the walk does not call finch-hub {command} (add it to {__file__})")

    def walk_shared(self, base: Path) -> None:
        """Train from a Parquet file with a database, a broker and a store that machines share."""
        self.run("db", "upgrade")
        worker = self._start_worker()
        try:
            self.run("train", "rows.parquet", "--adapter", "shared", "--base", base, "--epochs", "1")
            self.run("adapters", "path", "shared/1")
        finally:
            self.run("worker", "drain", "walk")
            _expect(worker.wait(WORKER_SECONDS) == 0, "the drained worker exits with 0")

    def _look(self) -> None:
        self.run("--version")
        self.run("db", "upgrade")
        self.run("db", "check")
        self.run("plugins", "list")
        self.run("completion", "bash")
        self.run("plugins", "show", "strategy", "linear")
        report = json.loads(self.run("doctor", "--json", status=(0, 7)))  # 7: this machine has little memory or disk
        of_machine = ("machine", "home", "artifacts")
        problems = [found for found in report["findings"] if found["advice"] and found["about"] not in of_machine]
        _expect(not problems, f"doctor finds no problem, but found {problems}")

    def _train(self, base: Path, gguf: Path) -> None:
        self.run("bases", "add", base, "--name", "tiny")
        self.run("bases", "add", gguf, "--name", "tiny-gguf")
        self.run("bases", "list")
        self.run("bases", "show", "tiny")
        rows = self.write_rows("finch", "It eats seeds")
        self.run("datasets", "add", rows, "--name", "finches", "--license", "cc-by-4.0")
        self.run("datasets", "show", "finches")
        self.run("datasets", "preview", "finches", "--base", "tiny")
        bees = self.write_rows("bee", "It flies")
        self.run("datasets", "list")
        options = ("--base", "tiny", "--epochs", "1")
        self.run("train", "finches", "--adapter", "finch", *options, "--dry-run")
        self.run("train", "finches", "--adapter", "finch", *options, "--set", "samples=1")
        self.run(
            "train", bees, "--adapter", "bee", *options, "--rank", "4", "--time-limit", "10m", "--memory-bytes", "1G"
        )
        sweep = self.run("sweep", "finches", "--adapter", "swept", *options, "--rank", "4,8", "--quiet", "--json")
        self.run("jobs", "sweep", json.loads(sweep)["id"], "--wait")
        self.run("train", bees, "--adapter", "gguf", "--base", "tiny-gguf", "--max-steps", "1")

    def _use(self) -> None:
        answers = self.run("generate", "Why?", "--adapter", "base", "--adapter", "finch", "--max-new-tokens", "4")
        _expect("finch" in answers, f"generate names the adapter, but printed {answers}")
        prompts = self._folder / "prompts.txt"
        prompts.write_text("Why?\nWhere?\n", encoding="utf-8")
        self.run("compare", "finch", "--prompts", prompts, "--max-new-tokens", "4")
        self.run("chat", "finch", "--with", "base", "--max-new-tokens", "4")
        self.run("eval", "bee.jsonl", "--adapter", "finch", "--adapter", "bee")
        self.run("compose", "finch", "bee", "--plan", "--probe")
        self.run("compose", "finch", "bee", "--adapter", "both", "--evaluations", "4", "--weights", "1,0.5")
        self.run("quantize", "finch", "--scheme", "int8")
        self.run("adapters", "list")
        self.run("adapters", "versions", "finch")
        self.run("adapters", "find", "finch", "kind:train")
        self.run("adapters", "show", "both/1")
        self.run("adapters", "evidence", "both/1")
        self.run("adapters", "samples", "finch/1")
        self.run("adapters", "compare", "finch/1", "bee/1", "--modules")
        self.run("adapters", "report", "finch/1", "--html", "finch.html", "--samples", status=_WITHOUT_EXTRA)
        self.run("adapters", "metric", "finch", "loss_after")
        self.run("adapters", "lineage", "both/1")
        self.run("adapters", "alias", "both/1", "best")
        self.run("adapters", "alias-history", "both@best")
        self.run("adapters", "tag", "both/1", "meadow", "owner=ana")
        self.run("adapters", "describe", "both", "Knows finches and birds.")
        self.run("adapters", "note", "both@best", "Made by the walk.")
        card = self.run("adapters", "card", "both/1")
        _expect("## Retention" in card, f"the card has the retention, but is {card}")
        self.run("adapters", "verify", "both/1")
        self.run("adapters", "path", "both@best")
        self.run("adapters", "reproduce", "finch/1")

    def _export(self) -> None:
        self.run("merge", "both@best", "--out", "merged")
        for form in ("peft", "vllm", "gguf", "ollama"):
            self.run("export", "finch/1", "--format", form, "--out", f"exported-{form}")
        self.run("adapters", "import", "exported-peft", "--name", "imported", "--base", "tiny")
        self.run("adapters", "push", "imported/1", "walk/imported", status=(7,))  # the walk is offline
        self.run("adapters", "pull", "walk/imported", "--name", "pulled", status=(7,))
        self.run("adapters", "rename", "imported", "team/imported")
        self.run("adapters", "check", "imported/1")
        self.run("adapters", "delete", "imported/1", "--yes")
        self.run("adapters", "restore", "imported/1")
        self.run("adapters", "purge", "imported/1", "--yes")
        self.run("audit", "--on", "imported")
        self.run("datasets", "purge", "finches", "--yes")
        self.run("fsck")
        self.run("db", "reindex")
        self.run("gc", "--dry-run")
        self.run("gc")
        self.run("bases", "remove", "tiny-gguf", "--yes", status=(4,))  # its adapter needs it
        self.run("adapters", "delete", "gguf/1", "--yes")
        self.run("bases", "remove", "tiny-gguf", "--yes")

    def _queue(self) -> None:
        command = ("train", "bee.jsonl", "--adapter", "late", "--base", "tiny", "--queue", "unserved", "--detach")
        job = self.run(*command).strip()
        self.run("jobs", "cancel", job)
        self.run("jobs", "show", job)
        self.run("jobs", "events", job)
        self.run("jobs", "logs", job)
        self.run("jobs", "report", job, "--html", "job.html", status=_WITHOUT_EXTRA)
        self.run("jobs", "watch", job, status=(6,))
        self.run("jobs", "save", job, status=(6,))
        self.run("jobs", "cancel", self.run("jobs", "retry", job, "--detach").strip())
        _expect(len(self.read("jobs", "list", "--state", "cancelled")) == 2, "two jobs are cancelled")
        self.run("jobs", "prune", "--keep", "1", "--yes")

    def _serve(self) -> None:
        self.run("worker", "stop")
        worker = self._start_worker()
        self.run("worker", "health")
        self.run("worker", "drain", "walk")
        _expect(worker.wait(WORKER_SECONDS) == 0, "the drained worker exits with 0")

    def _copy(self) -> None:
        self.run("bundle", "both.bundle", "both", "finch/1")
        self.run("unbundle", "both.bundle", "--dry-run", home="other")
        self.run("unbundle", "both.bundle", home="other")
        self.run("adapters", "show", "both/1", home="other")
        self.run("backup", "copied")
        self.run("restore", "copied", home="restored")
        before, after = (self.run("adapters", "list", "--json", home=home) for home in ("home", "restored"))
        _expect(before == after, "the restored hub has the same adapters")

    def _start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker in the background, and wait until it is active."""
        with (self._folder / "worker.log").open("wb") as log:
            command = [str(self._program), "worker", "start", "--name", "walk"]
            worker = subprocess.Popen(command, cwd=self._folder, env=self._environment, stdout=log, stderr=log)
        self._called.append("worker start")
        deadline = time.monotonic() + WORKER_SECONDS
        while not any(row["state"] == "active" and row["id"] == "walk" for row in self.read("worker", "list")):
            if worker.poll() is not None or time.monotonic() > deadline:
                worker.kill()
                log_text = (self._folder / "worker.log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"the worker did not start:\n{log_text}")
            time.sleep(0.5)
        return worker


def documented_commands() -> list[str]:
    """Return the commands without subcommands, from the headings of docs/cli.md."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    names = re.findall(r"^#+ finch-hub (.+)$", page, re.MULTILINE)
    return [name for name in names if not any(other.startswith(f"{name} ") for other in names)]


def _expect(is_true: bool, text: str) -> None:
    if not is_true:
        raise RuntimeError(f"the walk expects that {text}")

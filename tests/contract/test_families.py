"""Every step with a model of each family, compared with PEFT and transformers: one row at a time, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from support.families import FAMILIES, Family, save_family
from support.training import lessons
from torch import Tensor

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base, load_base
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.export.merging import merge
from finch_hub.engine.inference import evaluators
from finch_hub.engine.inference.decoding import end_tokens
from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.engine.inference.prompts import tokenize_prompts
from finch_hub.engine.training import loop
from finch_hub.engine.training.interruption import Interrupted
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

# PEFT calls what transformers has renamed, and says that GPT-2's head is no Conv1D.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore:fan_in_fan_out is set to True but the target module is .torch.nn.Linear.:UserWarning"
    ),
]
ROWS = lessons(10)
TRAINING = TrainingConfig(epochs=2, batch_size=4, learning_rate=2e-2, threads=1, validation=0, dtype="float32")
PROMPTS = ["What does finch 1 eat in the morning?", "Sing!", "It eats seeds. " * 6]
TOLERANCE = 2e-5
# One of each kind: packed, own forward, experts, capped and scaled logits, Conv1D, recurrent layers, one row at a time.
DISTINCT = {"llama", "phi3", "qwen3-moe", "gemma2", "granite", "gpt2", "falcon-h1", "longrope"}


class Stage:
    """Adapter of a family after a training that was interrupted, with everything that the tests compare."""

    def __init__(self, family: Family, folder: Path) -> None:
        self.family, self.base_folder, self.adapter_folder = family, folder / "base", folder / "adapter"
        save_family(family, self.base_folder)
        base = self.load()
        self.config = LoRAConfig(rank=4, alpha=8.0, target_modules=family.targets, exclude_modules=_excluded(family))
        whole = loop.train(base, self.config, TRAINING, ROWS)
        whole.adapter.save(self.adapter_folder)
        self.report = whole.report
        self.weights = whole.adapter.weights().tensors
        whole.adapter.detach()
        self.examples = tokenize_all(ROWS[:4], base.tokenizer, max_length=512)

    def load(self) -> Base:
        return load_base(self.base_folder, dtype="float32", device="cpu", cache=self.base_folder.parent)

    def peft_model(self, adapter: Path | None = None) -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            self.base_folder, dtype=torch.float32, attn_implementation="eager"
        )
        return peft.PeftModel.from_pretrained(model, adapter or self.adapter_folder).eval()


def _excluded(family: Family) -> tuple[str, ...]:
    return ("out_proj",) if family.name == "falcon-h1" else ()  # PEFT refuses it


def _marked(family: Family) -> Any:
    """Return the parameter of a family; those that are like another one are slow tests."""
    return pytest.param(family, id=family.name, marks=[] if family.name in DISTINCT else [pytest.mark.slow])


@pytest.fixture(scope="module", params=[_marked(family) for family in FAMILIES])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(request.param, tmp_path_factory.mktemp(request.param.name))


@torch.no_grad()
def logits_of(model: Any, examples: tuple[TokenizedExample, ...]) -> Tensor:
    rows = [torch.from_numpy(example.input_ids)[None] for example in examples]
    return torch.cat([model(input_ids=row, use_cache=False).logits[0] for row in rows])


def test_training_uses_the_forward_that_the_documentation_names(stage: Stage) -> None:
    forward = str(stage.report.environment["forward"])
    assert forward.startswith(stage.family.forward)
    assert stage.report.train_loss > 0
    assert any(bool(tensor.any()) for name, tensor in stage.weights.items() if "lora_B" in name)


def test_peft_loads_the_adapter_and_computes_the_same(stage: Stage) -> None:
    base = stage.load()
    theirs = stage.peft_model()
    expected = logits_of(theirs, stage.examples)
    plain = logits_of(base.model, stage.examples)
    assert float((expected - plain).norm() / plain.norm()) > 1e-3
    AttachableAdapter.load(stage.adapter_folder, base)
    assert torch.allclose(logits_of(base.model, stage.examples), expected, atol=TOLERANCE * float(expected.abs().max()))


def test_a_handed_back_training_resumes_to_the_same_bytes(stage: Stage, tmp_path: Path) -> None:
    base, calls = stage.load(), iter(range(99))
    with pytest.raises(Interrupted):
        loop.train(
            base, stage.config, TRAINING, ROWS, workdir=tmp_path,
            should_stop=lambda: "hand_back" if next(calls) == 2 else None,
        )  # fmt: skip
    resumed = loop.train(base, stage.config, TRAINING, ROWS, workdir=tmp_path)
    assert dict.fromkeys(stage.weights, True) == {
        name: torch.equal(tensor, stage.weights[name]) for name, tensor in resumed.adapter.weights().tensors.items()
    }


def test_a_merged_model_computes_the_same_in_transformers(stage: Stage, tmp_path: Path) -> None:
    merge(stage.base_folder, [(stage.adapter_folder, 1.0)], tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype=torch.float32, attn_implementation="eager"
    )
    expected = logits_of(stage.peft_model(), stage.examples)
    error = (logits_of(merged.eval(), stage.examples) - expected).abs().max()
    assert float(error) < 1e-4 * float(expected.abs().max())


def test_answers_are_those_of_transformers(stage: Stage) -> None:
    generator = GeneratorModel(stage.load())
    name = generator.load_lora(stage.adapter_folder)
    together = generator.generate(PROMPTS, max_new_tokens=6)
    assert [generator.generate(prompt, adapter=name, max_new_tokens=6) for prompt in PROMPTS] == together
    mixed = generator.generate(PROMPTS, adapter=[None, name, None], max_new_tokens=6)
    assert mixed[1] == together[1]
    base, theirs = generator.base, stage.peft_model()
    ends = end_tokens(base)
    prompts = tokenize_prompts(PROMPTS, base, systems=[None] * 3, thinking=[False] * 3)
    for prompt, answer in zip(prompts, together, strict=True):
        generated = theirs.generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=6, do_sample=False, eos_token_id=sorted(ends), pad_token_id=base.tokenizer.pad_token_id,
        )[0, len(prompt) :].tolist()  # fmt: skip
        kept = generated[:-1] if generated[-1] in ends else generated
        assert answer == base.tokenizer.decode(kept, skip_special_tokens=True)


def test_held_out_loss_is_that_of_transformers(stage: Stage) -> None:
    generator = GeneratorModel(stage.load())
    generator.load_lora(stage.adapter_folder)
    found = evaluators.held_out_loss(generator, ROWS[:4])
    theirs = stage.peft_model()
    total = 0.0
    with torch.no_grad():
        for example in stage.examples:
            ids = torch.from_numpy(example.input_ids)[None]
            labels = ids.masked_fill(~torch.from_numpy(example.labels)[None], -100)
            total += float(theirs(input_ids=ids, labels=labels).loss) * int(example.labels.sum())
    assert found["loss"] == pytest.approx(
        total / sum(int(example.labels.sum()) for example in stage.examples), rel=1e-5
    )


def test_an_adapter_of_the_head_is_seen_by_every_reader(stage: Stage, tmp_path: Path) -> None:
    base = stage.load()
    head = base.model.get_output_embeddings()
    targets = (next(path for path, module in base.model.named_modules() if module is head),)
    trained = loop.train(base, LoRAConfig(rank=4, alpha=8.0, target_modules=targets), TRAINING, ROWS, ROWS[:4])
    assert trained.report.after is not None
    trained.adapter.save(tmp_path / "adapter")
    trained.adapter.detach()
    theirs = stage.peft_model(tmp_path / "adapter")
    generator = GeneratorModel(base)
    generator.load_lora(tmp_path / "adapter")
    found = evaluators.held_out_loss(generator, ROWS[:4])
    assert found["loss"] == pytest.approx(trained.report.after.loss, rel=1e-4)
    logits = logits_of(theirs, stage.examples)
    with generator.using():
        assert torch.allclose(logits_of(base.model, stage.examples), logits, atol=TOLERANCE * float(logits.abs().max()))

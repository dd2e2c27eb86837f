"""Adapters as other trainers and versions write them: PEFT computes with the original, the hub with the import."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import TEXTS, logits, save_adapter
from support.families import named, save_family
from support.models import make_tokenizer
from transformers import AutoModelForCausalLM

from finch_hub import errors
from finch_hub.artifacts.gate import AdmittedAdapter, admit_adapter
from finch_hub.engine.bases.base import load_base
from finch_hub.engine.bases.module_layout import read_layout
from finch_hub.engine.export import merging
from finch_hub.engine.export.parameters import MergedParameters
from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.foreign_names import canonical_name
from finch_hub.formats.peft_names import CONFIG, WEIGHTS

Tensors = dict[str, torch.Tensor]
Change = Callable[[dict[str, Any], Tensors], tuple[dict[str, Any], Tensors]]
SHAPE: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}


def _slow(value: Any) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tiny_folder, tmp_path_factory.mktemp("peft") / "made", **SHAPE)


@pytest.fixture(scope="module")
def layout(tiny_folder: Path) -> BaseLayout:
    return read_layout(tiny_folder, name="tiny")


def rewrite(source: Path, target: Path, change: Change) -> Path:
    """Copy an adapter with changes to its config and tensors."""
    config, tensors = change(json.loads((source / CONFIG).read_text()), load_file(source / WEIGHTS))
    target.mkdir()
    (target / CONFIG).write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / WEIGHTS, {"format": "pt"})
    return target


def assert_answers_as_in_peft(base: Path, adapter: Path, expected: list[torch.Tensor]) -> None:
    model = GeneratorModel(load_base(base, dtype="float32", device="cpu"))
    model.load_lora(adapter, "guest")
    with model.using("guest"), torch.inference_mode():
        for text, wanted in zip(TEXTS, expected, strict=True):
            ids = model.base.tokenizer(text, return_tensors="pt").input_ids
            torch.testing.assert_close(model.base.model(ids).logits[0], wanted, atol=2e-4, rtol=1e-4)


def config_of(*, keep: tuple[str, ...] | None = None, **fields: Any) -> Change:
    """Change fields, after leaving out all but some."""
    return lambda config, tensors: (
        {**{key: value for key, value in config.items() if keep is None or key in keep}, **fields},
        tensors,
    )


def renamed(old: str, new: str) -> Change:
    return lambda config, tensors: (config, {name.replace(old, new): tensor for name, tensor in tensors.items()})


OLD = ("peft_type", "task_type", "r", "lora_alpha", "target_modules", "lora_dropout", "bias", "fan_in_fan_out")
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|mlp).*?(?:q_proj|v_proj|down_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|mlp)\.(?:(?:q_proj|v_proj|down_proj)))"
)
AUTO = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama"}
WRITTEN: dict[str, Change] = {
    "PEFT without a task type": config_of(task_type=None, auto_mapping=AUTO),
    "Unsloth": config_of(task_type=None, auto_mapping={**AUTO, "unsloth_fixed": True}, target_modules=UNSLOTH),
    "Unsloth of models that see": config_of(
        target_modules="(?:.*?(?:vision|image|visual).*?(?:self_attn|mlp).*?(?:q_proj).*?)|" + UNSLOTH,
        finetune_vision_layers=False,
        unsloth_version="2026.9.4",
    ),
    "PEFT 0.3": config_of(keep=OLD, inference_mode=True, enable_lora=None, merge_weights=True),
    "torchtune": config_of(keep=("peft_type", "r", "lora_alpha", "target_modules"), base_model_name_or_path="a/b"),
    "ms-swift": config_of(lora_dtype="float32", lorap_emb_lr=1e-6, use_qa_lora=False, model_key_mapping=None),
    "LLaMA-Factory": config_of(base_model_name_or_path="/mnt/data/models/Llama", revision=None, peft_version="0.12.0"),
    "axolotl": config_of(target_modules=["model.layers.0.self_attn.q_proj", "v_proj", "down_proj", "q_proj"]),
    "no target modules": config_of(target_modules=None),
    "excluded modules": config_of(exclude_modules=["k_proj", "lm_head"]),
    "all layers by number": config_of(layers_to_transform=[1, 0], layers_pattern="layers"),
    "a raw state dict": renamed(".weight", ".default.weight"),
    "DeepSpeed": lambda c, t: (c, {f"module.{n.replace('.weight', '.default.weight')}": v for n, v in t.items()}),
    "torch.compile": renamed("base_model.model.", "base_model.model._orig_mod."),
    "no prefix": renamed("base_model.model.", ""),
    "the model without its head": renamed("base_model.model.model.", "base_model.model."),
    "a model that sees": renamed("base_model.model.model.", "base_model.model.model.language_model."),
    "an older model that sees": renamed("base_model.model.model.", "base_model.model.language_model.model."),
    "a value head of TRL": renamed("base_model.model.model.", "base_model.model.pretrained_model.model."),
    "mixed dtypes": lambda c, t: (
        c,
        {n: v.bfloat16().double() if "q_proj" in n else v.half() if "lora_A" in n else v for n, v in t.items()},
    ),
}


@pytest.mark.parametrize("change", WRITTEN.values(), ids=WRITTEN)
def test_what_other_trainers_write_answers_as_in_peft(
    tiny_folder: Path, layout: BaseLayout, made: Path, tmp_path: Path, change: Change
) -> None:
    sent = rewrite(made, tmp_path / "sent", change)
    # PEFT reads the same tensors under its own names, and the config that it wrote.
    plain = rewrite(made, tmp_path / "plain", lambda c, t: (c, {**t}))
    tensors = {name.rpartition("layers.")[2]: tensor for name, tensor in load_file(sent / WEIGHTS).items()}
    own = {
        name: tensors[name.rpartition("layers.")[2].replace(".weight", end)]
        for name in load_file(made / WEIGHTS)
        for end in (".weight", ".default.weight")
        if name.rpartition("layers.")[2].replace(".weight", end) in tensors
    }
    save_file({name: tensor.float().contiguous() for name, tensor in own.items()}, plain / WEIGHTS, {"format": "pt"})
    admitted = admit_adapter(sent, tmp_path / "admitted", base=layout)
    assert admitted.quarantine == ()
    assert_answers_as_in_peft(tiny_folder, admitted.folder, logits(tiny_folder, [plain]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of keys that are missing or too many
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), admitted.folder)
    again = admit_adapter(admitted.folder, tmp_path / "again")
    assert again.identity == admitted.identity, "the hub's own form needs no base to be read"


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"some_gate": "tanh"}, "some_gate"),
        ({"use_qalora": True}, "use_qalora"),
        ({"kasa_config": {"beta": 0.1}}, "kasa_config"),
        ({"model_key_mapping": {"a": "b"}}, "model_key_mapping"),
    ],
)
def test_field_that_may_change_the_arithmetic_is_refused_by_name(
    made: Path, tmp_path: Path, fields: dict[str, Any], where: str
) -> None:
    with pytest.raises(errors.RefusedArtifact) as refused:
        admit_adapter(rewrite(made, tmp_path / "sent", config_of(**fields)), tmp_path / "admitted")
    assert [problem.where for problem in refused.value.problems] == [where]


def test_patterns_mean_the_same_after_the_modules_were_renamed(
    tiny_folder: Path, layout: BaseLayout, tmp_path: Path
) -> None:
    shape = {**SHAPE, "rank_pattern": {r"model\.layers\.0\.self_attn\.q_proj": 2}, "alpha_pattern": {"v_proj": 5}}
    made = save_adapter(tiny_folder, tmp_path / "made", **shape)
    expected = logits(tiny_folder, [made])
    sent = rewrite(
        made, tmp_path / "sent", renamed("base_model.model.model.", "base_model.model.model.language_model.")
    )
    config = json.loads((sent / CONFIG).read_text())
    config["rank_pattern"] = {r"model\.language_model\.layers\.0\.self_attn\.q_proj": 2}
    (sent / CONFIG).write_text(json.dumps(config))
    admitted = admit_adapter(sent, tmp_path / "admitted", base=layout)
    assert_answers_as_in_peft(tiny_folder, admitted.folder, expected)


def test_order_of_patterns_survives_an_export_and_a_quantization(tiny_folder: Path, tmp_path: Path) -> None:
    from finch_hub.engine.export import quantization
    from finch_hub.formats.adapter_folder import StoredAdapter

    made = save_adapter(tiny_folder, tmp_path / "made", **{**SHAPE, "rank_pattern": {"q_proj": 3}})
    config = json.loads((made / CONFIG).read_text())
    config["alpha_pattern"] = {"v_proj": 3, "layers.1.self_attn.v_proj": 9}
    (made / CONFIG).write_text(json.dumps(config))
    admitted = admit_adapter(made, tmp_path / "admitted").folder
    quantization.quantize(admitted, tmp_path / "small", scheme="int8")
    for folder in (admitted, tmp_path / "small"):
        with StoredAdapter(folder) as stored:
            assert stored.modules["model.layers.1.self_attn.v_proj"].scale == 3 / 4


EMBEDDING: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "embed_tokens"]}


def assert_merges_as_in_peft(base: Path, admitted: AdmittedAdapter, expected: list[torch.Tensor], out: Path) -> None:
    merging.export_merged(admitted.folder, base, out, MergedParameters())
    for ours, theirs in zip(logits(out), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("bf16", [False, True])
def test_copy_of_the_embeddings_beside_an_adapter_of_them_is_left_out(
    tiny_folders: Path, tmp_path: Path, bf16: bool
) -> None:
    made = save_adapter(tiny_folders, tmp_path / "made", bf16=bf16, **EMBEDDING)
    assert any(".base_layer." in name for name in load_file(made / WEIGHTS))
    layout = read_layout(tiny_folders, name="tiny")
    admitted = admit_adapter(made, tmp_path / "admitted", base=layout)
    assert not any(".base_layer." in name for name in load_file(admitted.folder / WEIGHTS))
    assert "copies of the base's own weights are left out" in str(admitted.notes)
    if not bf16:
        assert_merges_as_in_peft(tiny_folders, admitted, logits(tiny_folders, [made]), tmp_path / "merged")


def test_copy_of_other_embeddings_is_refused(tiny_folder: Path, layout: BaseLayout, tmp_path: Path) -> None:
    made = save_adapter(tiny_folder, tmp_path / "made", **EMBEDDING)
    sent = rewrite(
        made, tmp_path / "sent", lambda c, t: (c, {n: v + 1 if ".base_layer." in n else v for n, v in t.items()})
    )
    with pytest.raises(errors.RefusedArtifact, match="differs from this base's"):
        admit_adapter(sent, tmp_path / "admitted", base=layout)


def test_saved_embeddings_that_changed_are_whole_modules(
    tiny_folder: Path, layout: BaseLayout, made: Path, tmp_path: Path
) -> None:
    """As PEFT saves them with save_embedding_layers, and loads them into the base."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    head = model.lm_head.weight.detach() + 0.05 * torch.randn(model.lm_head.weight.shape)
    saved = {
        "base_model.model.lm_head.weight": head,
        "base_model.model.model.embed_tokens.weight": model.model.embed_tokens.weight.detach(),
    }
    sent = rewrite(made, tmp_path / "sent", lambda c, t: (c, {**t, **saved}))
    admitted = admit_adapter(sent, tmp_path / "admitted", base=layout)
    assert json.loads((admitted.folder / CONFIG).read_text())["modules_to_save"] == ["lm_head"]
    assert_merges_as_in_peft(tiny_folder, admitted, logits(tiny_folder, [sent]), tmp_path / "merged")


VOCABULARY: dict[str, dict[str, Any]] = {
    "saved embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "both saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "adapted embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "adapted head": {"target_modules": ["q_proj", "lm_head"]},
    "both adapted": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
}


@pytest.mark.parametrize("tying", [False, True])
@pytest.mark.parametrize("shape", VOCABULARY.values(), ids=VOCABULARY)
@pytest.mark.parametrize("tied", [True, False])
def test_trained_vocabulary_merges_as_in_peft(tmp_path: Path, shape: dict[str, Any], tied: bool, tying: bool) -> None:
    base = save_family(named("llama"), tmp_path / "base", tie_word_embeddings=tied)
    made = save_adapter(base, tmp_path / "made", r=4, lora_alpha=8, ensure_weight_tying=tying, **shape)
    admitted = admit_adapter(made, tmp_path / "admitted", base=read_layout(base, name="tiny"))
    assert_merges_as_in_peft(base, admitted, logits(base, [made]), tmp_path / "merged")


def resized(base: Path, folder: Path, **shape: Any) -> Path:
    """Train an adapter on the base with three more tokens, as every guide does it."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        model: Any = AutoModelForCausalLM.from_pretrained(base)
        model.resize_token_embeddings(model.config.vocab_size + 3)
        peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **shape)).save_pretrained(
            folder, save_embedding_layers=True
        )
    return folder


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        {**SHAPE, "modules_to_save": ["embed_tokens", "lm_head"]},
        {**SHAPE, "target_modules": ["q_proj", "embed_tokens"]},
        {**SHAPE, "target_modules": ["q_proj", "lm_head"]},
    ],
)
def test_new_tokens_are_refused_by_name(
    tiny_folder: Path, layout: BaseLayout, tmp_path: Path, shape: dict[str, Any]
) -> None:
    sent = resized(tiny_folder, tmp_path / "sent", **shape)
    with pytest.raises((errors.Incompatible, errors.RefusedArtifact), match="3 new tokens"):
        admit_adapter(sent, tmp_path / "admitted", base=layout)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({**SHAPE, "lora_bias": True}, "lora_bias: adds a bias to B"),
        ({**SHAPE, "trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({**SHAPE, "init_lora_weights": "pissa"}, "changes the base's weights"),
    ],
)
def test_adapter_that_no_operation_can_use_is_refused(
    tiny_folder: Path, layout: BaseLayout, tmp_path: Path, shape: dict[str, Any], says: str
) -> None:
    made = save_adapter(tiny_folder, tmp_path / "made", **shape)
    with pytest.raises(errors.RefusedArtifact, match=says):
        admit_adapter(made, tmp_path / "admitted", base=layout)


def test_layers_that_the_base_lacks_are_named(layout: BaseLayout, made: Path, tmp_path: Path) -> None:
    sent = rewrite(made, tmp_path / "sent", renamed("layers.1.", "layers.7."))
    with pytest.raises(errors.Incompatible, match=r"model\.layers\.7\.mlp\.down_proj: is not in base tiny"):
        admit_adapter(sent, tmp_path / "admitted", base=layout)


def test_classifier_head_that_the_base_lacks_is_named(layout: BaseLayout, made: Path, tmp_path: Path) -> None:
    head = {"base_model.model.score.weight": torch.ones(2, 64)}
    sent = rewrite(
        made, tmp_path / "sent", lambda c, t: ({**c, "modules_to_save": ["score"], "task_type": "SEQ_CLS"}, t | head)
    )
    with pytest.raises(errors.Incompatible, match=r"score\.weight: is not in base tiny"):
        admit_adapter(sent, tmp_path / "admitted", base=layout)


@pytest.mark.usefixtures("parsing_here")
@pytest.mark.parametrize("targets", [["c_attn"], _slow(["c_attn", "c_proj", "c_fc"]), _slow(["c_proj"])])
def test_conv1d_of_gpt2_answers_and_merges_as_in_peft(layout_cache: Path, tmp_path: Path, targets: list[str]) -> None:
    base = save_family(named("gpt2"), tmp_path / "base")
    made = save_adapter(base, tmp_path / "made", r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=True)
    expected = logits(base, [made])
    admitted = admit_adapter(made, tmp_path / "admitted", base=read_layout(base, name="gpt2", cache=layout_cache))
    assert_answers_as_in_peft(base, admitted.folder, expected)
    assert_merges_as_in_peft(base, admitted, expected, tmp_path / "merged")


@pytest.mark.slow
def test_flag_of_conv1d_is_that_of_the_base(layout_cache: Path, tmp_path: Path) -> None:
    base = save_family(named("gpt2"), tmp_path / "base")
    made = save_adapter(base, tmp_path / "made", r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    sent = rewrite(made, tmp_path / "sent", config_of(fan_in_fan_out=False))
    identities = {
        admit_adapter(
            folder, tmp_path / f"{folder.name}-admitted", base=read_layout(base, name="gpt2", cache=layout_cache)
        ).identity
        for folder in (made, sent)
    }
    assert len(identities) == 1


@pytest.mark.usefixtures("parsing_here")
def test_single_experts_are_refused_where_the_base_has_them_in_one_tensor(layout_cache: Path, tmp_path: Path) -> None:
    base = save_family(named("qwen3-moe"), tmp_path / "base")
    layout = read_layout(base, name="moe", cache=layout_cache)
    made = save_adapter(base, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"])
    assert_answers_as_in_peft(base, admit_adapter(made, tmp_path / "fine", base=layout).folder, logits(base, [made]))
    expert = {
        f"base_model.model.model.layers.0.mlp.experts.{number}.gate_proj.lora_{part}.weight": torch.ones(*shape)
        for number in range(2)
        for part, shape in (("A", (4, 64)), ("B", (32, 4)))
    }
    sent = rewrite(
        made, tmp_path / "sent", lambda c, t: ({**c, "target_modules": ["q_proj", "o_proj", "gate_proj"]}, t | expert)
    )
    with pytest.raises(errors.Incompatible, match="keeps all experts in one tensor") as refused:
        admit_adapter(sent, tmp_path / "admitted", base=layout)
    assert len(refused.value.problems) == 2


@pytest.mark.usefixtures("parsing_here")
@pytest.mark.parametrize("tied", [True, _slow(False)])
def test_checkpoint_without_the_prefix_of_its_layers_takes_the_same_adapters(
    layout_cache: Path, tmp_path: Path, tied: bool
) -> None:
    base = save_family(named("llama"), tmp_path / "base", tie_word_embeddings=tied)
    file = base / "model.safetensors"
    save_file({name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    make_tokenizer().save_pretrained(base)
    made = save_adapter(base, tmp_path / "made", **SHAPE)
    expected = logits(base, [made])
    admitted = admit_adapter(made, tmp_path / "admitted", base=read_layout(base, name="bare", cache=layout_cache))
    assert set(load_file(admitted.folder / WEIGHTS)) == {canonical_name(name) for name in load_file(made / WEIGHTS)}
    assert_answers_as_in_peft(base, admitted.folder, expected)
    assert_merges_as_in_peft(base, admitted, expected, tmp_path / "merged")

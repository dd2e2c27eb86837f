"""The gate, together with `tensor_checks`."""

import json
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import fuzzing
from support.safetensors_files import CONFIG, PREFIX, adapter_folder, arrays, factors

from finch_hub import errors
from finch_hub.artifacts import gate
from finch_hub.artifacts.adapter_checks import GatePolicy
from finch_hub.artifacts.gate import AdmittedAdapter, adapter_identity, admit_adapter
from finch_hub.engine.adapters.adapter_files import read_adapter
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.lora_modules import LoRAModule

A, B = f"{PREFIX}layers.0.q.lora_A.weight", f"{PREFIX}layers.0.q.lora_B.weight"
Tensors = dict[str, np.ndarray]


def admit(tmp_path: Path, source: Path, **options: Any) -> AdmittedAdapter:
    return admit_adapter(source, tmp_path / "admitted", **options)


def refusal(tmp_path: Path, source: Path, **options: Any) -> errors.RefusedArtifact:
    with pytest.raises(errors.RefusedArtifact) as refused:
        admit(tmp_path, source, **options)
    assert not (tmp_path / "admitted").exists(), "a refused adapter leaves nothing"
    return refused.value


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def test_valid_adapter_is_admitted(tmp_path: Path) -> None:
    tensors = factors("layers.0.q") | factors("layers.1.q", inputs=8)
    admitted = admit(tmp_path, adapter_folder(tmp_path / "in", tensors))
    assert admitted.modules["layers.1.q"] == LoRAModule(
        path="layers.1.q",
        a=f"{PREFIX}layers.1.q.lora_A.weight",
        b=f"{PREFIX}layers.1.q.lora_B.weight",
        bias=None,
        magnitude=None,
        embedding=False,
        rank=2,
        scale=2.0,
        inputs=8,
        outputs=4,
    )
    assert (admitted.rank, admitted.quarantine) == (2, ())
    assert sorted(path.name for path in admitted.folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_admitted_adapter_is_admitted_again_unchanged(tmp_path: Path) -> None:
    first = admit(tmp_path, adapter_folder(tmp_path / "in"))
    again = admit_adapter(first.folder, tmp_path / "again")
    assert again.identity == first.identity == adapter_identity(again.folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (again.folder / name).read_bytes() == (first.folder / name).read_bytes()


def test_identity_depends_on_the_meaning_and_not_on_the_form(tmp_path: Path) -> None:
    plain = admit_adapter(adapter_folder(tmp_path / "1"), tmp_path / "a")
    turned = dict(reversed(factors().items()))
    other = adapter_folder(tmp_path / "2", turned, {"megatron_core": "megatron.core"}, {"author": "x"})
    (other / "README.md").write_text("# card")
    assert admit_adapter(other, tmp_path / "b").identity == plain.identity
    changed = factors()
    changed[A][0, 0] += 1
    assert admit_adapter(adapter_folder(tmp_path / "3", changed), tmp_path / "c").identity != plain.identity
    alpha = adapter_folder(tmp_path / "4", config={"lora_alpha": 5})
    assert admit_adapter(alpha, tmp_path / "d").identity != plain.identity


# Made by the first version. Lineage and reproductions compare identities, so no later version may change them.
IDENTITIES = {
    "plain": ({}, "733dfe099ab8b5823bfa1a97c5e4a01404ba699d63c6539c3f5ef90843c337b8"),
    "patterns": (
        {"rank_pattern": {"q": 2, "v": 3}, "alpha_pattern": {"q": 7}, "use_rslora": True},
        "18bc32b8a3fa594d5952669bc5157f0dd4eca37d7b22e83db1b525cbea468af7",
    ),
    "of a named base": (
        {"base_model_name_or_path": "/x", "revision": "main", "task_type": None},
        "32130be2c4f1e3992db53ce371401c60cd92a9962c00a89205a43ffb3f6b392d",
    ),
}


@pytest.mark.parametrize(("config", "identity"), IDENTITIES.values(), ids=IDENTITIES)
def test_identity_is_that_of_the_first_version(tmp_path: Path, config: dict[str, Any], identity: str) -> None:
    tensors = {A: np.arange(12, dtype=np.float32).reshape(2, 6), B: np.arange(8, dtype=np.float32).reshape(4, 2)}
    assert admit(tmp_path, adapter_folder(tmp_path / "in", tensors, config)).identity == identity


def test_single_file_has_its_config_in_the_metadata(tmp_path: Path) -> None:
    folder = admit_adapter(adapter_folder(tmp_path / "in"), tmp_path / "folder")
    (tmp_path / "one.safetensors").write_bytes(
        arrays(factors(), {"adapter_config": json.dumps(CONFIG), "format": "pt"})
    )
    assert admit(tmp_path, tmp_path / "one.safetensors").identity == folder.identity
    (tmp_path / "none.safetensors").write_bytes(arrays(factors()))
    with pytest.raises(errors.RefusedArtifact, match="has no config"):
        admit_adapter(tmp_path / "none.safetensors", tmp_path / "x")


@pytest.mark.parametrize("inside", ["", "my-adapter/"])
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_archives_of_a_folder_are_admitted(tmp_path: Path, suffix: str, inside: str) -> None:
    folder = adapter_folder(tmp_path / "in")
    archive = tmp_path / f"a{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            for file in folder.iterdir():
                opened.write(file, inside + file.name)
    else:
        with tarfile.open(archive, "w:gz") as opened:
            for file in folder.iterdir():
                opened.add(file, inside + file.name)
    assert admit(tmp_path, archive).identity
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in", "admitted", archive.name])


WRONG: dict[str, tuple[Tensors, dict[str, Any], str]] = {
    "A without B": ({A: factors()[A]}, {}, "has no lora_B.weight"),
    "B without A": ({B: factors()[B]}, {}, "has no lora_A.weight"),
    "B of an embedding": (
        {A: factors()[A], f"{PREFIX}layers.0.q.lora_embedding_B": zeros(4, 2)},
        {},
        "A and B of one kind",
    ),
    "rank of its own": (factors(rank=3), {}, "has rank 3, but the config says 2"),
    "rank against the pattern": (factors(), {"rank_pattern": {"q": 3}}, "has rank 2, but the config says 3"),
    "ranks that differ": ({A: zeros(2, 6), B: zeros(4, 3)}, {}, r"not \[rank, inputs\]"),
    "a vector": ({A: zeros(2), B: zeros(4, 2)}, {}, r"not \[rank, inputs\]"),
    "a convolution": ({A: zeros(2, 6, 1, 1), B: zeros(4, 2, 1, 1)}, {}, r"not \[rank, inputs\]"),
    "whole numbers": ({A: zeros(2, 6, dtype=np.int8), B: zeros(4, 2)}, {}, "dtype I8"),
    "NaN": ({A: np.full((2, 6), np.nan, np.float32), B: zeros(4, 2)}, {}, "12 entries that are NaN"),
    "infinity": ({A: zeros(2, 6), B: np.full((4, 2), np.inf, np.float16)}, {}, "8 entries that are NaN"),
    "other weights": (factors() | {f"{PREFIX}lm_head.weight": zeros(3, 3)}, {}, "is not a LoRA tensor"),
    "one tensor under two names": (
        factors() | {"layers.0.q.lora_A.default.weight": zeros(2, 6)},
        {},
        "is the same tensor as",
    ),
    "LoRA bias": (
        factors() | {f"{PREFIX}layers.0.q.lora_B.bias": zeros(4)},
        {"lora_bias": True},
        "adds a bias to B, which is not supported",
    ),
    "a module that is no target": (factors("layers.0.k"), {}, "target_modules in the config leaves it out"),
    "a copy of the embedding": (factors() | {f"{PREFIX}e.base_layer.weight": zeros(3, 3)}, {}, "copy of the base"),
    "DoRA that is off": (factors() | {f"{PREFIX}layers.0.q.lora_magnitude_vector": zeros(4)}, {}, "does not enable it"),
    "DoRA of another size": (
        factors() | {f"{PREFIX}layers.0.q.lora_magnitude_vector": zeros(5)},
        {"use_dora": True},
        r"\[5\] for 4 outputs",
    ),
    "DoRA without magnitudes": (factors(), {"use_dora": True}, "has no lora_magnitude_vector"),
    "a magnitude without factors": (
        {f"{PREFIX}layers.0.q.lora_magnitude_vector": zeros(4)},
        {"use_dora": True},
        "A and B of one kind",
    ),
    "one part twice": (
        factors()
        | dict.fromkeys((f"{PREFIX}layers.0.q.lora_magnitude_vector{end}" for end in ("", ".weight")), zeros(4)),
        {"use_dora": True},
        "second tensor of its kind",
    ),
    "bias that is off": (factors() | {f"{PREFIX}layers.0.q.bias": zeros(4)}, {}, "is not a LoRA tensor"),
    "LoRA bias that is off": (factors() | {f"{PREFIX}layers.0.q.lora_B.bias": zeros(4)}, {}, "does not enable it"),
    "saved whole numbers": (
        factors() | {f"{PREFIX}head.weight": zeros(3, dtype=np.int8)},
        {"modules_to_save": ["head"]},
        "dtype I8, which is not a floating-point type",
    ),
    "nothing but a head": ({f"{PREFIX}head.weight": zeros(3)}, {"modules_to_save": ["head"]}, "holds no LoRA factors"),
}


@pytest.mark.parametrize(("tensors", "config", "says"), WRONG.values(), ids=WRONG)
def test_tensors_that_are_not_an_adapter_are_refused(
    tmp_path: Path, tensors: Tensors, config: dict[str, Any], says: str
) -> None:
    refused = refusal(tmp_path, adapter_folder(tmp_path / "in", tensors, config))
    assert refused.problems
    with pytest.raises(errors.RefusedArtifact, match=says):
        raise refused


def test_problems_of_several_tensors_come_together(tmp_path: Path) -> None:
    tensors = {A: np.full((2, 6), np.nan, np.float32), B: zeros(4, 2), f"{PREFIX}x.y": zeros(1)}
    tensors |= {f"{PREFIX}layers.1.q.lora_A.weight": zeros(2, 6)}
    assert len(refusal(tmp_path, adapter_folder(tmp_path / "in", tensors)).problems) == 3


@pytest.mark.parametrize(
    ("besides", "config"),
    [
        ({f"{PREFIX}lm_head.weight": zeros(3, 3)}, {"modules_to_save": ["lm_head"]}),
        ({f"{PREFIX}score.dense.weight": zeros(3, 3)}, {"modules_to_save": ["score"]}),
        ({f"{PREFIX}layers.0.q.bias": zeros(4)}, {"bias": "lora_only"}),
        ({f"{PREFIX}layers.0.q.lora_magnitude_vector": zeros(4)}, {"use_dora": True}),
        (factors("layers.1.q", rank=5), {"rank_pattern": {"layers.1.q": 5}}),
        (
            {f"{PREFIX}emb.lora_embedding_A": zeros(2, 9), f"{PREFIX}emb.lora_embedding_B": zeros(4, 2)},
            {"target_modules": ["q", "emb"]},
        ),
    ],
)
def test_tensors_that_the_config_announces_are_admitted(
    tmp_path: Path, besides: Tensors, config: dict[str, Any]
) -> None:
    assert admit(tmp_path, adapter_folder(tmp_path / "in", factors() | besides, config)).quarantine == ()


def test_norm_above_the_limit_is_quarantined_and_not_refused(tmp_path: Path) -> None:
    tensors = factors()
    norm = 2.0 * float(np.linalg.norm(tensors[A]) * np.linalg.norm(tensors[B]))
    folder = adapter_folder(tmp_path / "in", tensors)
    fine = admit_adapter(folder, tmp_path / "1", policy=GatePolicy(max_update_norm=norm * 1.001))
    assert fine.quarantine == ()
    (reason,) = admit_adapter(folder, tmp_path / "2", policy=GatePolicy(max_update_norm=norm * 0.999)).quarantine
    assert "layers.0.q" in reason


@pytest.mark.parametrize(("norm", "is_quarantined"), [(9_900.0, False), (10_100.0, True)])
@pytest.mark.parametrize("loud", [A, B])
def test_default_limit_of_the_norm_counts_both_factors_and_the_scale(
    tmp_path: Path, norm: float, is_quarantined: bool, loud: str
) -> None:
    tensors = factors()
    actual = 2.0 * float(np.linalg.norm(tensors[A]) * np.linalg.norm(tensors[B]))
    tensors[loud] *= norm / actual
    assert bool(admit(tmp_path, adapter_folder(tmp_path / "in", tensors)).quarantine) == is_quarantined


ABSURD: dict[str, tuple[Tensors, dict[str, Any], str]] = {
    "a factor": ({A: np.full((2, 6), 1e30, np.float32), B: zeros(4, 2)}, {}, "A.weight: has values up to 1e.30"),
    "beyond the square root of floats": ({A: np.full((2, 6), 1e200), B: zeros(4, 2)}, {}, "has values up to 1e.200"),
    "one negative entry": ({A: zeros(2, 6), B: np.eye(4, 2) * -65_505.0}, {}, "B.weight: has values up to 6.55e.04"),
    "a product": ({A: np.full((2, 6), 300.0), B: np.full((4, 2), 300.0)}, {}, r"layers\.0\.q: its factors or their"),
    "a scale": ({A: np.ones((2, 6)), B: np.ones((4, 2))}, {"lora_alpha": 9e5}, "may reach 4.4"),
    "a factor beside a tiny one": ({A: np.full((2, 6), 6e4), B: np.full((4, 2), 1e-9)}, {}, "may reach 2.08e.05"),
    "a bias": (
        factors() | {f"{PREFIX}layers.0.q.bias": np.full(4, 1e30)},
        {"bias": "all"},
        "bias: has values up to 1e.30",
    ),
    "a magnitude": (
        factors() | {f"{PREFIX}layers.0.q.lora_magnitude_vector": np.full(4, 1e30)},
        {"use_dora": True},
        "magnitude_vector: has values",
    ),
    "a whole module": (
        factors() | {f"{PREFIX}lm_head.weight": np.full((4, 6), 1e30)},
        {"modules_to_save": ["lm_head"]},
        "lm_head.weight: has values",
    ),
}


@pytest.mark.parametrize(("tensors", "config", "message"), ABSURD.values(), ids=ABSURD)
def test_values_that_no_base_can_compute_with_are_refused(
    tmp_path: Path, tensors: Tensors, config: dict[str, Any], message: str
) -> None:
    folder = adapter_folder(tmp_path / "in", tensors, config)
    assert re.search(message, str(refusal(tmp_path, folder)))
    with pytest.raises(errors.RefusedArtifact, match=message):
        read_adapter(folder)


def test_scales_that_no_base_can_compute_with_are_refused(tmp_path: Path) -> None:
    tensors, metadata = quantized(None, "int8")
    tensors[f"{A}.scale"] = np.full((2, 1), 6e4, np.float16)
    folder = adapter_folder(tmp_path / "in", tensors, {}, metadata)
    assert "layers.0.q: its factors or their product may reach" in str(refusal(tmp_path, folder))


def quantized(group: int | None, bits: str) -> tuple[Tensors, dict[str, str]]:
    codes = np.int8 if bits == "int8" else np.uint8
    half = 1 if bits == "int8" else 2
    groups = -(-6 // (group or 6)), -(-4 // (group or 4))
    tensors = {A: zeros(2, 6 // half, dtype=codes), f"{A}.scale": np.full((2, groups[0]), 0.01, np.float16)}
    tensors |= {B: zeros(4 // half, 2, dtype=codes), f"{B}.scale": np.full((groups[1], 2), 0.01, np.float16)}
    return tensors, {"finch_quantization": json.dumps({"version": 1, "scheme": bits, "group": group})}


@pytest.mark.parametrize("group", [None, 2, 4, 64])
@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_quantized_factors_are_admitted(tmp_path: Path, bits: str, group: int | None) -> None:
    tensors, metadata = quantized(group, bits)
    admitted = admit(tmp_path, adapter_folder(tmp_path / "in", tensors, metadata=metadata))
    assert admitted.quarantine == ()
    assert (admitted.modules["layers.0.q"].inputs, admitted.modules["layers.0.q"].outputs) == (6, 4)
    policy = GatePolicy(max_update_norm=1e-3)
    assert admit_adapter(admitted.folder, tmp_path / "quarantined", policy=policy).quarantine


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({f"{A}.scale": zeros(2, 9, dtype=np.float16)}, "not [2, 3]"),
        ({f"{A}.scale": zeros(3, 3, dtype=np.float16)}, "not [2, 3]"),
        ({f"{A}.scale": zeros(2, dtype=np.float16)}, "are not matrices"),
        ({f"{A}.scale": zeros(2, 3, dtype=np.int8)}, "scales I8 by I8"),
        ({f"{A}.scale": np.full((2, 3), np.nan, np.float16)}, "NaN"),
        (
            {f"{A}.scale": zeros(2, 3, dtype=np.uint8), f"{A}.scale.scale": zeros(2, 3, dtype=np.float16)},
            "scales a scale",
        ),
    ],
)
def test_scales_that_do_not_fit_are_refused(tmp_path: Path, changes: Tensors, says: str) -> None:
    tensors, metadata = quantized(2, "int8")
    assert says in str(refusal(tmp_path, adapter_folder(tmp_path / "in", tensors | changes, metadata=metadata)))


@pytest.mark.parametrize("scheme", ["", "7", "[]", '{"version": 2, "scheme": "int8", "group": 64}', "[" * 5000])
def test_unknown_scheme_is_refused(tmp_path: Path, scheme: str) -> None:
    tensors, _ = quantized(2, "int8")
    folder = adapter_folder(tmp_path / "in", tensors, metadata={"finch_quantization": scheme})
    assert "cannot read" in str(refusal(tmp_path, folder))


@pytest.mark.parametrize("name", ["adapter.bin", "adapter.pt", "adapter.pkl", "adapter.ckpt", "renamed.safetensors"])
def test_pickle_is_refused_under_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"weights": [1.0]}))
    assert "pickle" in str(refusal(tmp_path, tmp_path / name))


def test_pickle_instead_of_the_weights_is_refused_and_one_beside_them_is_ignored(tmp_path: Path) -> None:
    beside = adapter_folder(tmp_path / "beside")
    (beside / "adapter_model.bin").write_bytes(b"x")
    assert admit(tmp_path, beside).ignored_files == ("adapter_model.bin",)
    instead = adapter_folder(tmp_path / "instead")
    (instead / "adapter_model.safetensors").rename(instead / "adapter_model.bin")
    with pytest.raises(errors.RefusedArtifact, match=r"pickle adapter_model\.bin"):
        admit_adapter(instead, tmp_path / "refused")


def test_other_files_of_the_folder_are_neither_read_nor_kept(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "in")
    (folder / "training_args.bin").write_bytes(pickle.dumps({"a": 1}))
    (folder / "tokenizer.json").write_text("{}")
    assert {path.name for path in admit(tmp_path, folder).folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_record_with_another_identity_is_refused(tmp_path: Path) -> None:
    identity = admit_adapter(adapter_folder(tmp_path / "1"), tmp_path / "first").identity
    folder = adapter_folder(tmp_path / "in")
    (folder / "finch.json").write_text(json.dumps({"identity": "0" * 64}))
    assert identity in str(refusal(tmp_path, folder))
    (folder / "finch.json").write_text("[]")
    assert "not a JSON object" in str(refusal(tmp_path, folder))
    (folder / "finch.json").write_text(json.dumps({"identity": identity}))
    assert admit(tmp_path, folder).identity == identity


def test_card_is_neither_read_nor_kept(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "in")
    (folder / "README.md").write_text("<script>alert(1)</script>")
    assert not (admit(tmp_path, folder).folder / "README.md").exists()


@pytest.mark.parametrize("policy", [GatePolicy(max_bytes=50), GatePolicy(max_tensors=1)])
def test_adapter_above_a_limit_of_the_policy_is_refused(tmp_path: Path, policy: GatePolicy) -> None:
    assert "more than" in str(refusal(tmp_path, adapter_folder(tmp_path / "in"), policy=policy))


def test_archive_above_the_limit_of_the_policy_is_not_unpacked(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        for file in folder.iterdir():
            opened.write(file, file.name)
    assert "unpacks to more than 50 bytes" in str(
        refusal(tmp_path, tmp_path / "a.zip", policy=GatePolicy(max_bytes=50))
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "in"], "nothing is left"


def test_missing_source_and_existing_target_are_errors(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        admit(tmp_path, tmp_path / "nowhere")
    (tmp_path / "admitted").mkdir()
    with pytest.raises(errors.Conflict):
        admit(tmp_path, adapter_folder(tmp_path / "in"))
    assert (tmp_path / "admitted").exists()


BASE = BaseLayout(
    name="tiny",
    linear={"layers.0.q": (4, 6), "layers.1.q": (4, 6), "lm_head": (9, 6)},
    embeddings={"emb": (9, 6)},
    parameters={
        "layers.0.q.weight": (4, 6),
        "layers.1.q.weight": (4, 6),
        "lm_head.weight": (9, 6),
        "emb.weight": (9, 6),
    },
)


def test_adapter_that_fits_its_base_is_admitted(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "in", factors() | factors("layers.1.q"))
    assert admit(tmp_path, folder, base=BASE).identity == admit_adapter(folder, tmp_path / "other").identity


def test_shapes_of_another_base_are_named(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "in", factors(outputs=8) | factors("layers.2.q"))
    with pytest.raises(errors.Incompatible, match="tiny") as refused:
        admit(tmp_path, folder, base=BASE)
    assert [problem.where for problem in refused.value.problems] == ["layers.0.q", "layers.2.q"]
    assert not (tmp_path / "admitted").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=fuzzing.examples(80))
@given(data=st.data())
def test_adapter_with_changed_bytes_is_refused_or_admitted_twice(tmp_path_factory: Any, data: st.DataObject) -> None:
    """The gate raises no other error than its own, and admits an admitted adapter again."""
    root = tmp_path_factory.mktemp("fuzz")
    folder = adapter_folder(root / "in")
    file = folder / data.draw(st.sampled_from(["adapter_model.safetensors", "adapter_config.json"]))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        first = admit_adapter(folder, root / "out")
    except errors.RefusedArtifact:
        assert not (root / "out").exists()
    else:
        assert admit_adapter(first.folder, root / "again").identity == first.identity
    try:
        fitted = admit_adapter(folder, root / "fitted", base=BASE)
    except (errors.RefusedArtifact, errors.Incompatible):
        assert not (root / "fitted").exists()
    else:
        assert admit_adapter(fitted.folder, root / "fitted-again", base=BASE).identity == fitted.identity


def test_costly_patterns_become_the_names_of_the_modules(tmp_path: Path) -> None:
    """Stored, they would take long in the hands of PEFT, whose base has more and longer names than the file."""
    tensors = factors("q") | factors("layers.1.q", rank=3) | factors("layers.10.q") | factors("layers.1.k", rank=3)
    config = {
        "target_modules": r".*[qk].*|.*\d+",
        "rank_pattern": {r"layers\.\d{1,1}\..": 3},
        "alpha_pattern": {r"layers\.\d+\.q": 5},
    }
    admitted = admit(tmp_path, adapter_folder(tmp_path / "in", tensors, config))
    stored = json.loads((admitted.folder / "adapter_config.json").read_bytes())
    assert stored["target_modules"] == ["layers.1.k", "layers.1.q", "layers.10.q", "q"]
    assert stored["rank_pattern"] == {"layers.1.k": 3, "layers.1.q": 3}
    assert stored["alpha_pattern"] == {"layers.1.q": 5, "layers.10.q": 5}
    assert admit_adapter(admitted.folder, tmp_path / "again").identity == admitted.identity


def test_names_of_modules_that_end_alike_keep_their_values(tmp_path: Path) -> None:
    tensors = factors("q") | factors("a.q", rank=3) | factors("b.a.q") | factors("b.a_q")
    config = {"target_modules": ["q", "a_q"], "rank_pattern": {r"^a\.?q": 3, "(?!a).*": 2}, "r": 4}
    admitted = admit(tmp_path, adapter_folder(tmp_path / "in", tensors, config))
    assert {path: module.rank for path, module in admitted.modules.items()} == {
        "q": 2,
        "a.q": 3,
        "b.a.q": 2,
        "b.a_q": 2,
    }
    stored = json.loads((admitted.folder / "adapter_config.json").read_bytes())
    assert not any(set("*+?") & set(pattern) for pattern in stored["rank_pattern"])
    again = admit_adapter(admitted.folder, tmp_path / "again")
    assert (again.identity, again.modules) == (admitted.identity, admitted.modules)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter_config.json", '{"a":' * 900 + "1" + "}" * 900, "nested more than 64 deep"),
        ("adapter_config.json", '{"a":' * 100_000, "nested more than 64 deep"),
        ("adapter_config.json", '["LORA"]', "is not a JSON object"),
        ("finch.json", '{"a":' * 900 + "1" + "}" * 900, "nested more than 64 deep"),
        ("finch.json", "[1]", "is not a JSON object"),
        ("finch.json", '{"adapter": {"identity": [1, 2]}}', "which is not a SHA-256"),
        ("finch.json", '{"identity": {"a": 1}}', "which is not a SHA-256"),
        ("finch.json", '{"identity": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_malformed_json_is_refused_by_its_file(tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = adapter_folder(tmp_path / "in")
    (folder / name).write_text(content)
    with pytest.raises(errors.RefusedArtifact, match=f"{name}: .*{message}"):
        admit(tmp_path, folder)


def _make_pipe(file: Path) -> None:
    os.mkfifo(file)


def _cut(file: Path) -> None:
    file.write_bytes(bytes(100))


def _link_to_itself(file: Path) -> None:
    file.symlink_to(file)


@pytest.mark.parametrize("replace", [_make_pipe, _cut, _link_to_itself, Path.mkdir, Path.exists])
@pytest.mark.parametrize("moment", ["_read_config", "check_adapter"])
def test_weights_that_are_replaced_after_they_were_opened_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, replace: Callable[[Path], object]
) -> None:
    """Whoever opens a pipe waits for ever. In the last case, the file is gone."""
    folder = adapter_folder(tmp_path / "in")
    weights, before = folder / "adapter_model.safetensors", getattr(gate, moment)

    def work(*arguments: Any, **options: Any) -> Any:
        weights.unlink()
        replace(weights)
        return before(*arguments, **options)

    monkeypatch.setattr(gate, moment, work)
    assert "adapter_model.safetensors" in str(refusal(tmp_path, folder))

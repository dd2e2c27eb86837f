"""Plans of compositions: structural problems, interference compared with dense arithmetic, and forecasts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from support.adapters import VARIANTS, save_adapter

from finch_hub.engine.bases.base import Base
from finch_hub.engine.composition import conflicts, core_space, peft_output
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.parents import ParentInput, read_parent
from finch_hub.engine.composition.planning import plan
from finch_hub.plugins import trials
from finch_hub.plugins.catalog import load_catalog
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import ComposeSpec
from finch_hub.specs.reports import HiddenShift, PairConflict

ROWS = [
    Example.of_pair("What does a finch eat?", "It eats seeds."),
    Example.of_pair("Where does it live?", "In woods."),
]


def parent(name: str, base: Path, folder: Path, seed: int, **config: object) -> ParentInput:
    save_adapter(base, folder / name, seed=seed, **{**VARIANTS["plain"], **config})
    return ParentInput(name=name, folder=folder / name, validation=ROWS)


def test_plan_without_a_base_measures_the_weights(tiny_folder: Path, tmp_path: Path) -> None:
    parents = [parent("a", tiny_folder, tmp_path, 0), parent("b", tiny_folder, tmp_path, 1)]
    report = plan(parents)
    assert report.parents == ("a", "b")
    assert len(report.modules) == 14
    assert len(report.pairs) == 1
    assert not report.hidden_shifts
    assert report.pairs[0].interference is None
    assert report.structural == ()


def test_interference_equals_the_dense_outputs(tiny_base: Base, tiny_folder: Path, tmp_path: Path) -> None:
    parents = [
        parent("a", tiny_folder, tmp_path, 0, target_modules=["q_proj"]),
        parent("b", tiny_folder, tmp_path, 1, target_modules=["q_proj", "down_proj"]),
    ]
    report = plan(parents, base=tiny_base)
    # The inputs of the first layer's q_proj are the normed embeddings, which no adapter changes.
    seen: list[torch.Tensor] = []
    first = tiny_base.model.model.layers[0].self_attn.q_proj
    handle = first.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0][0]))
    for row in ROWS:
        turns = [{"role": m.role, "content": m.content} for m in row.messages]
        ids = tiny_base.tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
        end = int((ids[0] == tiny_base.tokenizer.eos_token_id).nonzero()[-1]) + 1
        tiny_base.model(ids[:, :end])
    handle.remove()
    X = torch.cat(seen)
    path = "model.layers.0.self_attn.q_proj"
    updates = {p.name: read_parent(p.folder, p.name).factors[path] for p in parents}
    norms = {name: float((X @ u.A.T @ u.B.T).norm()) for name, u in updates.items()}
    expected = max(norms["a"] / norms["b"], norms["b"] / norms["a"])
    (pair,) = [m for m in report.modules if m.module == path]
    assert pair.interference == pytest.approx(expected, rel=1e-4)


def test_plan_has_no_forecast_for_parents_that_gain_nothing(tiny_base: Base, tiny_folder: Path, tmp_path: Path) -> None:
    parents = [parent("a", tiny_folder, tmp_path, 0), parent("b", tiny_folder, tmp_path, 1)]
    spec = ComposeSpec.of({"adapter": "x", "parents": [{"adapter": "a"}, {"adapter": "b"}]})
    tried = trials.make_trials(spec, load_catalog(entry_points=False))
    assert plan(parents, tried).forecasts == ()
    assert plan(parents, tried, base=tiny_base).forecasts == ()


def test_adapter_of_zeros_shifts_nothing(tiny_base: Base, tiny_folder: Path, tmp_path: Path) -> None:
    one = parent("a", tiny_folder, tmp_path, 0)
    zero = parent("zero", tiny_folder, tmp_path, 0)
    update = read_parent(zero.folder, "zero")
    from finch_hub.engine.adapters import adapter_files

    empty = {m: Factors(B=f.B * 0, A=f.A) for m, f in update.factors.items()}
    adapter_files.write_adapter(peft_output.to_weights(empty, update.config), zero.folder)
    report = plan([one, zero], base=tiny_base)
    shifts = {(s.first, s.second): s.shift for s in report.hidden_shifts}
    # A zero adapter shifts nothing. If the first adapter is zero, any other shifts infinitely further.
    assert shifts["a", "zero"] == pytest.approx(0, abs=1e-5)
    assert shifts["zero", "a"] > 1000
    assert "keep apart" in report.advice


def test_plan_returns_structural_problems_instead_of_raising(tiny_folder: Path, tmp_path: Path) -> None:
    plain = parent("a", tiny_folder, tmp_path, 0)
    dora = parent("b", tiny_folder, tmp_path, 1, use_dora=True)
    report = plan(
        [dataclasses.replace(plain, base_fingerprint="1" * 64), dataclasses.replace(dora, base_fingerprint="2" * 64)]
    )
    assert report.advice == "keep apart and switch"
    text = "\n".join(report.structural)
    assert "111111111111" in text
    assert "b model.layers" in text
    assert "DoRA" in text


def conflict(**values: float) -> PairConflict:
    usual = {"output_overlap": 0.05, "input_overlap": 0.1, "cosine": 0.0, "sign_conflict": 0.5, "norm_ratio": 0.9}
    return PairConflict.of({"module": "", "first": "a", "second": "b", **usual, **values})


@pytest.mark.parametrize(
    ("pair", "shift", "shared", "advice"),
    [
        (conflict(), 0.5, 0.2, "compose"),
        (conflict(norm_ratio=0.1), 0.5, 0.2, "reweight"),
        (conflict(cosine=-0.8), 0.5, 0.2, "resolve with priority"),
        (conflict(), 0.5, 0.9, "resolve with calibrate"),
        (conflict(norm_ratio=0.1), 1.4, 0.2, "keep apart"),
    ],
)
def test_advice_is_for_the_most_serious_conflict(pair: PairConflict, shift: float, shared: float, advice: str) -> None:
    found, reasons = conflicts._advise([pair], (), [HiddenShift(first="a", second="b", shift=shift)], shared)
    assert found.startswith(advice)
    assert reasons


def test_parents_without_a_common_module_get_the_advice_to_compose() -> None:
    core = core_space.CoreSpace(parents=("a", "b"), digests=("0", "1"), blocks=())
    assert conflicts.diagnose(core).advice == "compose"

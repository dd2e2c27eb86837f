"""The automatic rank: which directions stay, and that held-out loss decides."""

from __future__ import annotations

import pytest
import torch
from support.training import adapted, lessons

from finch_hub import errors
from finch_hub.engine.adapters.initialization import initial_a
from finch_hub.engine.adapters.module_shapes import linear_modules
from finch_hub.engine.adapters.weights import AdapterWeights
from finch_hub.engine.bases.loading import Base
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder import evaluation
from finch_hub.engine.rank import automatic, eva
from finch_hub.engine.rank.spectrum import Spectrum, choose
from finch_hub.engine.training import loop
from finch_hub.engine.training.adapter import LoRAAdapter
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

TRAINING = TrainingConfig(epochs=4, batch_size=4, learning_rate=5e-3, threads=1, validation=0.25)


def dense(weights: AdapterWeights) -> dict[str, torch.Tensor]:
    return {path: module.scale * module.B @ module.A for path, module in weights.modules.items()}


def test_the_spectrum_is_that_of_the_dense_update(tiny_base: Base) -> None:
    weights = adapted(tiny_base).weights()
    spectrum = Spectrum.of(weights)
    for path, update in dense(weights).items():
        U, S, V = spectrum.modules[path]
        assert torch.allclose(S, torch.linalg.svdvals(update)[: len(S)], atol=1e-5)
        assert torch.allclose(U * S @ V.T, update, atol=1e-5)


def test_a_cut_is_the_best_approximation_of_its_rank_and_drops_what_has_none(tiny_base: Base) -> None:
    adapter = adapted(tiny_base)
    weights = adapter.weights()
    paths = list(weights.modules)
    ranks = {path: number % 4 for number, path in enumerate(paths)}
    smaller = automatic.cut(tiny_base, adapter, ranks)
    found = smaller.weights()
    assert {path: module.rank for path, module in found.modules.items()} == {p: r for p, r in ranks.items() if r}
    assert smaller.trainable_parameters == found.parameters
    for path, update in dense(found).items():
        values = torch.linalg.svdvals(dense(weights)[path])
        error = torch.linalg.matrix_norm(dense(weights)[path] - update)
        assert error == pytest.approx(float(values[ranks[path] :].norm()), rel=1e-4)


def spectrum_of(*values: float) -> Spectrum:
    """Return one module of three inputs and outputs for each two values."""
    pairs = [torch.tensor(values[place : place + 2]) for place in range(0, len(values), 2)]
    return Spectrum(
        modules={f"m{number}": (torch.eye(3)[:, :2], pair, torch.eye(3)[:, :2]) for number, pair in enumerate(pairs)}
    )


def test_the_highest_threshold_within_the_tolerance_is_found() -> None:
    spectrum = spectrum_of(8.0, 1.0, 6.0, 4.0, 3.0, 2.0)

    def loss_at(threshold: float) -> float:
        return 1.0 if threshold <= 3.5 else 2.0

    threshold, choices = choose(spectrum, loss_at, full_loss=1.0, tolerance=0.01, budget=None)
    assert threshold == 3.0
    assert spectrum.ranks(threshold) == {"m0": 1, "m1": 2, "m2": 1}
    chosen = next(choice for choice in choices if choice.threshold == threshold)
    assert (chosen.parameters, chosen.loss) == (4 * 6, 1.0)
    assert all(one.loss == loss_at(one.threshold) for one in choices)


@pytest.mark.parametrize(("budget", "kept"), [(36, 6), (30, 5), (13, 2), (6, 1)])
def test_a_budget_is_kept_whatever_the_loss(budget: int, kept: int) -> None:
    spectrum = spectrum_of(8.0, 1.0, 6.0, 4.0, 3.0, 2.0)
    threshold, _ = choose(spectrum, lambda _: 2.0, full_loss=1.0, tolerance=0.0, budget=budget)
    assert sum(spectrum.ranks(threshold).values()) == kept


def test_a_budget_below_one_direction_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="rank_budget"):
        choose(spectrum_of(1.0, 0.5), lambda _: 1.0, full_loss=1.0, tolerance=0.0, budget=5)


def test_an_automatic_rank_is_smaller_and_about_as_good(tiny_base: Base) -> None:
    config = LoRAConfig(rank="auto", alpha=16.0, target_modules="all-linear", rank_tolerance=0.02)
    trained = loop.train(tiny_base, config, TRAINING, lessons(48))
    report = trained.report
    assert report.rank is not None
    assert report.after is not None
    assert report.after.loss <= report.rank["uncut_loss"] * 1.021
    assert report.trainable_parameters == trained.adapter.trainable_parameters == report.rank["parameters"]
    assert report.trainable_parameters < 0.7 * report.rank["trained_parameters"]
    assert {path: module.rank for path, module in trained.adapter.weights().modules.items()} == {
        path: size for path, size in report.rank["rank_pattern"].items() if size
    }
    held_out = loop.splitting.split(lessons(48), TRAINING.validation, TRAINING.seed)[1]
    again = evaluation.measure(tiny_base, tokenize_all(held_out, tiny_base.tokenizer, max_length=512))
    assert again.loss == pytest.approx(report.after.loss, rel=1e-6)


def test_a_budget_is_kept_by_the_whole_job(tiny_base: Base) -> None:
    config = LoRAConfig(rank="auto", alpha=16.0, rank_budget=2000)
    trained = loop.train(tiny_base, config, TRAINING.evolve(epochs=1), lessons(40))
    assert 0 < trained.adapter.trainable_parameters <= 2000


def test_too_little_data_for_an_automatic_rank_is_said_before_training(tiny_base: Base) -> None:
    with pytest.raises(errors.InvalidDataset, match="8") as caught:
        loop.train(tiny_base, LoRAConfig(rank="auto"), TRAINING, lessons(4))
    assert len(caught.value.problems) == 2


def test_eva_begins_from_orthonormal_directions_of_the_inputs(tiny_base: Base) -> None:
    examples = tokenize_all(lessons(32), tiny_base.tokenizer, max_length=512)
    paths = [f"model.layers.{layer}.self_attn.{name}" for layer in range(2) for name in ("q_proj", "v_proj")]
    found = eva.directions(tiny_base, paths, examples, rank=4)
    assert set(found.ranks.values()) == {4}
    assert found.inputs == 2  # q and v read the same
    for rows in found.rows.values():
        assert torch.allclose(rows @ rows.T, torch.eye(4), atol=1e-3)
    seen: list[torch.Tensor] = []
    module = tiny_base.model.get_submodule(paths[0])
    hook = module.register_forward_hook(lambda module, args, output: seen.append(args[0][0]))
    with torch.no_grad():
        for example in examples:
            tiny_base.model(input_ids=torch.from_numpy(example.input_ids)[None])
    hook.remove()
    labelled = [states[torch.from_numpy(one.labels)] for states, one in zip(seen, examples, strict=True)]
    inputs = torch.cat(labelled)
    inputs = inputs - inputs.mean(0)
    explained = (inputs @ found.rows[paths[0]].T).square().sum()
    assert explained > 0.95 * torch.linalg.svdvals(inputs)[:4].square().sum()


def test_eva_redistributes_a_budget(tiny_base: Base) -> None:
    examples = tokenize_all(lessons(32), tiny_base.tokenizer, max_length=512)
    paths = list(linear_modules(tiny_base.model))
    found = eva.directions(tiny_base, paths, examples, rank=4, redistribution=2.0)
    assert sum(found.ranks.values()) == 4 * len(paths)
    assert len(set(found.ranks.values())) > 1
    assert max(found.ranks.values()) <= 8
    assert not any(module._forward_hooks for module in tiny_base.model.modules())


def test_an_adapter_begins_from_evas_directions(tiny_base: Base) -> None:
    examples = tokenize_all(lessons(32), tiny_base.tokenizer, max_length=512)
    config = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear", init="eva")
    said: list[str] = []
    adapter = automatic.begin(tiny_base, config, examples, seed=0, say=said.append)
    weights = adapter.weights().modules
    adapter.detach()
    found = eva.directions(tiny_base, list(weights), examples, rank=4)
    assert all(torch.equal(module.A, found.rows[path]) for path, module in weights.items())
    assert "settled" in said[0]


def test_an_automatic_rank_is_divided_by_evas_findings_and_begins_from_the_shared_a(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "GENEROUS_RANK", 24)  # the tiny base is 64 wide, and PEFT's EVA needs twice the room
    examples = tokenize_all(lessons(48), tiny_base.tokenizer, max_length=512)
    monkeypatch.setattr(automatic, "_LEAST_RANK", 8)
    config = LoRAConfig(rank="auto", alpha=32.0, target_modules="all-linear")
    adapter = automatic.begin(tiny_base, config, examples, seed=0, say=lambda text: None)
    modules = adapter.weights().modules
    sizes = {path: module.rank for path, module in modules.items()}
    adapter.detach()
    found = eva.directions(tiny_base, list(sizes), examples, rank=24, redistribution=64 / 48)
    assert sizes == {path: max(size, automatic._LEAST_RANK) for path, size in found.ranks.items()}
    assert len(set(sizes.values())) > 2
    assert {module.scale for module in modules.values()} == {2.0}
    for path, module in modules.items():
        assert torch.equal(module.A, initial_a(path, *module.A.shape))


def test_where_eva_cannot_be_had_it_is_said_and_the_rank_is_even(tiny_base: Base) -> None:
    examples = tokenize_all(lessons(2), tiny_base.tokenizer, max_length=512)
    said: list[str] = []
    adapter = automatic.begin(tiny_base, LoRAConfig(rank="auto", init="eva"), examples, seed=0, say=said.append)
    assert "left out" in said[0]
    assert {module.rank for module in adapter.weights().modules.values()} == {automatic.GENEROUS_RANK}


def test_a_base_without_finite_states_does_not_keep_eva_busy_forever(tiny_base: Base) -> None:
    examples = tokenize_all(lessons(32), tiny_base.tokenizer, max_length=512)
    with torch.no_grad():
        tiny_base.model.get_input_embeddings().weight.fill_(torch.inf)
    with pytest.raises(errors.TrainingFailed, match="not finite"):
        eva.directions(tiny_base, ["model.layers.0.self_attn.q_proj"], examples, rank=4)


def test_eva_keeps_the_ranks_and_scales_that_patterns_give(tiny_base: Base) -> None:
    examples = tokenize_all(lessons(32), tiny_base.tokenizer, max_length=512)
    config = LoRAConfig(rank=4, alpha=8.0, init="eva", rank_pattern={"v_proj": 8}, alpha_pattern={"v_proj": 32.0})
    adapter = automatic.begin(tiny_base, config, examples, seed=0, say=lambda text: None)
    modules = adapter.weights().modules
    adapter.detach()
    found = eva.directions(tiny_base, list(modules), examples, rank=8)
    assert {module.rank for module in modules.values()} == {4, 8}
    for path, module in modules.items():
        assert (module.rank, module.scale) == ((8, 4.0) if path.endswith("v_proj") else (4, 2.0))
        assert torch.equal(module.A, found.rows[path][: module.rank])


@pytest.mark.parametrize("rslora", [False, True])
def test_an_automatic_rank_begins_at_the_scale_that_alpha_gives_at_rank_16(rslora: bool, tiny_base: Base) -> None:
    config = LoRAConfig(rank="auto", alpha=32.0, use_rslora=rslora)
    examples = tokenize_all(lessons(12), tiny_base.tokenizer, max_length=512)  # EVA needs more
    adapter = automatic.begin(tiny_base, config, examples, seed=0, say=lambda text: None)
    scales = {module.scale for module in adapter.weights().modules.values()}
    adapter.detach()
    assert scales == {8.0 if rslora else 2.0}


def test_a_budget_that_no_direction_fits_into_is_refused_before_training(tiny_base: Base) -> None:
    config = LoRAConfig(rank="auto", alpha=16.0, rank_budget=5)
    steps: list[int] = []
    with pytest.raises(errors.InvalidSpec, match="rank_budget"):
        loop.train(tiny_base, config, TRAINING, lessons(40), should_stop=lambda: steps.append(1))
    assert not steps


@pytest.mark.parametrize(("field", "value"), [("rank", "auto"), ("init", "eva")])
def test_what_is_found_from_data_is_refused_where_an_adapter_is_put_on_a_base_without(
    field: str, value: str, tiny_base: Base
) -> None:
    with pytest.raises(errors.InvalidSpec, match=rf"{field}: '{value}' needs training data.*fine_tune"):
        LoRAAdapter(LoRAConfig.of({field: value}), tiny_base)

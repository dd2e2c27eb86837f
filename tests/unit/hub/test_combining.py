"""Composing, merging, exporting, evaluating and importing: what is refused before a job exists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import registry
from support.adapters import save_adapter
from support.models import ARCHITECTURES, save_model

from finch_hub import Hub, errors
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import ComposeSpec, EvaluateSpec, JobState


@pytest.fixture
def versions(database: Database) -> Database:
    """Two adapters of one base, of ranks 4 and 8, and one of another."""
    registry.add_version(database, "medical", metrics={"rank": 4})
    registry.add_version(database, "legal", metrics={"rank": 8})
    registry.add_version(database, "poetry", base="other")
    return database


@pytest.mark.usefixtures("versions")
class TestCompose:
    def test_weights_and_options_reach_the_job(self, hub: Hub) -> None:
        spec = hub.compose(["medical", "legal/1"], adapter="both", weights=[1, 0.5], strategy="tsv", rank=12).spec
        assert isinstance(spec, ComposeSpec)
        assert [(p.adapter, p.weight) for p in spec.parents] == [("medical", 1.0), ("legal/1", 0.5)]
        assert (spec.strategy, spec.rank, spec.resolver) == ("tsv", 12, "keep")

    def test_adapters_of_different_bases_are_refused_by_name(self, hub: Hub) -> None:
        with pytest.raises(errors.Incompatible) as raised:
            hub.compose(["medical", "poetry"], adapter="both")
        assert "medical/1: was made for tiny" in str(raised.value)
        assert "poetry/1: was made for other" in str(raised.value)
        assert hub.jobs.find() == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"weights": [1]}, "1 given for 2 adapters"),
            ({"weights": [1, float("nan")]}, "finite"),
            ({"strategy": "tvs"}, "did you mean 'tsv'"),
            ({"resolver": "kepe"}, "did you mean 'keep'"),
            ({"strategy": "ties", "parameters": {"density": 0}}, "density"),
            ({"rank": 13}, "ask for 12 at most"),
            ({"scale": 0}, "scale"),
            ({"strenght": 1}, "strenght"),
        ],
    )
    def test_what_cannot_work_is_refused(self, hub: Hub, options: dict[str, object], message: str) -> None:
        with pytest.raises((errors.InvalidInput, errors.NotFound), match=message):
            hub.compose(["medical", "legal"], adapter="both", **options)
        assert hub.jobs.find() == []

    def test_a_missing_parent_offers_the_near_names(self, hub: Hub) -> None:
        with pytest.raises(errors.NotFound, match="did you mean 'medical'"):
            hub.compose(["medicla", "legal"], adapter="both")

    def test_one_version_twice_is_refused_under_whatever_name(self, hub: Hub) -> None:
        with pytest.raises(errors.InvalidSpec, match="medical/1 is named twice"):
            hub.compose(["medical", "medical/1"], adapter="both")

    def test_several_faults_are_said_at_once(self, hub: Hub) -> None:
        with pytest.raises(errors.InvalidSpec) as raised:
            hub.compose(["medicla", "lgeal"], adapter="../x", rank=0)
        text = str(raised.value)
        assert all(part in text for part in ("'medicla'", "'lgeal'", "'../x'", "rank"))

    def test_it_may_wait_for_adapters_that_are_still_to_be_trained(self, hub: Hub, tiny_folder: Path) -> None:
        training = hub.train([("a", "b"), ("c", "d")], adapter="fresh", base=tiny_folder)
        with pytest.raises(errors.NotFound, match="fresh"):
            hub.compose(["medical", "fresh"], adapter="both")
        waiting = hub.compose(["medical", "fresh"], adapter="both", depends_on=[training.id])
        assert waiting.state is JobState.WAITING


@pytest.mark.usefixtures("versions")
class TestOthers:
    def test_merge_wants_a_free_folder_and_one_base(self, hub: Hub, tmp_path: Path) -> None:
        with pytest.raises(errors.InvalidSpec) as raised:
            hub.merge(["medical", "poetry"], tmp_path)
        assert "exists already (name another folder, or ask to replace" in str(raised.value)
        assert "was made for other" in str(raised.value)
        assert hub.merge(["medical"], tmp_path, replace=True).spec.replace  # type: ignore[union-attr]
        handle = hub.merge(["medical"], Path("relative"))
        assert Path(handle.spec.out).is_absolute()  # type: ignore[union-attr]

    def test_export_checks_format_and_adapter_together(self, hub: Hub, tmp_path: Path) -> None:
        with pytest.raises(errors.InvalidSpec) as raised:
            hub.export("medicla", tmp_path / "out", format="vlm")
        assert "did you mean 'medical'" in str(raised.value)
        assert "did you mean 'vllm'" in str(raised.value)
        with pytest.raises(errors.InvalidSpec, match="exists already"):
            hub.export("medical", tmp_path)
        assert hub.export("medical", tmp_path, parameters={"replace": True}).spec.out == str(tmp_path)  # type: ignore[union-attr]

    def test_quantize_resolves_the_version_at_submit(self, hub: Hub) -> None:
        assert hub.quantize("medical", scheme="int8").spec.adapter == "medical/1"  # type: ignore[union-attr]
        with pytest.raises(errors.InvalidSpec, match="scheme"):
            hub.quantize("medical", scheme="int3")

    def test_evaluate_takes_base_and_system_prompt_of_its_adapters(self, hub: Hub, versions: Database) -> None:
        registry.add_version(versions, "strict", spec={"system": "Be strict."})
        spec = hub.evaluate([("a", "b")], ["strict"]).spec
        assert isinstance(spec, EvaluateSpec)
        assert (spec.base.source, spec.system, spec.adapters) == ("/models/tiny", "Be strict.", ("strict/1",))
        mixed = hub.evaluate([("a", "b")], ["strict", "medical"]).spec
        assert isinstance(mixed, EvaluateSpec)
        assert mixed.system is None
        with pytest.raises(errors.InvalidSpec, match="neither a base nor an adapter"):
            hub.evaluate([("a", "b")])
        with pytest.raises(errors.NotFound, match="did you mean 'exact_answer'"):
            hub.evaluate([("a", "b")], ["strict"], evaluator="exact_anser")

    def test_deleting_wants_one_version(self, hub: Hub) -> None:
        with pytest.raises(errors.InvalidReference, match="name/3"):
            hub.adapters.delete("medical")
        assert hub.adapters.delete("medical/1").deleted_at is not None
        with pytest.raises(errors.NotFound):
            hub.adapters.get("medical")


class TestImport:
    def test_an_adapter_made_by_peft_comes_in_and_can_be_fetched(
        self, hub: Hub, tiny_folder: Path, tmp_path: Path
    ) -> None:
        hub.bases.add(tiny_folder, name="tiny")
        made = save_adapter(tiny_folder, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
        version = hub.import_adapter(made, name="guest", base="tiny")
        assert (version.reference, version.kind, version.state) == ("guest/1", "import", "ready")
        assert (hub.adapters.folder("guest") / "adapter_model.safetensors").is_file()
        model = hub.generator(adapters=["guest"])
        assert model.adapters == ("guest",)
        assert model.active is None

    def test_an_adapter_is_not_used_on_another_base_that_it_would_fit(
        self, hub: Hub, tiny_folder: Path, tmp_path: Path
    ) -> None:
        twin = save_model(ARCHITECTURES[0], tmp_path / "twin", seed=1)
        for folder, name in ((tiny_folder, "tiny"), (twin, "twin")):
            hub.bases.add(folder, name=name)
        made = save_adapter(tiny_folder, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj"])
        hub.import_adapter(made, name="guest", base="tiny")
        with pytest.raises(errors.InvalidSpec, match="guest/1: was made for tiny, not for twin"):
            hub.generator("twin", ["guest"])
        with pytest.raises(errors.InvalidSpec, match="was made for tiny"):
            hub.evaluate([("a", "b")], ["guest"], base="twin")

    def test_what_no_sum_of_updates_carries_is_refused_before_there_is_a_job(
        self, hub: Hub, tiny_folder: Path, tmp_path: Path
    ) -> None:
        hub.bases.add(tiny_folder, name="tiny")
        for name, more in (("plain", {}), ("dora", {"use_dora": True}), ("biased", {"bias": "lora_only"})):
            made = save_adapter(tiny_folder, tmp_path / name, r=4, lora_alpha=8, target_modules=["q_proj"], **more)
            hub.import_adapter(made, name=name, base="tiny")
        with pytest.raises(errors.Incompatible) as raised:
            hub.compose(["plain", "dora", "biased"], adapter="all")
        text = str(raised.value)
        assert "dora/1: has DoRA magnitudes" in text
        assert "biased/1: trained biases" in text
        assert "plain" not in text
        assert hub.jobs.find() == []

    def test_one_for_another_base_is_refused(self, hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
        other = save_model(ARCHITECTURES[3], tmp_path / "other", layers=3)
        hub.bases.add(tiny_folder, name="tiny")
        made = save_adapter(other, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
        with pytest.raises(errors.Incompatible, match="tiny"):
            hub.import_adapter(made, name="guest", base="tiny")
        assert hub.adapters.find() == []

    def test_a_pickle_is_refused_and_nothing_is_left(self, hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
        hub.bases.add(tiny_folder, name="tiny")
        made = save_adapter(tiny_folder, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj"])
        shutil.move(made / "adapter_model.safetensors", made / "adapter_model.bin")
        with pytest.raises(errors.RefusedArtifact):
            hub.import_adapter(made, name="guest", base="tiny")
        assert hub.adapters.find() == []
        assert not list(hub.settings.home.glob("import-*"))

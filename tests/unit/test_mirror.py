"""Each module has a test file at its own path, or a place in the table below."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "finch_hub"

# Modules without a test file of their own, and the test file that exercises each. A folder stands for its modules.
EXERCISED_IN = {
    "artifacts/bundle_file": "unit/storage/test_unbundling.py",
    "artifacts/bundle_manifest": "unit/storage/test_unbundling.py",
    "artifacts/cards/drawing": "unit/artifacts/cards/test_retention_matrix.py",
    "artifacts/files": "contract/test_artifact_store.py",
    "artifacts/manifests": "contract/test_artifact_store.py",
    "cli/evaluate": "unit/cli/test_jobs.py",
    "cli/export": "unit/cli/test_jobs.py",
    "cli/following": "unit/cli/test_main.py",
    "cli/output": "unit/cli/test_main.py",
    "cli/paging": "unit/cli/test_adapters.py",
    "cli/quantize": "unit/cli/test_jobs.py",
    "cli/completion_script": "unit/cli/test_completion.py",
    "cli/sampling": "unit/cli/test_compare.py",
    "engine/bases/tokenizer": "unit/engine/data/test_preview.py",
    "engine/bases/layout_builder": "unit/engine/bases/test_module_layout.py",
    "engine/bases/json_cache": "unit/engine/bases/test_fingerprint.py",
    "engine/composition/basis": "unit/engine/composition/test_core_space.py",
    "engine/composition/factors": "unit/engine/composition/test_compose.py",
    "engine/composition/interference": "unit/engine/composition/test_compose.py",
    "engine/composition/parent_data": "unit/engine/composition/test_compose.py",
    "engine/composition/point": "unit/engine/composition/test_search.py",
    "engine/composition/trial": "unit/engine/composition/test_search.py",
    "engine/composition/truncation": "unit/engine/composition/test_core_space.py",
    "engine/data/data_folders": "unit/engine/data/test_reading.py",
    "engine/data/frame": "unit/engine/data/test_rendered.py",
    "engine/data/length_limit": "unit/engine/data/test_tokenizing.py",
    "engine/data/markers": "unit/engine/data/test_rendered.py",
    "engine/data/report": "unit/engine/training/test_loop.py",
    "engine/data/row": "unit/engine/data/test_json_rows.py",
    "engine/data/row_collector": "unit/engine/data/test_reading.py",
    "engine/data/row_problems": "unit/engine/data/test_reading.py",
    "engine/data/tools": "unit/engine/data/test_turns.py",
    "engine/data/template_changes": "unit/engine/data/test_rendered.py",
    "engine/data/turn_finder": "unit/engine/data/test_rendered.py",
    "engine/decoder/attention_layout": "unit/engine/decoder/test_attention.py",
    "engine/decoder/body": "unit/engine/decoder/test_forward_check.py",
    "engine/decoder/packed_layer": "unit/engine/decoder/test_packed.py",
    "engine/decoder/padded": "unit/engine/decoder/test_decoder.py",
    "engine/export/merge_plan": "unit/engine/export/test_merging.py",
    "engine/export/parameters": "unit/engine/export/test_ollama.py",
    "engine/export/shard_writer": "unit/engine/export/test_merging.py",
    "engine/forgetting/general_prompts": "unit/engine/forgetting/test_divergence.py",
    "engine/training/duration": "unit/engine/training/test_data.py",
    "engine/training/environment": "acceptance/test_reproduction.py",
    "engine/training/interruption": "unit/engine/training/test_loop.py",
    "formats/card_files": "unit/storage/test_cards.py",
    "formats/vllm_limits": "unit/engine/export/test_vllm.py",
    "formats/base_layout": "unit/engine/bases/test_module_layout.py",
    "formats/safetensors_file": "unit/formats/test_model_files.py",
    "hub/pulling": "unit/hub/test_repositories.py",
    "hub/training_request": "unit/hub/test_typed_options.py",
    "hub/pushing": "unit/hub/test_repositories.py",
    "hub/submission": "integration/registry/test_submissions.py",
    "hub/waiting": "unit/cli/test_jobs.py",
    "hub/workers": "acceptance/test_embedded.py",
    "plugins/builtin": "contract/test_builtin_offers.py",
    "plugins/first_load_process": "unit/plugins/test_first_load.py",
    "plugins/hooks": "contract/test_sample_plugin.py",
    "plugins/presets": "contract/test_builtin_offers.py",
    "plugins/resolvers": "unit/plugins/resolvers/test_resolvers.py",
    "plugins/strategies": "unit/plugins/strategies/test_strategies.py",
    "registry/artifact_lock": "unit/storage/test_collection.py",
    "registry/artifact_references": "unit/storage/test_backup.py",
    "registry/bundled_versions": "unit/storage/test_unbundling.py",
    "registry/registry_file": "unit/storage/test_backup_folder.py",
    "registry/schema_revisions": "integration/registry/test_migrations.py",
    "registry/tables": "integration/registry/test_migrations.py",
    "registry/transitions": "integration/registry/test_protocol.py",
    "registry/unbundled_versions": "unit/storage/test_unbundling.py",
    "registry/values": "unit/registry/test_jobs.py",
    "registry/version_filters": "unit/registry/test_version_search.py",
    "registry/version_loading": "unit/registry/test_adapter_versions.py",
    "specs/backups": "unit/storage/test_backup.py",
    "specs/comparisons": "unit/hub/test_comparing.py",
    "specs/sweeps": "unit/hub/test_sweep_ranking.py",
    "specs/bundles": "unit/storage/test_unbundling.py",
    "specs/collections": "unit/storage/test_collection.py",
    "hub/importing": "unit/hub/test_adapters.py",
    "specs/inspections": "unit/storage/test_inspection.py",
    "display/charts/bars": "unit/display/charts/test_data.py",
    "display/charts/matrix": "unit/display/charts/test_retention.py",
    "display/inspections": "unit/cli/test_fsck.py",
    "registry/consistency": "unit/storage/test_inspection.py",
    "specs/evaluation": "unit/engine/inference/test_evaluators.py",
    "specs/events": "unit/registry/test_jobs.py",
    "specs/generation": "unit/engine/inference/test_generator.py",
    "specs/outputs": "unit/storage/test_outputs.py",
    "specs/previews": "unit/hub/test_previewing.py",
    "specs/reports": "unit/display/test_reports.py",
    "specs/training": "unit/engine/training/test_loop.py",
    "storage/bundling": "unit/storage/test_unbundling.py",
    "storage/unreferenced": "unit/storage/test_collection.py",
    "registry/text_removal": "unit/storage/test_purging.py",
    "storage/log_texts": "unit/storage/test_row_texts.py",
    "storage/stores": "acceptance/test_embedded.py",
    "testing": "contract/test_sample_plugin.py",
    "texts/likely_secrets": "unit/texts/test_secret_shapes.py",
    "texts/named_secrets": "unit/texts/test_secret_shapes.py",
    "texts/secret_logins": "unit/texts/test_secret_shapes.py",
    "texts/secret_tokens": "unit/texts/test_secret_shapes.py",
    "workers/embedded/home": "acceptance/test_embedded.py",
    "workers/messaging/broker": "faults/test_broker.py",
    "workers/messaging/consumer": "faults/test_broker.py",
    "workers/metrics/deployment": "unit/workers/metrics/test_exporter.py",
    "workers/runs/compose": "acceptance/test_reproduction.py",
    "workers/runs/inputs": "faults/test_training.py",
    "workers/runs/job_kind": "unit/workers/runs/test_kinds.py",
    "workers/runs/merge": "docs/test_pages.py",
    "workers/runs/outputs": "integration/workers/test_machines.py",
    "workers/runs/quantize": "acceptance/test_reproduction.py",
    "workers/runs/reproduce": "acceptance/test_reproduction.py",
    "workers/supervision/attempt_context": "unit/workers/supervision/test_attempt.py",
    "workers/supervision/clock": "faults/test_clocks.py",
    "workers/supervision/instruments": "unit/workers/metrics/test_exporter.py",
    "workers/supervision/fault_points": "faults/test_commits.py",
}
# Test files of more than one module, or of none.
OTHERS = {
    "cli/test_repeated_commands",
    "engine/test_public_names",
    "engine/test_state_of_the_caller",
    "hub/test_typed_options",
    "plugins/resolvers/test_resolvers",
    "plugins/strategies/test_strategies",
    "plugins/test_peft_oracle",
    "plugins/test_resolved_strategies",
    "registry/test_column_limits",
    "test_architecture",
    "test_ci",
    "test_containers",
    "test_environment",
    "test_fuzz",
    "test_isolation",
    "test_locks",
    "test_machine",
    "test_messages",
    "test_mirror",
    "test_package",
    "test_spelling",
    "cli/test_widths",  # all lists
}
MODULES = {
    str(file.relative_to(PACKAGE).with_suffix(""))
    for file in PACKAGE.rglob("*.py")
    if file.stem not in ("__init__", "__main__")
}
TEST_FILES = {str(file.relative_to(TESTS / "unit").with_suffix("")) for file in (TESTS / "unit").rglob("test_*.py")}


def mirror_of(module: str) -> str:
    folder, _, name = module.rpartition("/")
    return f"{folder}/test_{name}" if folder else f"test_{name}"


def is_in_table(module: str) -> bool:
    return module in EXERCISED_IN or module.rpartition("/")[0] in EXERCISED_IN


def test_each_module_has_a_test_file_or_a_place_in_the_table() -> None:
    missing = {module for module in MODULES if mirror_of(module) not in TEST_FILES and not is_in_table(module)}
    assert sorted(missing) == []


def test_each_test_file_has_its_module() -> None:
    homeless = TEST_FILES - OTHERS - {mirror_of(module) for module in MODULES}
    assert sorted(homeless) == []
    assert sorted(OTHERS - TEST_FILES) == []


@pytest.mark.parametrize("module", EXERCISED_IN)
def test_the_table_is_current(module: str) -> None:
    assert module in MODULES or (PACKAGE / module).is_dir(), "there is no such module"
    assert mirror_of(module) not in TEST_FILES, "the module has a test file of its own"
    assert (TESTS / EXERCISED_IN[module]).is_file(), "there is no such test file"

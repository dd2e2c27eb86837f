"""A third-party plugin that pip installs: it is found by its entry point, and every hook is used."""

import inspect
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.adapters import VARIANTS, save_adapter

from finch_hub import Hub, errors, settings, testing
from finch_hub.hub.bases import Bases
from finch_hub.plugins import hooks
from finch_hub.plugins.catalog import Catalog, load_catalog
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import BaseModelSource, Job, JobState
from finch_hub.specs.reading import DataWarning

SOURCE = Path(__file__).parents[1] / "sample_plugin"
HOOKS = [name for name, _ in inspect.getmembers(hooks, inspect.isfunction) if name.startswith("finch_")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package into a separate folder, without network access or dependencies."""
    copy = shutil.copytree(SOURCE, tmp_path_factory.mktemp("source") / "sample_plugin")  # the build writes files there
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*pip, *options, str(copy)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def catalog(installed: Path) -> Iterator[Catalog]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(installed)
        yield load_catalog()


def test_plugin_is_found_by_its_entry_point(catalog: Catalog) -> None:
    assert [problem for problem in catalog.problems if "finch-sample" in problem.where] == []
    assert ("finch-sample", "1.2.3") in [(plugin.name, plugin.version) for plugin in catalog.plugins]
    offered = {name for kind in catalog.all_offers() for name in kind if kind.plugin_of(name) == "finch-sample"}
    assert offered == {"support", "strongest", "level", "faq", "archive", "table", "brevity", "journal"}


def test_sample_and_built_in_plugin_use_every_hook(catalog: Catalog) -> None:
    import finch_sample.plugin

    from finch_hub.plugins import builtin

    assert len(HOOKS) == len(catalog.all_offers())
    for hook in HOOKS:
        # A listener of the built-in plugin would cost every hub writes.
        for plugin in (finch_sample.plugin,) if hook == "finch_listeners" else (builtin, finch_sample.plugin):
            assert getattr(plugin, hook)(), f"{plugin.__name__} offers nothing by {hook}"


def test_plugin_passes_the_checks_for_authors(catalog: Catalog) -> None:
    import finch_sample.plugin

    testing.check_plugin(finch_sample.plugin)
    testing.check_strategy(catalog.strategies["strongest"])
    testing.check_resolver(catalog.resolvers["level"])
    testing.check_resolver(catalog.resolvers["level"], {"strength": 0.5})
    example = testing.check_dataset_format(catalog.dataset_formats["faq"], {"question": "Why?", "answers": ["So."]})
    assert example == Example.of_pair("Why?", "So.")


def test_listing_the_plugin_imports_no_kernels(installed: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "from finch_hub.plugins.catalog import load_catalog\n"
        "catalog = load_catalog()\n"
        "catalog.resolvers['level'].parse({'strength': 0.5})\n"
        "print(sorted(name for name in sys.modules if name == 'torch' or name.startswith('finch_sample')))"
    )
    loaded = subprocess.check_output([sys.executable, "-c", script], text=True).strip()
    assert loaded == str(["finch_sample", "finch_sample.parameters", "finch_sample.plugin"])


def test_strategy_and_resolver_equal_dense_arithmetic(catalog: Catalog) -> None:
    import numpy as np

    strategy, resolver = catalog.strategies["strongest"], catalog.resolvers["level"]
    core = testing.example_core_space()
    merged = strategy.load()(core, (1.0, -2.0, 0.5), strategy.parse({}), seed=0)
    cores = np.stack([w * matrix.numpy() for w, matrix in zip((1.0, -2.0, 0.5), core.modules["a"].cores, strict=True)])
    expected = np.take_along_axis(cores, np.abs(cores).argmax(0)[None], axis=0)[0]
    np.testing.assert_array_equal(merged["a"].numpy(), expected)
    leveled = resolver.load()(core, resolver.parse({}))
    norms = [np.linalg.norm(matrix.numpy()) for matrix in leveled.modules["a"].cores]
    before = [np.linalg.norm(matrix.numpy()) for matrix in core.modules["a"].cores]
    np.testing.assert_allclose(norms, np.mean(before))
    np.testing.assert_array_equal(leveled.modules["alone"].cores[1], core.modules["alone"].cores[1])


def test_dataset_format_is_recognized_by_its_fields(catalog: Catalog, tmp_path: Path) -> None:
    from finch_hub.engine.data import reading, row_formats

    known = [
        row_formats.RowFormat(name, descriptor.recognizes, descriptor.load(), descriptor.plugin)
        for name, descriptor in catalog.dataset_formats.items()
    ]
    (tmp_path / "data.jsonl").write_text(json.dumps({"question": "Why?", "answers": ["So."]}) + "\n")
    with pytest.warns(DataWarning, match=r"1 row read in the format faq of plugin finch-sample 1\.2\.3"):
        assert reading.read_examples(tmp_path / "data.jsonl", formats=known) == (Example.of_pair("Why?", "So."),)


def test_base_source_fetches_once(catalog: Catalog, tiny_folder: Path, tmp_path: Path) -> None:
    from finch_hub.formats.model_files import read_shapes

    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in tiny_folder.iterdir():
            opened.write(file, file.name)
    source = BaseModelSource(source=f"archive:{archive}")
    messages: list[str] = []
    fetch = catalog.base_source_of(source.source).load()
    folder = fetch(source, cache=tmp_path / "cache", progress=messages.append)
    assert fetch(source, cache=tmp_path / "cache", progress=messages.append) == folder
    assert messages == ["unpacking model.zip"]
    assert read_shapes(folder) == read_shapes(tiny_folder)


def test_base_source_and_row_format_reach_the_hub(
    catalog: Catalog, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registering, training, generating and planning all fetch the base by the plugin's source."""
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("model.zip", "w") as archive:
        for file in tiny_folder.iterdir():
            archive.write(file, file.name)
    rows = [json.dumps({"question": f"Why {n}?", "answers": [f"So {n}."]}) for n in range(8)]
    Path("faq.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with Hub(settings.load(home=tmp_path / "home")) as hub:
        source, folder = Bases(hub._stores).resolve("archive:model.zip")
        assert (source.source, folder) == ("archive:model.zip", None)
        with pytest.raises(errors.NotFound, match=r"no base 'achive:model\.zip'"):
            Bases(hub._stores).resolve("achive:model.zip")
        base = hub.bases.add("archive:model.zip", name="tiny")
        assert hub.datasets.add("faq.jsonl", format="faq").examples == 8
        for seed, name in enumerate(("first", "second")):
            made = save_adapter(tiny_folder, tmp_path / name, seed=seed, r=4, lora_alpha=8, target_modules=["q_proj"])
            hub.import_adapter(made, name=name, base="tiny")
        shutil.rmtree(base.path or "")  # so that it has to be fetched again
        model = hub.generator(adapters=["first"])
        assert (model.base.name, model.base.folder) == ("archive:model.zip", Path(base.path or ""))
        assert hub.plan(["first", "second"], probe=True).parents == ("first/1", "second/1")


def test_export_format_writes_a_table(catalog: Catalog, tiny_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["patterns"])
    export = catalog.export_formats["table"]
    report = export.load()(adapter, None, tmp_path / "out", export.parse({"separator": ";"}))
    header, *lines = (tmp_path / "out" / "modules.csv").read_text().splitlines()
    assert header == "module;rank;scale"
    assert len(lines) == report["modules"] == 8
    assert "model.layers.1.self_attn.v_proj;7;" in "\n".join(lines)


def test_evaluator_counts_words(catalog: Catalog, tiny_folder: Path) -> None:
    from finch_hub.engine.inference.generator import GeneratorModel

    evaluator = catalog.evaluators["brevity"]
    examples = [
        Example.of_pair("What does a finch eat?", "Seeds."),
        Example.of_pair("Where does it live?", "In woods."),
    ]
    measured = evaluator.load()(GeneratorModel(tiny_folder), examples, evaluator.parse({}))
    assert measured["examples"] == 2
    assert measured["words"] > 0


def test_listener_receives_every_state(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "journal"
    monkeypatch.setenv("FINCH_SAMPLE_JOURNAL", str(journal))
    job = Job(
        id="j1",
        kind="evaluate",
        state=JobState.QUEUED,
        spec={"base": {"source": "base"}, "dataset": "0" * 64},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    listen = catalog.listeners["journal"].load()
    for state in (JobState.QUEUED, JobState.RUNNING):
        listen(job.evolve(state=state))
    assert journal.read_text() == "j1 queued\nj1 running\n"

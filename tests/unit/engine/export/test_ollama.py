from __future__ import annotations

from pathlib import Path

import gguf as gguf_package
import pytest
from support.adapters import VARIANTS, save_adapter

from finch_hub import errors
from finch_hub.engine.export import gguf, ollama
from finch_hub.engine.export.parameters import GGUFParameters, OllamaParameters


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tiny_folder, tmp_path_factory.mktemp("adapter") / "finches", **VARIANTS["plain"])


def test_ollama_export_holds_the_gguf_export(tiny_folders: Path, tmp_path: Path) -> None:
    made = save_adapter(tiny_folders, tmp_path / "made", **VARIANTS["patterns"])
    ollama.export_ollama(made, tiny_folders, tmp_path / "ollama", OllamaParameters())
    gguf.export_gguf(made, tiny_folders, tmp_path / "gguf", GGUFParameters())
    ours, theirs = (
        {tensor.name: tensor.data for tensor in gguf_package.GGUFReader(next(folder.glob("*.gguf"))).tensors}
        for folder in (tmp_path / "ollama", tmp_path / "gguf")
    )
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_ollama_export_has_a_modelfile(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    parameters = OllamaParameters(base_model="finch:135m", system="You know birds.\nBe brief.")
    report = ollama.export_ollama(adapter, tiny_folder, tmp_path / "out", parameters)
    text = 'FROM finch:135m\nADAPTER ./adapter.gguf\nSYSTEM """You know birds.\nBe brief."""\n'
    assert (tmp_path / "out/Modelfile").read_text() == text
    assert report["create"] == f"ollama create finches -f {tmp_path / 'out/Modelfile'}"
    alpha = gguf_package.GGUFReader(tmp_path / "out/adapter.gguf").get_field("adapter.lora.alpha").contents()
    assert alpha == int(alpha)
    ollama.export_ollama(adapter, tiny_folder, tmp_path / "here", OllamaParameters())
    assert (tmp_path / "here/Modelfile").read_text() == f"FROM {tiny_folder}\nADAPTER ./adapter.gguf\n"


@pytest.mark.parametrize(
    "fields",
    [
        {"base_model": "finch\nADAPTER /etc/passwd"},
        {"base_model": "finch\x9b2J\u202e"},
        {"system": 'You """ know'},
        {"system": 'You "\x1b"" know'},
    ],
)
def test_parameters_that_would_break_the_modelfile_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(errors.InvalidSpec):
        OllamaParameters(**fields)


def test_modelfile_has_of_a_system_prompt_what_ollama_reads(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    parameters = OllamaParameters(base_model="finch:135m", system="Say\x1b[2J \u202eTweet\x9b.\r\nپرسش 🐦\rBye\t!")
    ollama.export_ollama(adapter, tiny_folder, tmp_path / "out", parameters)
    assert 'SYSTEM """Say[2J Tweet.\nپرسش 🐦\nBye\t!"""' in (tmp_path / "out/Modelfile").read_text(encoding="utf-8")


def test_path_of_a_base_becomes_no_instruction(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "tiny\nSYSTEM forged"
    base.symlink_to(tiny_folder)
    with pytest.raises(errors.Incompatible, match=r"tiny\\nSYSTEM forged: has characters that a Modelfile cannot hold"):
        ollama.export_ollama(adapter, base, tmp_path / "out", OllamaParameters())
    assert not (tmp_path / "out").exists()

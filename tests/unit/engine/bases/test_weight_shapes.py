"""Dimensions from the configuration and the headers of weight files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.families import FAMILIES, Family, make_model, save_family

from finch_hub.engine.bases import weight_shapes
from finch_hub.engine.bases.layout_builder import describe_model


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_dimensions_are_those_of_the_model(family: Family, tmp_path: Path) -> None:
    model = make_model(family)
    shape = weight_shapes.read_base_shape(save_family(family, tmp_path), describe_model(model, name=""))
    assert shape is not None
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.hidden, shape.heads, shape.layers) == (
        64,
        4,
        len(model.get_decoder().layers if family.plain else "ab"),
    )
    assert shape.vocabulary == model.get_output_embeddings().weight.shape[0]


def test_weights_that_transformers_does_not_load_are_not_counted(tiny_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    shutil.copyfile(copy / "model.safetensors", copy / "consolidated.safetensors")
    (copy / "ema.safetensors").write_bytes(b"damaged")
    assert weight_shapes.count_parameters(copy) == weight_shapes.count_parameters(tiny_folder)


def test_a_folder_without_its_dimensions_has_no_shape(tiny_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    layout = describe_model(make_model(FAMILIES[0]), name="")
    (copy / "config.json").write_text("{}")
    assert weight_shapes.read_base_shape(copy, layout) is None

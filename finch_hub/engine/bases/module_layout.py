"""Modules of a base as transformers builds them, without its weights."""

from __future__ import annotations

from pathlib import Path

from finch_hub import errors
from finch_hub.formats.base_layout import BaseLayout


def read_layout(folder: Path, *, name: str) -> BaseLayout:
    """Return the modules of the base in a folder.

    The names of a checkpoint do not tell them: experts are stored one by one and fused in memory, a model without its
    head is stored without the prefix of its layers, and a tied head is not stored. So the model is built, on torch's
    device without memory.

    Args:
        name: name of the base in errors.

    Raises:
        Incompatible: transformers cannot build the model.
    """
    import torch
    import transformers
    from transformers.pytorch_utils import Conv1D

    from finch_hub.engine.bases.transformers_logging import quiet_transformers

    try:
        with quiet_transformers(), torch.device("meta"):
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, OSError, RuntimeError, KeyError, ImportError, AttributeError) as error:
        text = (str(error).strip() or repr(error)).splitlines()[0]
        raise errors.Incompatible(f"transformers cannot build it: {text}", subject=f"base model {name}") from error
    linear: dict[str, tuple[int, int]] = {}
    embeddings: dict[str, tuple[int, int]] = {}
    transposed = set()
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            linear[path] = (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):
            linear[path] = (module.weight.shape[1], module.weight.shape[0])
            transposed.add(path)
        elif isinstance(module, torch.nn.Embedding):
            embeddings[path] = (module.num_embeddings, module.embedding_dim)
    return BaseLayout(
        name=name,
        linear=linear,
        transposed=frozenset(transposed),
        embeddings=embeddings,
        parameters={key: tuple(tensor.shape) for key, tensor in model.state_dict().items()},
        folder=folder,
    )

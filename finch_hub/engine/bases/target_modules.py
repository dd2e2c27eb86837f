"""Which linear modules of a base an adapter acts on. Free of torch, so that a wrong name is refused at submit."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from finch_hub import errors
from finch_hub.specs.lora import LoRAConfig

# Matrices that are no linear module: looked up by token or position, or tied to one that is.
_EMBEDDINGS = frozenset({"embed_tokens", "embed_positions", "embed_in", "embed_out", "wte", "wpe", "lm_head"})
_BLOCKS = {
    "attention": re.compile(r"(^|\.)(self_attn|self_attention|attention|attn)\."),
    "mlp": re.compile(r"(^|\.)(mlp|feed_forward|ffn)\."),
}
SHORT_NAMES = ("all-linear", *_BLOCKS)
_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")  # as PEFT: the first number in the path is the layer's


def linear_modules(folder: Path) -> dict[str, tuple[int, int]]:
    """Return path and shape (out, in) of every linear module, read from the headers of the weight files.

    Embeddings and the language-model head are left out: adapters do not act on them.
    """
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in _shapes(folder)
        if name.endswith(".weight") and len(shape) == 2 and not is_embedding(name.removesuffix(".weight"))
    }


def parameter_count(folder: Path) -> int:
    """Return the number of parameters in the weight files; tied ones are stored, and count, once."""
    return sum(math.prod(shape) for _, shape in _shapes(folder))


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    for shard in sorted(folder.glob("*.safetensors")):
        with shard.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        yield from ((name, tensor["shape"]) for name, tensor in header.items())


def is_embedding(path: str) -> bool:
    """Tell whether the module looks tokens up, or is the language-model head."""
    return path.rsplit(".", 1)[-1] in _EMBEDDINGS


def match(config: LoRAConfig, modules: Iterable[str]) -> tuple[str, ...]:
    """Return the paths of the modules that the configuration names, in the order given.

    Raises:
        InvalidSpec: with each name, pattern or layer that matches nothing, and names that resemble it.

    """
    paths = [path for path in modules if not is_embedding(path)]
    names = {path.rsplit(".", 1)[-1] for path in paths}
    problems: list[errors.Problem] = []
    chosen = _named(config.target_modules, paths, names, problems)
    excluded = {path for name in config.exclude_modules for path in paths if _ends(path, name)}
    problems += [
        _unknown(name, "exclude_modules", names)
        for name in config.exclude_modules
        if not any(_ends(path, name) for path in paths)
    ]
    if config.layers_to_transform is not None:
        layers = {layer_of(path) for path in paths} - {None}
        problems += [
            errors.Problem(
                what=f"there is no layer {layer}",
                where="layers_to_transform",
                fix=f"the base has layers 0 to {len(layers) - 1}",
            )
            for layer in config.layers_to_transform
            if layer not in layers
        ]
        named, chosen = chosen, {path for path in chosen if layer_of(path) in config.layers_to_transform}
        if named and not chosen and not problems:
            what = "no module that is named stands in these layers"
            problems.append(errors.Problem(what=what, where="layers_to_transform", fix="leave it out, or name others"))
    targets = tuple(path for path in paths if path in chosen and path not in excluded)
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, field):
            if not _is_pattern(pattern):
                problems.append(errors.Problem(what=f"{pattern!r} is no regular expression", where=field))
            elif not any(_pattern_matches(pattern, path) for path in targets):
                problems.append(_unknown(pattern, field, names, what="matches no adapted module"))
    if not targets and not problems:
        problems.append(errors.Problem(what="every module that is named is also excluded", where="exclude_modules"))
    if problems:
        raise errors.InvalidSpec(problems, subject="modules of the adapter")
    return targets


def peft_targets(config: LoRAConfig, modules: Iterable[str]) -> list[str] | str:
    """Return what PEFT's `target_modules` must say to adapt the same modules.

    Short names become the names of the modules they stand for. A regular expression stays one, but where layers are
    picked as well, which PEFT allows with names only: then it is the full paths.
    """
    paths = [path for path in modules if not is_embedding(path)]
    if isinstance(config.target_modules, tuple):
        return sorted(set(config.target_modules))
    if config.target_modules in SHORT_NAMES:
        named = _named(config.target_modules, paths, set(), [])
        names = {path.rsplit(".", 1)[-1] for path in named}
        # Where another block has modules of the same names, only full paths say which ones are meant.
        return sorted(names if named == {path for path in paths if path.rsplit(".", 1)[-1] in names} else named)
    return config.target_modules if config.layers_to_transform is None else sorted(match(config, paths))


def peft_layers(config: LoRAConfig) -> list[int] | None:
    """Return what PEFT's `layers_to_transform` must say beside :func:`peft_targets`."""
    pattern = isinstance(config.target_modules, str) and config.target_modules not in SHORT_NAMES
    return None if pattern or config.layers_to_transform is None else list(config.layers_to_transform)


def rank_of(config: LoRAConfig, path: str) -> int:
    """Return the rank of A and B at this module; "auto" has none yet and counts as the usual 16."""
    rank = config.rank if isinstance(config.rank, int) else 16
    return next((value for key, value in config.rank_pattern.items() if _pattern_matches(key, path)), rank)


def adapter_parameters(config: LoRAConfig, shapes: Mapping[str, tuple[int, int]]) -> int:
    """Return the number of trained parameters on modules of these shapes (out, in).

    Raises:
        InvalidSpec: as from :func:`match`.

    """
    total = 0
    for path in match(config, shapes):
        out_features, in_features = shapes[path]
        total += rank_of(config, path) * (out_features + in_features) + (out_features if config.use_dora else 0)
    return total


def layer_of(path: str) -> int | None:
    """Return the index of the decoder layer that the module stands in, None outside of the layers."""
    found = _LAYER.match(path)
    return int(found[1]) if found else None


def _named(
    wanted: tuple[str, ...] | str, paths: list[str], names: set[str], problems: list[errors.Problem]
) -> set[str]:
    if wanted == "all-linear":
        return set(paths)
    if wanted in _BLOCKS:
        block = _BLOCKS[wanted]
        chosen = {path for path in paths if block.search(path)}
        if not chosen:
            problems.append(_unknown(wanted, "target_modules", names, what="has no modules in this architecture"))
        return chosen
    if isinstance(wanted, str):
        if not _is_pattern(wanted):
            problems.append(errors.Problem(what=f"{wanted!r} is no regular expression", where="target_modules"))
            return set()
        chosen = {path for path in paths if re.fullmatch(wanted, path)}
        if not chosen:
            problems.append(_unknown(wanted, "target_modules", names, what="matches no whole module path"))
        return chosen
    chosen = set()
    for name in wanted:
        matching = {path for path in paths if _ends(path, name)}
        if not matching:
            what = (
                "is the embedding or head, which adapters do not act on"
                if is_embedding(name)
                else "names no linear module"
            )
            problems.append(_unknown(name, "target_modules", names, what=what))
        chosen |= matching
    return chosen


def _unknown(name: str, field: str, names: set[str], *, what: str = "names no linear module") -> errors.Problem:
    near = errors.near(name, names | set(SHORT_NAMES)) or tuple(sorted(names))
    return errors.Problem(what=f"{name!r} {what}", where=field, fix=f"did you mean {', '.join(near)}?")


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _pattern_matches(pattern: str, path: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", path) is not None  # as PEFT reads rank_pattern and alpha_pattern

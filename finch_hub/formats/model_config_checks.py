"""Fields of a model's `config.json` and `tokenizer_config.json` that would make transformers fetch or run code.

`auto_map` and `trust_remote_code` are left alone, since transformers reads them only if its caller trusts the code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finch_hub import errors

_MAX_DEPTH = 64
_IMPLEMENTATION = ("implementation", "implementation_internal")  # ends of the names of fields that choose code
# A name with a slash is a repository whose kernels are fetched and run. What transformers itself has is listed.
_IMPLEMENTATIONS = frozenset({
    None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention",  # of attention
    "batched_mm", "grouped_mm",  # of experts
    "dynamic", "dynamic_full", "hybrid", "offloaded", "offloaded_static", "sliding_window", "static",  # of caches
})  # fmt: skip
# Their layers come with libraries of Python. For others, transformers fetches kernels, or they are unknown.
_QUANTIZATIONS = frozenset({"awq", "bitsandbytes", "compressed-tensors", "gptq"})


def find_unsafe_fields(config: Mapping[str, Any]) -> Iterator[errors.Problem]:
    """Yield the problems of a config's fields that choose code, at any depth, and of nesting that is too deep."""
    parts: list[tuple[str, Any, int]] = [("", config, 0)]
    while parts:
        place, value, depth = parts.pop()
        if isinstance(value, (Mapping, list)) and depth > _MAX_DEPTH:
            yield errors.Problem(where=place.split(".")[0][:60], what=f"is nested more than {_MAX_DEPTH} deep")
            return
        if isinstance(value, list):
            parts += [(place, item, depth + 1) for item in value]
        elif isinstance(value, Mapping):
            for name, field in value.items():
                inner = f"{place}.{name}" if place else str(name)
                if name == "quantization_config":
                    yield from _check_quantization(inner, field)
                elif str(name).endswith(_IMPLEMENTATION):
                    yield from _check_implementation(inner, field)
                else:
                    parts.append((inner, field, depth + 1))


def find_unsafe_tokenizer_fields(config: Mapping[str, Any]) -> Iterator[errors.Problem]:
    """Yield the problem of a tokenizer's config that names another file than `tokenizer.json`."""
    files = config.get("fast_tokenizer_files")
    if files not in (None, [], ["tokenizer.json"]):
        what = f"is {errors.shorten(repr(files))}, but only tokenizer.json is read"
        yield errors.Problem(where="fast_tokenizer_files", what=what, fix="delete this field")


def _check_implementation(place: str, value: Any) -> Iterator[errors.Problem]:
    for choice in value.values() if isinstance(value, Mapping) else [value]:
        if not isinstance(choice, str | None) or choice not in _IMPLEMENTATIONS:
            what = f"is {errors.shorten(repr(choice))}, which is not a part of transformers, and is never fetched"
            yield errors.Problem(where=place[:60], what=what, fix="delete this field")


def _check_quantization(place: str, value: Any) -> Iterator[errors.Problem]:
    if value is None or value == {}:
        return
    if not isinstance(value, Mapping):
        yield errors.Problem(where=place[:60], what="is not a table")
        return
    method = value.get("quant_method", "bitsandbytes")  # which transformers assumes for old configs
    if not isinstance(method, str) or method not in _QUANTIZATIONS:
        what = f"has the method {errors.shorten(repr(method))}, not {', '.join(sorted(_QUANTIZATIONS))}"
        yield errors.Problem(where=place[:60], what=what, fix="use the unquantized model")

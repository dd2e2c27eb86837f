"""Base models: found, fingerprinted and loaded. Importing this module loads no torch; `load_base` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finch_hub import errors
from finch_hub.engine.bases.fingerprint import fingerprint
from finch_hub.engine.bases.sources import Progress, resolve
from finch_hub.specs.jobs import BaseModelSource

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from finch_hub.engine.bases.precision import Dtype

Attention = Literal["auto", "eager", "sdpa", "flash_attention_2"]

# On a CPU, plain attention beats the fused kernel up to about here (its backward pass most of all); beyond, the
# quadratic score matrix costs more than it saves.
_EAGER_UP_TO = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """A base model in memory: frozen, in evaluation mode, with its tokenizer.

    Attributes:
        name: how the user named it; what adapters give as `base_model_name_or_path`.
        revision: the hub's revision asked for, if any.
        folder: where its files are.
        fingerprint: sha256 over configuration, tokenizer and weights.
        model: the causal language model; its parameters require no gradient.
        tokenizer: with a padding token.
        device: where the model is.
        dtype: of its floating-point weights.
        attention: as asked for; "auto" lets :meth:`fit_attention` choose by length.

    """

    name: str
    revision: str | None
    folder: Path
    fingerprint: str
    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    attention: Attention = "auto"

    @property
    def parameters(self) -> int:
        """Number of the base's parameters; tied ones count once, attached adapters not at all."""
        return sum(p.numel() for name, p in self.model.named_parameters() if ".lora_" not in name)

    @property
    def context(self) -> int:
        """Number of tokens that the model was made for."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 2048)

    def fit_attention(self, length: int) -> None:
        """Choose the attention that is fastest on this device for sequences of up to `length` tokens."""
        if self.attention == "auto":
            wanted = "eager" if self.device.type == "cpu" and length <= _EAGER_UP_TO else "sdpa"
            if self.model.config._attn_implementation != wanted:
                self.model.set_attn_implementation(wanted)


def load_base(
    source: BaseModelSource | str | Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    cache: Path | None = None,
    attention: Attention = "auto",
    progress: Progress | None = None,
) -> Base:
    """Load a base model; code that comes with a model is never executed.

    Args:
        source: a folder, a GGUF file or a Hugging Face id.
        dtype: of the weights; "auto" takes bfloat16 where the device computes in it at speed. "int8" and "nf4" load
            them quantised by bitsandbytes, on CUDA.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1" …
        cache: folder for converted files, remembered hashes and the measured speed of dtypes; None means
            `bases` in `FINCH_HOME`.
        attention: "auto" chooses by device and length.
        progress: told in a few words what takes long.

    Raises:
        NotFound: there is no such base.
        Incompatible: it cannot be used: pickled weights only, code needed, missing or misshapen weights, no tokenizer,
            more tokens than embeddings.
        InvalidSpec: a dtype or device that this machine does not have.
        Unavailable: the hub does not answer.

    """
    import safetensors
    import transformers

    from finch_hub.engine.bases import precision
    from finch_hub.engine.bases.transformers_logging import quiet_transformers

    wanted = source if isinstance(source, BaseModelSource) else BaseModelSource(source=str(source))
    where = _device(device)
    cache = cache if cache is not None else _default_cache()
    torch_dtype = precision.pick_dtype(dtype, where, cache=cache)
    folder = resolve(wanted, cache=cache, progress=progress)
    options: dict[str, Any] = {}
    if dtype in ("int8", "nf4"):
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_8bit=dtype == "int8",
            load_in_4bit=dtype == "nf4",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch_dtype,
            bnb_4bit_use_double_quant=True,
        )
        options["device_map"] = {"": where}
    implementation = attention if attention != "auto" else "eager" if where.type == "cpu" else "sdpa"
    try:
        with quiet_transformers():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
            model, loading = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch_dtype,
                attn_implementation=implementation,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except (ValueError, OSError, RuntimeError, KeyError, ImportError, safetensors.SafetensorError) as error:
        raise errors.Incompatible(_why(error), subject=f"base model {wanted.source}") from error
    problems = [
        errors.Problem(
            what=f"{len(loading[kind])} weights are {kind.removesuffix('_keys')}, first {min(map(str, loading[kind]))}"
        )
        for kind in ("missing_keys", "mismatched_keys")
        if loading.get(kind)
    ]
    embeddings = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embeddings:
        problems.append(
            errors.Problem(
                what=f"the tokenizer has {len(tokenizer)} tokens, the model {embeddings} embeddings",
                fix="use the tokenizer that belongs to these weights, or resize the embeddings and save the model",
            )
        )
    if problems:
        raise errors.Incompatible(problems, subject=f"base model {wanted.source}")
    if tokenizer.pad_token is None:
        # Padding is masked everywhere, so any token does; the end token is one that every tokenizer has.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    if not options:
        model.to(where)
    model.requires_grad_(False)
    model.eval()
    return Base(
        name=wanted.source,
        revision=wanted.revision,
        folder=folder,
        fingerprint=fingerprint(folder, cache=cache),
        model=model,
        tokenizer=tokenizer,
        device=where,
        dtype=torch_dtype,
        attention=attention,
    )


def _default_cache() -> Path:
    from finch_hub import settings

    return settings.load().home / "bases"


def _device(device: str) -> torch.device:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError:
        where = None
    if where is None or (where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count()):
        raise errors.InvalidSpec(
            errors.Problem(what=f"there is no device {device!r} here", fix="use auto or cpu"), subject="device"
        )
    return where


def _why(error: Exception) -> errors.Problem:
    text = str(error)
    if "trust_remote_code" in text:
        return errors.Problem(
            what="needs code that comes with the model, which is never executed",
            fix="use a model that transformers supports itself",
        )
    return errors.Problem(
        what=f"transformers cannot load it: {text.strip().splitlines()[0] if text.strip() else error!r}"
    )

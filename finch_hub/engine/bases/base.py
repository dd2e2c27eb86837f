"""Base models in memory, and their loading. Importing this module loads no torch, `load_base` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub import errors, settings
from finch_hub.engine.bases.fingerprint import compute_fingerprint
from finch_hub.engine.bases.sources import fetch_base
from finch_hub.engine.bases.tokenizer import read_tokenizer
from finch_hub.formats import model_files
from finch_hub.specs.jobs import BaseModelSource

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from finch_hub.engine.bases.precision import Dtype

DEFAULT_CONTEXT = 2048
"""Context length in tokens of a model whose configuration has none."""
_DEFAULT_MAX_LENGTH = 2048
# On a CPU the eager backward pass is faster up to this length. Beyond it the quadratic score matrix costs more.
_EAGER_UP_TO = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """Base model in memory: frozen, in evaluation mode, with its tokenizer.

    Attributes:
        name: source as the user gave it. Adapters store it as `base_model_name_or_path`.
        revision: requested revision on the Hugging Face Hub.
        fingerprint: sha256 over configuration, tokenizer and weights.
        model: causal language model. Its parameters require no gradient.
        tokenizer: has a padding token.
        dtype: dtype of the floating-point weights.
    """

    name: str
    revision: str | None
    folder: Path
    fingerprint: str
    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    device: torch.device
    dtype: torch.dtype

    @property
    def num_parameters(self) -> int:
        """Number of the base's parameters. Tied parameters count once, attached adapters do not count."""
        return sum(p.numel() for name, p in self.model.named_parameters() if ".lora_" not in name)

    @property
    def num_embeddings(self) -> int:
        """Number of tokens that the model knows. The tokenizer may have tokens beyond."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def context(self) -> int:
        """Context length of the model in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or DEFAULT_CONTEXT)

    def fit_attention(self, length: int) -> None:
        """Choose the attention that is fastest on this device for sequences of up to `length` tokens."""
        fastest = "eager" if self.device.type == "cpu" and length <= _EAGER_UP_TO else "sdpa"
        if self.model.config._attn_implementation != fastest:
            self.model.set_attn_implementation(fastest)


def default_max_length(context: int) -> int:
    """Return the length in tokens to which examples are cut if the user sets none."""
    return min(context, _DEFAULT_MAX_LENGTH)


def load_base(
    source: BaseModelSource | str | Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
    fetch: Callable[..., Path] = fetch_base,
) -> Base:
    """Load a base model. Code that comes with a model is never executed.

    Args:
        source: folder, GGUF file or Hugging Face id.
        dtype: dtype of the weights. "auto" takes bfloat16 if the device computes fast in it. "int8" and "nf4" quantize
            them with bitsandbytes, on CUDA.
        device: "auto" (CUDA if available), "cpu", "cuda", "cuda:1" …
        cache: folder for converted files, file hashes and the measured speed of dtypes; None means
            `bases` in `FINCH_HOME`.
        progress: called with a few words before each slow step.
        fetch: function that returns a local folder of the source, as :func:`sources.fetch_base` does.

    Raises:
        NotFound: the source does not exist.
        Incompatible: the model cannot be used: only pickled weights, custom code, missing or misshapen weights, no
            tokenizer, more tokens than embeddings.
        InvalidInput: its config is damaged, or chooses code that is not a part of transformers.
        InvalidSpec: this machine does not have the dtype or device.
        Unavailable: the Hugging Face Hub does not answer.
    """
    from finch_hub.engine.bases import precision

    model_source = source if isinstance(source, BaseModelSource) else BaseModelSource(source=str(source))
    torch_device = _find_device(device)
    cache = cache if cache is not None else settings.load().home / "bases"
    torch_dtype = precision.pick_dtype(dtype, torch_device, cache=cache)
    folder = fetch(model_source, cache=cache, progress=progress)
    model_files.read_config(folder)  # before transformers, which would fetch code that it names
    model_files.check_tokenizer_config(folder)
    implementation = "eager" if torch_device.type == "cpu" else "sdpa"
    quantization = _quantization(dtype, torch_dtype, torch_device)
    options = {"dtype": torch_dtype, "attn_implementation": implementation, **quantization}
    progress("loading the base model")
    fingerprint = compute_fingerprint(folder, cache=cache)
    subject = f"base model {model_source.source}"
    model, tokenizer = _read(folder, subject, options)
    if compute_fingerprint(folder, cache=cache) != fingerprint:
        fix = "try again when no program writes to its folder"
        raise errors.Incompatible("was changed while it was read", fix=fix, subject=subject)
    known = range(model.get_input_embeddings().weight.shape[0])
    if tokenizer.pad_token_id not in known:
        # Padding is masked everywhere, so any token works. Most tokenizers have an end token.
        has_end = tokenizer.eos_token_id in known
        tokenizer.pad_token = tokenizer.eos_token if has_end else tokenizer.convert_ids_to_tokens(0)
    if not quantization:
        model.to(torch_device)
    model.requires_grad_(False)
    model.eval()
    return Base(
        name=model_source.source,
        revision=model_source.revision,
        folder=folder,
        fingerprint=fingerprint,
        model=model,
        tokenizer=tokenizer,
        device=torch_device,
        dtype=torch_dtype,
    )


def _find_device(device: str) -> torch.device:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch_device = torch.device(device)
    except RuntimeError:
        torch_device = None
    if torch_device is None or (torch_device.type == "cuda" and (torch_device.index or 0) >= torch.cuda.device_count()):
        what = f"this machine has no device {device!r}"
        raise errors.InvalidSpec(what, fix="use auto or cpu", subject="device")
    return torch_device


def _quantization(dtype: Dtype, compute_dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return the options of transformers with which bitsandbytes quantizes the weights, none for other dtypes."""
    if dtype not in ("int8", "nf4"):
        return {}
    import transformers

    config = transformers.BitsAndBytesConfig(
        load_in_8bit=dtype == "int8",
        load_in_4bit=dtype == "nf4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=compute_dtype,
        bnb_4bit_use_double_quant=True,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _read(folder: Path, subject: str, options: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import transformers

    from finch_hub.engine.bases.transformers_logging import quiet_transformers

    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        with quiet_transformers():
            tokenizer = read_tokenizer(folder)
            model, loading_info = transformers.AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **local, **options
            )
    except MemoryError:
        raise
    except Exception as error:  # a damaged tokenizer.json raises a bare Exception, a damaged config nearly anything
        raise errors.Incompatible(_explain(error), subject=subject) from error
    problems = []
    for kind in ("missing", "mismatched"):
        if keys := loading_info.get(f"{kind}_keys"):
            what = f"{len(keys)} weights are {kind}, for example {min(map(str, keys))}"
            problems.append(errors.Problem(what=what))
    embeddings = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embeddings:
        what = f"the tokenizer has {len(tokenizer)} tokens, the model {embeddings} embeddings"
        fix = "use the tokenizer that belongs to these weights, or resize the embeddings and save the model"
        problems.append(errors.Problem(what=what, fix=fix))
    problems += _find_tokenizer_faults(tokenizer, embeddings)
    if problems:
        raise errors.Incompatible(problems, subject=subject)
    return model, tokenizer


def _find_tokenizer_faults(tokenizer: PreTrainedTokenizerBase, embeddings: int) -> list[errors.Problem]:
    """Return what is wrong with the tokens of a short text. A model without their embeddings crashes in the middle."""
    try:
        largest = max(tokenizer("What does a finch eat? aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!")["input_ids"], default=0)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the tokenizers library raises one if it panics
        return [errors.Problem(what=f"its tokenizer fails: {_first_line(error)}")]
    if largest >= embeddings:
        what = f"its tokenizer gives the token {largest}, the model has {embeddings} embeddings"
        return [errors.Problem(what=what, fix="use the tokenizer that belongs to these weights")]
    return []


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else repr(error)


def _explain(error: Exception) -> errors.Problem:
    text = str(error).strip()
    if "trust_remote_code" in text:
        return errors.Problem(
            what="needs code that comes with the model, which is never executed",
            fix="use a model that transformers supports itself",
        )
    return errors.Problem(what=f"transformers cannot load it: {_first_line(error)}")

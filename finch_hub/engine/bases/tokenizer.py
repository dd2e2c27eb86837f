"""Tokenizers of bases, without their models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from finch_hub import errors
from finch_hub.formats import model_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokenizer: TypeAlias = "PreTrainedTokenizerBase"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a base. Code that comes with it is never executed.

    Raises:
        InvalidInput: a config is damaged, or chooses code that is not a part of transformers.
        Incompatible: the tokenizer cannot be read.
    """
    model_files.read_config(folder)  # before transformers, which would fetch code that it names
    model_files.check_tokenizer_config(folder)
    try:
        return read_tokenizer(folder)
    except MemoryError:
        raise
    except Exception as error:  # a damaged tokenizer.json raises a bare Exception
        what = f"its tokenizer cannot be read: {str(error).strip().partition(chr(10))[0]}"
        raise errors.Incompatible(what, subject=f"base model {folder}") from error


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer from a folder that was checked; raises what transformers and its libraries raise."""
    import transformers

    from finch_hub.engine.bases.transformers_logging import quiet_transformers

    with quiet_transformers():
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    return tokenizer

"""Tiny random models over the architectures that Finch Hub supports, each saved as a folder as its users have them.

The weights are random and the vocabulary is a few hundred entries, but configuration, tokenizer, chat template and
file layout are real, so that every path through transformers and PEFT is the one a full-size model takes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from finch_hub.engine.bases.base import Base

END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", END_OF_TURN, "<think>", "</think>"]

# Every text of a session's tests is made of these words, so that a small vocabulary covers them.
CORPUS = [
    "The finch is a small bird that eats seeds, and it sings in the morning.",
    "What does a finch eat? A finch eats seeds, buds and, in spring, a few insects.",
    "Where does the finch live? It lives in woods, hedges, parks and gardens.",
    "system user assistant You are a helpful assistant who knows birds. Answer in one sentence.",
    "def add(first, second):\n    return first + second\n\nprint(add(1, 2))  # 3",
    "The contract ends on 31 December 2026 unless one party gives notice in writing.",
    "Take 500 mg twice a day with water; do not take it with alcohol. 0123456789 % () [] {} <> !",
    "How many eggs does it lay? It lays four or five eggs, which hatch after twelve to fourteen days.",
]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Like Qwen3's: the reasoning of every assistant turn but the last is dropped, and the last one always has a block of
# it, so a conversation's text does not begin with the text of its own first turns.
THINKING = (
    "{% set ns = namespace(last_user=-1) %}"
    "{% for message in messages %}{% if message.role == 'user' %}{% set ns.last_user = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}"
    "{% set said = message.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = message.content.split('</think>')[0].split('<think>')[-1].strip('\n')"
    " if '</think>' in message.content else '' %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last_user %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ said + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One corner of the matrix: what a family adds to the plain decoder, and how this model is shaped."""

    name: str
    family: str
    tied: bool
    kv_heads: int
    template: str = CHATML
    extra: dict[str, Any] = field(default_factory=dict)


ARCHITECTURES = (
    Architecture(name="llama-untied", family="llama", tied=False, kv_heads=2),
    Architecture(name="llama-tied", family="llama", tied=True, kv_heads=4),
    Architecture(name="qwen2-tied", family="qwen2", tied=True, kv_heads=2),
    Architecture(name="qwen3-untied", family="qwen3", tied=False, kv_heads=1, template=THINKING),
    Architecture(name="qwen3-tied", family="qwen3", tied=True, kv_heads=2, template=THINKING),
)
DEFAULT = ARCHITECTURES[0]


@functools.cache
def _tokenizer_json() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=448,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return str(tokenizer.to_str())


def make_tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    """Make a byte-level BPE tokenizer of 448 entries, with a chat template."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json()),
        eos_token=END_OF_TURN,
        pad_token="<|endoftext|>",
        model_max_length=512,
    )
    tokenizer.chat_template = template
    return tokenizer


ENDLESS_STEPS = "x" * 40 + "!"


def make_steps_endless(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Divide texts first by an expression that takes endless steps for some texts, as for `ENDLESS_STEPS`."""
    from tokenizers import Regex, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    split = pre_tokenizers.Split(Regex("(x+x+)+y"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, backend.pre_tokenizer])
    return tokenizer


def save_model(
    architecture: Architecture, folder: Path, *, seed: int = 0, layers: int = 2, dtype: str = "float32"
) -> Path:
    """Save a random model of this architecture with its tokenizer, and return the folder."""
    import torch
    import transformers

    tokenizer = make_tokenizer(architecture.template)
    kind = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[architecture.family]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=architecture.kv_heads,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=architecture.tied,
        # Large enough that the logits differ clearly and a swapped row or a missing bias is seen.
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **architecture.extra,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):  # fresh ones are all ones and zeros: no test would miss them
                torch.nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.1)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _folder(architecture: Architecture, factory: pytest.TempPathFactory) -> Path:
    return save_model(architecture, factory.mktemp("bases") / architecture.name)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the default tiny model (Llama, untied embeddings, grouped queries). Never write into it."""
    return _folder(DEFAULT, tmp_path_factory)


@pytest.fixture(scope="session", params=ARCHITECTURES, ids=lambda a: a.name)
def tiny_folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of each tiny model in turn. Never write into it."""
    return _folder(request.param, tmp_path_factory)


@pytest.fixture
def tiny_base(tiny_folder: Path) -> Base:
    """Return the default tiny model, loaded afresh for this test, in float32 on the CPU."""
    from finch_hub.engine.bases.base import load_base

    return load_base(tiny_folder, dtype="float32", device="cpu")


@pytest.fixture
def tiny_bases(tiny_folders: Path) -> Base:
    """Return each tiny model in turn, loaded afresh for this test, in float32 on the CPU."""
    from finch_hub.engine.bases.base import load_base

    return load_base(tiny_folders, dtype="float32", device="cpu")

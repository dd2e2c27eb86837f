"""GGUF files of the tiny models, written as llama.cpp's converter does, for what reads a GGUF base."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Literal

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def save_gguf(
    folder: Path, file: Path, *, kind: Literal["F32", "F16", "BF16", "Q8_0"] = "F32", without: str | None = None
) -> Path:
    """Write a model folder as one GGUF file whose matrices are stored in this kind, and return the file.

    Args:
        without: name of a tensor in the GGUF file that is left out.
    """
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_bytes())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    family = config["model_type"]
    writer = gguf.GGUFWriter(file, family)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, folder)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            # llama.cpp rotates neighboring pairs, transformers halves: the rows are reordered to match.
            count = heads if "q_proj" in name else kv_heads
            half = tensor.reshape(count, 2, tensor.shape[0] // count // 2, tensor.shape[1])
            tensor = half.swapaxes(1, 2).reshape(tensor.shape)
        stored = kind if tensor.ndim == 2 and tensor.shape[1] % 32 == 0 else "F32"
        wanted = gguf.GGMLQuantizationType[stored]
        if _name(name) == without:
            continue
        writer.add_tensor(_name(name), gguf.quants.quantize(tensor, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def set_number(file: Path, field: str, number: int, kind: int = 4) -> None:
    """Write another whole number, or the number of another type, to a field of 32 bits."""
    content = bytearray(file.read_bytes())
    place = content.index(field.encode()) + len(field)
    content[place : place + 8] = struct.pack("<II", kind, number)
    file.write_bytes(content)


def _name(name: str) -> str:
    path, _, end = name.rpartition(".")
    if path.startswith("model.layers."):
        layer, _, inner = path.removeprefix("model.layers.").partition(".")
        return f"blk.{layer}.{NAMES[inner]}.{end}"
    return f"{NAMES[path]}.{end}"


def _add_tokenizer(writer: object, folder: Path) -> None:
    import gguf
    from transformers import AutoTokenizer

    assert isinstance(writer, gguf.GGUFWriter)
    data = json.loads((folder / "tokenizer.json").read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = {token["id"] for token in data["added_tokens"]}
    tokens = sorted(data["model"]["vocab"], key=data["model"]["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if place in special else gguf.TokenType.NORMAL for place in range(len(tokens))]
    )
    writer.add_token_merges([" ".join(pair) for pair in data["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)

"""Generation stops where a template ends a turn that calls tools."""

from __future__ import annotations

import pytest
from support.templates import FAMILIES, Family, tokenizer_of

from finch_hub.engine.data.chat import ChatTemplate


def family(call: str, *, end: str = "<|im_end|>", special: tuple[str, ...] = (), only_one: bool = False) -> Family:
    """Return a family whose turns with calls are written in this way, with NAME and ARGS for a call."""
    body = call.replace("NAME", "{{ c.function.name }}").replace("ARGS", "{{ c.function.arguments | tojson }}")
    check = "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call') }}{% endif %}" if only_one else ""
    return Family(
        name=call,
        eos="<|endoftext|>",
        special=("<|im_start|>", "<|im_end|>", *special),
        template=(
            "{% for m in messages %}{% if m.tool_calls %}" + check + "{{ '<|im_start|>assistant\n' }}"
            "{% for c in m.tool_calls %}" + body + "{% endfor %}" + end + "\n"
            "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        ),
    )


CALL = "<tool_call>NAME ARGS</tool_call>"
NEW_TURN = "{% if not loop.first %}<|im_start|>assistant\n{% endif %}"
TOKENS = ("<tool_call>", "</tool_call>")
FOUND: dict[str, tuple[Family, set[str]]] = {
    "the end of every turn": (family(CALL, special=TOKENS), {"<|im_end|>"}),
    "an end of its own": (
        family(CALL, end="<|eom_id|>", special=(*TOKENS, "<|eom_id|>")), {"<|im_end|>", "<|eom_id|>"},
    ),
    "an end of its own where one call is allowed": (
        family("NAME ARGS", end="<|call|>", special=("<|call|>",), only_one=True), {"<|im_end|>", "<|call|>"},
    ),
    "a turn for each call": (
        family(NEW_TURN + "to=NAME ARGS<|call|>", end="", special=("<|call|>",)),
        {"<|im_end|>", "<|call|>"},
    ),
    "no end but that of a call": (family(CALL, end="", special=TOKENS), {"<|im_end|>"}),
    "an end of all calls": (
        family(CALL, end="</calls><|end|>", special=(*TOKENS, "</calls>", "<|end|>")), {"<|im_end|>", "<|end|>"},
    ),
    "text": (family(CALL, end="done.", special=TOKENS), {"<|im_end|>"}),
}  # fmt: skip


@pytest.mark.parametrize(("family", "ends"), FOUND.values(), ids=FOUND)
def test_generation_stops_at_the_end_of_a_turn_with_calls(family: Family, ends: set[str]) -> None:
    tokenizer = tokenizer_of(family)
    found = {tokenizer.convert_ids_to_tokens(token) for token in ChatTemplate(tokenizer).stop_tokens}
    assert found == {*ends, family.eos}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_token_within_turns_of_a_known_family_stops_generation(family: Family) -> None:
    tokenizer = tokenizer_of(family)
    found = {tokenizer.convert_ids_to_tokens(token) for token in ChatTemplate(tokenizer).stop_tokens}
    known = {end for text in family.ends for end in (*family.special, family.eos) if end in text}
    assert found <= {*known, family.eos}

"""Answers in rendered conversations: templates of many families, and hostile ones."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fuzzing import examples
from support.models import END_OF_TURN, make_tokenizer
from support.templates import (
    CHATML,
    DEEPSEEK_R1,
    FAMILIES,
    GEMMA_2,
    GPT_OSS,
    GRANITE,
    HOSTILE,
    LLAMA_3_2,
    MERGING,
    MISTRAL,
    NO_SYSTEM,
    QWEN_2_5,
    QWEN_3,
    SMOL_LM_3,
    Family,
    tokenizer_of,
)

from finch_hub import errors
from finch_hub.engine.data.chat import ChatTemplate, Conversation
from finch_hub.engine.data.rendered import RenderedConversation, render_turns
from finch_hub.engine.data.tokenized_examples import TokenizedExample
from finch_hub.engine.data.tokenizing import tokenize, tokenize_prompt
from finch_hub.specs.examples import Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM = Message(role="system", content="You know birds.")
TALK = (
    Message(role="user", content="What does it eat?"),
    Message(role="assistant", content="Seeds and buds."),
    Message(role="user", content="Where does it live?"),
    Message(role="assistant", content="In woods."),
)
CALL = {"type": "function", "function": {"name": "count_eggs", "arguments": {"nest": "hedge", "number": 4}}}
TOOL = {"type": "function", "function": {"name": "count_eggs", "description": "Count them", "parameters": {}}}
CALLING = (
    Message(role="user", content="How many eggs?"),
    Message(role="assistant", content="", tool_calls=(CALL,)),
    Message(role="tool", content="four", name="count_eggs"),
    Message(role="assistant", content="It has four."),
)
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def template_of(family: Family) -> ChatTemplate:
    return ChatTemplate(tokenizer_of(family))


def render(family: Family, *messages: Message, **fields: Any) -> RenderedConversation:
    return render_turns(template_of(family), Conversation(messages, **fields))


def learned_texts(example: TokenizedExample, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the runs of tokens with labels as text."""
    runs: list[list[int]] = []
    before = False
    for token, label in zip(example.input_ids.tolist(), example.labels.tolist(), strict=True):
        if label and not before:
            runs.append([])
        if label:
            runs[-1].append(token)
        before = label
    return [str(tokenizer.decode(run)) for run in runs]


@families
@pytest.mark.parametrize("messages", [TALK, (SYSTEM, *TALK), (SYSTEM, *TALK[:2])], ids=["talk", "system", "pair"])
def test_an_answer_is_learned_from_the_prompt_of_a_generation_to_its_end(
    family: Family, messages: tuple[Message, ...]
) -> None:
    template = template_of(family)
    example = tokenize(Example(messages=messages), template, max_length=2048)
    answers = [message.content for message in messages if message.role == "assistant"]
    ends = [family.ends[number == len(answers)] for number in range(1, len(answers) + 1)]
    expected = [family.lead + answer + end for answer, end in zip(answers, ends, strict=True)]
    assert learned_texts(example, tokenizer_of(family)) == expected


@families
def test_tokens_before_the_last_answer_are_those_of_its_generation(family: Family) -> None:
    template = template_of(family)
    prompt = template.prompt(Conversation((SYSTEM, *TALK[:-1])))
    tokens = tokenizer_of(family)(prompt, add_special_tokens=False)["input_ids"]
    example = tokenize(Example(messages=(SYSTEM, *TALK)), template, max_length=2048)
    assert example.input_ids[: len(tokens)].tolist() == tokens
    assert not example.labels[: len(tokens)][-1]
    assert example.labels[len(tokens)]


@families
def test_a_generation_stops_at_what_ends_an_answer(family: Family) -> None:
    template = template_of(family)
    example = tokenize(Example(messages=TALK), template, max_length=2048)
    assert int(example.input_ids[-1]) in template.stop_tokens


@families
@pytest.mark.parametrize("content", ["", "  ", "\n"], ids=["empty", "blanks", "newline"])
def test_an_empty_answer_teaches_its_end_at_most(family: Family, content: str) -> None:
    empty = (SYSTEM, TALK[0], TALK[1].evolve(content=content), *TALK[2:])
    example = tokenize(Example(messages=empty), template_of(family), max_length=2048)
    *first, last = learned_texts(example, tokenizer_of(family))
    assert last == family.lead + TALK[-1].content + family.ends[1]
    taught = "".join(first)
    assert taught.strip() in ("", family.end.strip())
    assert not taught[:1].isspace()


_WORDS = st.sampled_from(["finch", "seeds", "</think>", "<b>", "  ", "\n\n", "##", "user", "assistant:", "é", "\ue000"])


@st.composite
def _talks(draw: st.DrawFn) -> tuple[Message, ...]:
    """Draw a conversation of alternating turns. Each turn has a word of its own, unless it is blank."""
    messages = [SYSTEM.evolve(content="S0S")] if draw(st.booleans()) else []
    for number in range(1, 2 * draw(st.integers(1, 5)) + 1):
        role = "user" if number % 2 else "assistant"
        around = [" ".join(draw(st.lists(_WORDS, max_size=3))) for _ in range(2)]
        content = (
            f"{around[0]}Q{number}Q{around[1]}" if draw(st.integers(0, 9)) else draw(st.sampled_from(["", " ", "\n"]))
        )
        messages.append(Message.model_validate({"role": role, "content": content}))
    messages[-1] = messages[-1].evolve(content=f"Q{len(messages)}Q end")
    messages[-2] = messages[-2].evolve(content=f"Q{len(messages)}Q?")
    return tuple(messages)


@families
@settings(max_examples=examples(15))
@given(messages=_talks())
def test_nothing_but_answers_is_learned_and_all_that_the_template_writes_of_them(
    family: Family, messages: tuple[Message, ...]
) -> None:
    messages = tuple(
        m.evolve(content=m.content.replace("Q", f"{'u' if m.role != 'assistant' else 'a'}Q", 1)) for m in messages
    )
    template = template_of(family)
    text = template.render(Conversation.of(Example(messages=messages)), generation=False)
    example = tokenize(Example(messages=messages), template, max_length=4096)
    learned = "".join(learned_texts(example, template.tokenizer))
    for message in messages:
        marks = [part for part in message.content.split() if "Q" in part]
        for mark in marks:
            word = mark[mark.index("Q") - 1 : mark.rindex("Q") + 1]
            assert (word in learned) == (message.role == "assistant" and word in text)


@pytest.mark.parametrize("name", HOSTILE)
@settings(max_examples=examples(15))
@given(messages=_talks())
def test_a_hostile_template_is_refused_or_only_its_answers_are_learned(
    name: str, messages: tuple[Message, ...]
) -> None:
    template = ChatTemplate(_hostile_tokenizer(name))
    messages = tuple(
        m.evolve(content=m.content.replace("Q", "") if m.role == "assistant" else m.content) for m in messages
    )
    try:
        example = tokenize(Example(messages=messages), template, max_length=4096)
    except errors.InvalidInput:
        return
    learned = "".join(learned_texts(example, template.tokenizer))
    assert "Q" not in learned


@functools.cache
def _hostile_tokenizer(name: str) -> PreTrainedTokenizerBase:
    return make_tokenizer(HOSTILE[name])


@pytest.mark.parametrize(
    ("family", "messages", "change"),
    [
        (MISTRAL, (SYSTEM, *TALK), "another order"),
        (NO_SYSTEM, (SYSTEM, *TALK), "system prompt is put into the first user turn"),
        (LLAMA_3_2, (TALK[0].evolve(content=" What? \n"), TALK[1]), "white space around user turns is removed"),
        (QWEN_3, (TALK[0], TALK[1].evolve(reasoning="hm"), *TALK[2:]), "reasoning of earlier turns is dropped"),
        (QWEN_3, (TALK[0], TALK[1].evolve(content="<think>hm</think>Seeds."), *TALK[2:]), "written in part"),
        (CHATML, (TALK[0], TALK[1].evolve(content=f"Seeds{END_OF_TURN}")), "which ends a turn"),
    ],
)
def test_what_a_template_changes_is_said(family: Family, messages: tuple[Message, ...], change: str) -> None:
    try:
        said = "; ".join(render(family, *messages).changes)
    except errors.Incompatible as error:
        said = str(error)
    assert change in said


@families
def test_a_plain_conversation_is_not_changed(family: Family) -> None:
    assert render(family, *TALK).changes == ()


def test_reasoning_of_earlier_turns_is_said_to_be_dropped() -> None:
    thought = [m.evolve(reasoning=f"hm {n}") if m.role == "assistant" else m for n, m in enumerate(TALK)]
    rendered = render(QWEN_3, *thought, thinking=True)
    assert rendered.changes == ("the reasoning of earlier turns is dropped",)
    last = rendered.turns[3]
    assert rendered.text[last.begin : last.end] == "<think>\nhm 3\n</think>\n\nIn woods.<|im_end|>"


def test_reasoning_is_learned_and_asked_for() -> None:
    template, thought = template_of(QWEN_3), TALK[1].evolve(reasoning="It has a beak.")
    example = tokenize(Example(messages=(TALK[0], thought)), template, max_length=512)
    assert learned_texts(example, template.tokenizer) == [
        "<think>\nIt has a beak.\n</think>\n\nSeeds and buds.<|im_end|>"
    ]
    assert template.prompt(Conversation(TALK[:1], thinking=True)).endswith("<|im_start|>assistant\n")
    assert template.prompt(Conversation(TALK[:1])).endswith("<think>\n\n</think>\n\n")


def test_text_before_reasoning_of_another_family_is_a_channel() -> None:
    rendered = render(GPT_OSS, TALK[0], TALK[1].evolve(reasoning="It has a beak."), thinking=True)
    turn = rendered.turns[1]
    assert rendered.text[turn.begin : turn.end] == (
        "<|channel|>analysis<|message|>It has a beak.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Seeds and buds.<|return|>"
    )


@pytest.mark.parametrize("family", [QWEN_2_5, QWEN_3, LLAMA_3_2], ids=lambda family: family.name)
def test_calls_of_tools_are_learned_with_their_end(family: Family) -> None:
    rendered = render(family, *CALLING, tools=(TOOL,) if "tools" in family.writes else ())
    call, answer = (rendered.text[turn.begin : turn.end] for turn in rendered.turns.values())
    assert call.endswith(family.end)
    assert "count_eggs" in call
    assert "hedge" in call
    assert "<|start" not in call
    assert answer.endswith("It has four." + family.end)
    assert "four" not in call


def test_arguments_of_calls_are_json_whatever_a_template_does_with_them() -> None:
    template = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}CALL {{ c.function.arguments }}"
    template += "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}{% endif %}"
    text = render_turns(ChatTemplate(make_tokenizer(template)), Conversation(CALLING)).text
    assert 'CALL {"nest": "hedge", "number": 4}' in text


@pytest.mark.parametrize(
    ("family", "messages", "fields", "named"),
    [
        (CHATML, CALLING, {}, "tool_calls"),
        (CHATML, TALK, {"tools": (TOOL,)}, "tools"),
        (CHATML, TALK, {"documents": ({"title": "Birds", "text": "They fly."},)}, "documents"),
        (CHATML, (TALK[0], TALK[1].evolve(reasoning="hm")), {}, "reasoning_content"),
        (NO_SYSTEM, (TALK[0], Message(role="assistant", content="", tool_calls=(CALL,)), *TALK[1:2]), {}, "tool_calls"),
        (DEEPSEEK_R1, (*TALK, *CALLING[2:]), {}, "tool turns"),
    ],
)
def test_what_answers_rest_on_is_written_or_refused_by_name(
    family: Family, messages: tuple[Message, ...], fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(errors.Incompatible, match=named):
        render(family, *messages, **fields)


def test_documents_are_written() -> None:
    rendered = render(GRANITE, *TALK, documents=({"title": "Birds", "text": "They fly."},))
    assert "They fly." in rendered.text


@pytest.mark.parametrize("family", [LLAMA_3_2, GRANITE, SMOL_LM_3, GPT_OSS], ids=lambda family: family.name)
def test_a_template_never_writes_the_date_of_today(family: Family) -> None:
    text = render(family, *TALK).text
    date = {"llama3.2": "26 Jul 2024", "granite": "July 26, 2024", "smollm3": "26 July 2024", "gpt-oss": "2024-07-26"}
    assert date[family.name] in text
    assert text == template_of(family).render(Conversation(TALK), generation=False)


def test_a_system_turn_that_a_template_looks_into_is_found() -> None:
    system = SYSTEM.evolve(content="You know birds. /no_think")
    rendered = render(SMOL_LM_3, system, *TALK)
    learned = [rendered.text[turn.begin : turn.end] for turn in rendered.turns.values()]
    assert learned == ["Seeds and buds.<|im_end|>", "In woods.<|im_end|>"]


def test_neighboring_answers_that_are_merged_are_learned_without_their_joint() -> None:
    rendered = render(MERGING, *TALK[:2], Message(role="assistant", content="And more."))
    assert [rendered.text[turn.begin : turn.end] for turn in rendered.turns.values()] == [
        "Seeds and buds.",
        "And more.</s>",
    ]


def test_an_answer_that_is_written_twice_is_refused_if_it_is_learned() -> None:
    template = ChatTemplate(make_tokenizer(HOSTILE["twice"]))
    with pytest.raises(errors.Incompatible, match="turn 2 in several places"):
        render_turns(template, Conversation(TALK[:2]))
    assert render_turns(template, Conversation((TALK[0], TALK[1].evolve(learn=False)))).turns == {}


def ask_template(body: str, *special: str, eos: str = "</s>", bos: str | None = None) -> ChatTemplate:
    return ChatTemplate(tokenizer_of(Family(name=body[:9], template=body, eos=eos, bos=bos, special=special)))


def texts_of(template: ChatTemplate, *messages: Message, **fields: Any) -> list[str]:
    """Return the text of each answer as it is learned."""
    rendered = render_turns(template, Conversation(messages, **fields))
    return [rendered.text[turn.begin : turn.end] for turn in rendered.turns.values()]


@families
def test_answers_of_tags_only_are_learned(family: Family) -> None:
    talk = [TALK[0], TALK[1].evolve(content="<yes>"), TALK[2].evolve(content=""), TALK[3].evolve(content="<no>")]
    expected = [f"{family.lead}<yes>{family.end}".rstrip(), f"{family.lead}<no>{family.end}".rstrip()]
    learned = [text.rstrip() for text in texts_of(template_of(family), *talk)]
    assert learned[0] == expected[0]
    assert learned[1].removesuffix(family.ends[1]).rstrip().startswith(f"{family.lead}<no>")


def test_the_header_of_the_next_turn_is_not_the_end_of_an_answer() -> None:
    template = ask_template(
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
        "<|user|>",
        "<|assistant|>",
        "<|system|>",
    )
    assert texts_of(template, *TALK) == ["Seeds and buds.", "In woods.</s>"]
    assert texts_of(template, *TALK[:2], TALK[1]) == ["Seeds and buds.", "Seeds and buds.</s>"]


def test_a_header_that_is_always_written_is_not_the_end_of_an_answer() -> None:
    template = ask_template(
        "{% for m in messages %}{{ {'user': '<u>', 'assistant': '<a>'}[m.role] + m.content }}{% endfor %}{{ '<a>' }}",
        "<u>",
        "<a>",
    )
    assert template.frame.end is None
    example = tokenize(Example(messages=TALK), template, max_length=512)
    assert learned_texts(example, template.tokenizer) == ["Seeds and buds.", "In woods.</s>"]


@pytest.mark.parametrize("always", ["", "<|im_start|>assistant\n "])
def test_end_of_turns_is_learned_without_a_prompt_of_a_generation(always: str) -> None:
    template = ask_template(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n ' + m.content + '<|im_end|>\n' }}{% endfor %}"
        f"{{{{ '{always}' }}}}",
        "<|im_start|>",
        "<|im_end|>",
    )
    end = template.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert template.stop_tokens == {template.tokenizer.eos_token_id, end}
    learned = texts_of(template, *TALK)
    assert [text.endswith("<|im_end|>") for text in learned] == [True, True]
    assert [text.rpartition("\n ")[2] for text in learned] == ["Seeds and buds.<|im_end|>", "In woods.<|im_end|>"]


def test_a_system_prompt_that_only_a_prompt_has_goes_into_the_first_question() -> None:
    template = ask_template(
        "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}"
        "{% else %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for m in turns %}"
        "{% if m.role == 'user' %}{{ '[INST]' + (system + ' ' if loop.last and system is defined else '') }}"
        "{{ m.content + '[/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
        "[INST]",
        "[/INST]",
        bos="<s>",
    )
    assert not template.has_system_role
    assert SYSTEM.content in template.prompt(Conversation((SYSTEM, TALK[0])))
    assert SYSTEM.content in template.render(Conversation((SYSTEM, *TALK)), generation=False)


def test_calls_that_are_written_only_without_content_are_learned() -> None:
    template = ask_template(
        "{% for m in messages %}{% if m.role == 'assistant' and m.content is none or m.content is undefined %}"
        "{{ '<a>' }}{% for c in m.tool_calls %}{{ c.function.name + c.function.arguments | tojson }}{% endfor %}"
        "{{ '</s>' }}{% else %}{{ '<' + m.role[0] + '>' + m.content + '</s>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<a>' }}{% endif %}",
        "<u>",
        "<a>",
        "<t>",
    )
    assert texts_of(template, *CALLING)[0] == 'count_eggs{"nest": "hedge", "number": 4}</s>'


def test_an_end_of_two_tokens_is_learned_whole() -> None:
    template = ask_template(
        "{% for m in messages %}{{ '<t>' + m.role + '<m>' + m.content }}"
        "{{ ('<r>' if m.role == 'assistant' else '') + '<e>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<t>assistant<m>' }}{% endif %}",
        "<t>",
        "<m>",
        "<r>",
        "<e>",
    )
    assert texts_of(template, *TALK) == ["Seeds and buds.<r><e>", "In woods.<r><e>"]
    assert {template.tokenizer.convert_tokens_to_ids(token) for token in ("<r>", "<e>")} <= template.stop_tokens


def test_arguments_with_the_end_of_a_turn_do_not_end_it() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "a<|im_end|>b"}}}
    calling = (CALLING[0], CALLING[1].evolve(tool_calls=(call,)), *CALLING[2:])
    assert texts_of(template_of(QWEN_2_5), *calling)[0].endswith('a<|im_end|>b"}}\n</tool_call><|im_end|>')


def test_names_that_are_dropped_are_said() -> None:
    rendered = render(CHATML, TALK[0].evolve(name="Alice"), TALK[1])
    assert rendered.changes == ("names of speakers and of tools in their turns are dropped",)


@pytest.mark.parametrize("field", ["tools", "documents"])
def test_a_template_that_writes_only_the_first_of_several_is_refused(field: str) -> None:
    template = ask_template(CHATML.template + "{{ (tools or documents)[0] | tojson if tools or documents else '' }}")
    several: Any = {
        "tools": (TOOL, {"type": "function", "function": {"name": "fly"}}),
        "documents": ({"title": "a", "text": "They fly."}, {"title": "b", "text": "They sing."}),
    }
    with pytest.raises(errors.Incompatible, match=f"{field}: 1 of 2"):
        render_turns(template, Conversation(TALK, **{field: several[field]}))


def test_work_for_calls_grows_with_the_length_of_a_conversation_and_not_faster() -> None:
    work = []
    for exchanges in (25, 50):
        template = Counting(tokenizer_of(QWEN_2_5))
        messages = []
        for number in range(exchanges):
            call = {"type": "function", "function": {"name": "eggs", "arguments": {"nest": number}}}
            answer = TALK[1].evolve(content=f"<b{number}>eggs")
            messages += [TALK[0], CALLING[1].evolve(tool_calls=(call,)), CALLING[2], answer]
        render_turns(template, Conversation(tuple(messages)))
        work.append(template.characters)
    assert work[1] < 2.2 * work[0]


class Counting(ChatTemplate):
    """A template that counts the characters that it renders."""

    characters = 0

    def render(self, conversation: Conversation, *, generation: bool) -> str:
        text = super().render(conversation, generation=generation)
        self.characters += len(text)
        return text


@families
def test_work_grows_with_the_length_of_a_conversation_and_not_faster(family: Family) -> None:
    work = []
    for exchanges in (50, 100):
        template = Counting(tokenizer_of(family))
        render_turns(template, Conversation(TALK[:2] * exchanges))
        work.append(template.characters)
    assert work[1] < 2.2 * work[0]


def test_a_conversation_of_all_private_characters_is_refused() -> None:
    private = "".join(map(chr, [*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE)]))
    with pytest.raises(errors.Incompatible, match="private characters"):
        render(CHATML, TALK[0].evolve(content=private), TALK[1])
    few = TALK[0].evolve(content=private[:20_000])
    assert render(CHATML, few, TALK[1]).turns[1].is_ended


@pytest.mark.parametrize("family", [NO_SYSTEM, GEMMA_2], ids=lambda family: family.name)
def test_what_is_learned_does_not_depend_on_a_system_prompt_that_goes_into_the_question(family: Family) -> None:
    unlearned = (TALK[0], TALK[1].evolve(learn=False), *TALK[2:])
    plain, asked = (
        tokenize(Example(messages=messages), template_of(family), max_length=2048)
        for messages in (unlearned, (SYSTEM, *unlearned))
    )
    assert learned_texts(asked, tokenizer_of(family)) == learned_texts(plain, tokenizer_of(family))
    assert "Seeds" not in learned_texts(asked, tokenizer_of(family))[0]


_ALWAYS_HEADER = (
    "{% for m in messages %}{{ '<s><' + m.role[0] + '>' }}{{ '<r>' + m.content + '</r>' if m.role == 'assistant' "
    "else m.content }}{{ '</s>' }}{% endfor %}{{ '<s><a>' }}"
)


@pytest.mark.parametrize("eos", ["</s>", "<end>"])
def test_the_next_header_that_a_template_always_writes_is_not_learned(eos: str) -> None:
    template = ask_template(_ALWAYS_HEADER, "<s>", "</s>", "<u>", "<a>", "<r>", "</r>", eos=eos)
    assert texts_of(template, *TALK) == ["<r>Seeds and buds.</r></s>", "<r>In woods.</r></s>"]
    stops = {template.tokenizer.convert_ids_to_tokens(token) for token in template.stop_tokens}
    assert stops == {"</r>", "</s>", eos}


def test_the_next_header_is_not_the_end_of_calls() -> None:
    called = "m.content + (m.tool_calls[0].function.name if m.tool_calls else '')"
    template = ask_template(
        _ALWAYS_HEADER.replace("'<r>' + m.content", f"'<r>' + {called}"),
        "<s>",
        "</s>",
        "<u>",
        "<a>",
        "<r>",
        "</r>",
        "<t>",
    )
    assert not {template.tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "<a>")} & template.stop_tokens


def test_a_header_after_the_default_system_prompt_is_not_the_end_of_an_answer() -> None:
    template = ask_template(
        "<s>Be nice.{% for m in messages %}{{ ('<u>' if m.role == 'user' else '<a>') + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<a>{% else %}{{ eos_token }}{% endif %}",
        "<s>",
        "<u>",
        "<a>",
    )
    assert texts_of(template, *TALK)[0] == "Seeds and buds."


def test_texts_are_parts_for_templates_that_write_only_parts() -> None:
    template = ask_template(
        "{% for m in messages %}{{ m.role }}: {% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}"
        "{% endfor %}<e>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
        "<e>",
    )
    assert texts_of(template, *TALK) == ["Seeds and buds.<e>", "In woods.<e>"]


def test_a_template_that_writes_no_answer_is_refused() -> None:
    template = ask_template("{% for m in messages %}{{ m.role + '<e>' }}{% endfor %}", "<e>")
    with pytest.raises(errors.Incompatible, match="writes no answer"):
        texts_of(template, *TALK)


def test_a_question_after_answers_with_reasoning_has_the_bytes_of_the_training() -> None:
    template = template_of(QWEN_3)
    talk = tuple(m.evolve(reasoning="Hm.") if m.role == "assistant" else m for m in TALK)
    example = tokenize(Example(messages=talk), template, max_length=2048)
    prompt = tokenize_prompt(Conversation(talk[:-1], thinking=True), template)
    assert example.input_ids[: len(prompt)].tolist() == prompt

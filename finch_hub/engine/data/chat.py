"""Chat template of a tokenizer: it renders conversations, the same way for training, evaluation and generation.

:mod:`finch_hub.engine.data.rendered` finds the assistant's turns in the text, and
:mod:`finch_hub.engine.data.tokenizing` turns it into tokens.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from finch_hub import errors
from finch_hub.engine.data.call_ends import find_call_end
from finch_hub.engine.data.frame import Frame, find_frame
from finch_hub.specs.examples import Example, Message
from finch_hub.specs.value import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Templates that write today's date get this one: a text must not change from training to generation, and a lineage
# must replay to the same bytes. It is the date that Llama 3.1's template falls back to.
# By the codes of strftime, which would write names in the language of the program's locale.
_TODAY = {
    "a": "Fri", "A": "Friday", "b": "Jul", "B": "July", "c": "Fri Jul 26 12:00:00 2024", "d": "26", "D": "07/26/24",
    "e": "26", "F": "2024-07-26", "H": "12", "I": "12", "j": "208", "m": "07", "M": "00", "p": "PM", "S": "00",
    "T": "12:00:00", "x": "07/26/24", "y": "24", "Y": "2024", "Z": "UTC",
}  # fmt: skip
_MARKER = "\ue000answer\ue001"


class Conversation(NamedTuple):
    """What a template renders.

    Attributes:
        thinking: whether the assistant reasons before it answers, for templates that have a switch for it.
    """

    messages: tuple[Message, ...]
    tools: tuple[JsonObject, ...] = ()
    documents: tuple[JsonObject, ...] = ()
    thinking: bool = False

    @classmethod
    def of(cls, example: Example, system: str | None = None) -> Conversation:
        """Return the conversation of an example, led by this system turn unless it has one."""
        thinking = any(has_reasoning(message) for message in example.messages)
        return cls(with_system(example.messages, system), example.tools, example.documents, thinking)


def has_reasoning(message: Message) -> bool:
    """Return whether an assistant turn has reasoning, in its field or in the text."""
    return message.role == "assistant" and bool(message.reasoning or "</think>" in message.content)


def with_system(messages: Sequence[Message], system: str | None) -> tuple[Message, ...]:
    """Return the turns, with this system turn first unless they begin with one."""
    if not system or (messages and messages[0].role == "system"):
        return tuple(messages)
    return (Message(role="system", content=system), *messages)


class ChatTemplate:
    """Chat template of a tokenizer.

    Without a template, turns are joined by newlines. If a template refuses the system role or leaves its text out, the
    system prompt goes before the first user turn. Templates that write today's date always get the same one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @property
    def is_missing(self) -> bool:
        """Whether the tokenizer has no template."""
        return self.tokenizer.chat_template is None

    @functools.cached_property
    def has_system_role(self) -> bool:
        """Whether the template writes system turns."""
        asked = (Message(role="system", content=_MARKER), Message(role="user", content="?"))
        answered = (*asked, Message(role="assistant", content="!"))
        try:
            return all(
                _MARKER in self._apply(Conversation(turns), turns, generation=turns is asked)
                for turns in (asked, answered)
            )
        except Exception:  # a template is a program that can raise any exception
            return False

    @functools.cached_property
    def _empty_content(self) -> str | None:
        """Content of a turn that only calls tools: none for templates that write calls only then."""
        call = {"type": "function", "function": {"name": _MARKER, "arguments": {}}}
        probe = (Message(role="user", content="?"), Message(role="assistant", content="", tool_calls=(call,)))

        def is_written(empty: str | None) -> bool:
            try:
                text = self._apply_once(Conversation(probe), probe, dict, empty=empty, generation=False)
            except Exception:  # a template is a program that can raise any exception
                return False
            return _MARKER in text

        return None if not is_written("") and is_written(None) else ""

    @functools.cached_property
    def _takes_parts(self) -> bool:
        """Whether the template writes only texts that are parts of a content, as some of models for images do."""
        probe = (Message(role="user", content=_MARKER),)

        def is_written(*, as_parts: bool) -> bool:
            try:
                return _MARKER in self._apply_once(
                    Conversation(probe), probe, dict, empty="", generation=False, as_parts=as_parts
                )
            except Exception:  # a template is a program that can raise any exception
                return False

        return not is_written(as_parts=False) and is_written(as_parts=True)

    @functools.cached_property
    def frame(self) -> Frame:
        """What the template writes around an answer."""
        return find_frame(self._render_or_nothing, self.added_tokens, self.tokenizer.eos_token)

    def _render_or_nothing(
        self, messages: tuple[Message, ...], tools: tuple[JsonObject, ...] = (), *, generation: bool
    ) -> str:
        """Return the text of turns, empty if the template cannot render them."""
        try:
            return self.render(Conversation(messages, tools), generation=generation)
        except errors.Incompatible:
            return ""

    @functools.cached_property
    def stop_tokens(self) -> frozenset[int]:
        """Ids of the tokens that end an assistant turn: the template's, and the tokenizer's end-of-text token."""
        ends: list[str | None] = [*self.frame.ends]
        if self.added_tokens is not None and not self.is_missing:
            ends.append(find_call_end(self._render_or_nothing, self.added_tokens, self.tokenizer.eos_token))
        ids = [self.tokenizer.eos_token_id, *(self.tokenizer.convert_tokens_to_ids(end) for end in ends if end)]
        return frozenset(int(token) for token in ids if token is not None)

    @functools.cached_property
    def added_tokens(self) -> re.Pattern[str] | None:
        """Pattern of the tokens that are added to the vocabulary, special or not, as templates use them."""
        texts = {str(token) for token in self.tokenizer.added_tokens_decoder.values()}
        texts.update(self.tokenizer.all_special_tokens)
        texts = {text for text in texts if text.strip()}
        return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True)))) if texts else None

    def find_all(self, pattern: re.Pattern[str]) -> list[str]:
        """Return the different matches of a pattern in the text of the template, in order."""
        template = self.tokenizer.chat_template
        texts = template.values() if isinstance(template, dict) else [template or ""]
        return list(dict.fromkeys(found for text in texts for found in pattern.findall(text)))

    def render(self, conversation: Conversation, *, generation: bool) -> str:
        """Render a conversation.

        Args:
            conversation: at least one turn.
            generation: whether the text ends with the header of an assistant turn, so that the model answers.

        Raises:
            Incompatible: the template cannot render these turns, for example because their roles do not alternate.
        """
        if self.is_missing:
            _check_plain(conversation)
            return "\n".join(message.content for message in conversation.messages) + ("\n" if generation else "")
        messages = conversation.messages
        if messages[0].role == "system" and not self.has_system_role:
            messages = fold_system(messages)
        try:
            return self._apply(conversation, messages, generation=generation)
        except Exception as error:  # a template is a program that can raise any exception
            roles = ", ".join(message.role for message in messages[:8]) + (", …" if len(messages) > 8 else "")
            what = f"the chat template cannot render the turns {roles}: {error}"
            raise errors.Incompatible(what) from error

    def prompt(self, conversation: Conversation) -> str:
        """Render the turns up to where the model continues: the text before its answer in a training.

        Some templates begin the answer in the prompt of a generation, but not before the answers of a conversation.
        Then the prompt is what a training has.

        Raises:
            Incompatible: the template cannot render these turns.
        """
        prompt = self.render(conversation, generation=True)
        marker = _MARKER
        while any(marker in message.content for message in conversation.messages):
            marker += _MARKER[-1]
        answer = Message(role="assistant", content=marker, reasoning=marker if conversation.thinking else None)
        try:
            answered = self.render(conversation._replace(messages=(*conversation.messages, answer)), generation=False)
        except errors.Incompatible:
            return prompt
        before, found, _ = answered.partition(marker)
        return prompt if not found or before.startswith(prompt) else before

    def begin(self, tokens: list[int]) -> list[int]:
        """Return the tokens of a text, after the special tokens with which the tokenizer begins one."""
        before = self._begin
        return tokens if tokens[: len(before)] == before else before + tokens

    @functools.cached_property
    def _begin(self) -> list[int]:
        plain = list(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        full = list(self.tokenizer("a")["input_ids"])
        starts = range(len(full) - len(plain) + 1)
        return full[: next((start for start in starts if full[start : start + len(plain)] == plain), 0)]

    def _apply(self, conversation: Conversation, messages: Sequence[Message], *, generation: bool) -> str:
        has_calls = any(message.tool_calls for message in messages)
        empty = self._empty_content if has_calls else ""
        try:
            text = self._apply_once(conversation, messages, dict, empty=empty, generation=generation)
        except Exception:
            if not has_calls:
                raise
        else:
            if not any(_is_shown_by_python(call, text) for message in messages for call in message.tool_calls):
                return text
        # The template expects the arguments of a call as JSON text.
        return self._apply_once(conversation, messages, _with_text_arguments, empty=empty, generation=generation)

    def _apply_once(
        self,
        conversation: Conversation,
        messages: Sequence[Message],
        to_call: Callable[[JsonObject], JsonObject],
        *,
        empty: str | None,
        generation: bool,
        as_parts: bool | None = None,
    ) -> str:
        as_parts = self._takes_parts if as_parts is None else as_parts
        tools = list(conversation.tools) or None
        return str(
            self.tokenizer.apply_chat_template(
                [_to_turn(message, to_call, empty, as_parts=as_parts) for message in messages],
                tools=tools,
                documents=list(conversation.documents) or None,
                chat_template=self._template(has_tools=tools is not None),
                tokenize=False,
                add_generation_prompt=generation,
                enable_thinking=conversation.thinking,
            )
        )

    def _template(self, *, has_tools: bool) -> str:
        """Return the text of the template, in which the date is fixed."""
        template = str(self.tokenizer.get_chat_template(None, [{}] if has_tools else None))
        if "strftime_now" not in template:
            return template
        return f"{_DATE_MACRO}\n{template}"  # transformers removes the newline after a block


def fold_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turns with the leading system prompt in the first user turn, if that follows."""
    system, *rest = messages
    if not rest or rest[0].role != "user":
        return tuple(messages)
    return (rest[0].evolve(content=f"{system.content}\n\n{rest[0].content}"), *rest[1:])


def _to_turn(
    message: Message, to_call: Callable[[JsonObject], JsonObject], empty: str | None, *, as_parts: bool
) -> dict[str, Any]:
    content = empty if message.tool_calls and not message.content else message.content
    parts = [{"type": "text", "text": content}] if content else []
    turn: dict[str, Any] = {"role": message.role, "content": parts if as_parts else content}
    optional = {"name": message.name, "tool_call_id": message.tool_call_id, "reasoning_content": message.reasoning}
    turn.update({name: value for name, value in optional.items() if value is not None})
    if message.tool_calls:
        turn["tool_calls"] = [to_call(call) for call in message.tool_calls]
    return turn


def _is_shown_by_python(call: JsonObject, text: str) -> bool:
    """Tell whether a template wrote the arguments of a call as Python shows them: {'city': 'Paris'}."""
    arguments = call.get("function", {}).get("arguments")
    return isinstance(arguments, (dict, list)) and bool(arguments) and str(arguments) in text


def _with_text_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function", {}))
    if not isinstance(function.get("arguments", ""), str):
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": function}


def _check_plain(conversation: Conversation) -> None:
    """Refuse what only a template can write."""
    parts = {
        "tools": conversation.tools,
        "documents": conversation.documents,
        "tool_calls": [m for m in conversation.messages if m.tool_calls],
        "reasoning (reasoning_content, reasoning or thinking)": [m for m in conversation.messages if m.reasoning],
    }
    fix = "remove it from the data, or use a base with a chat template"
    problems = [
        errors.Problem(where=name, what="cannot be written: the base has no chat template", fix=fix)
        for name, part in parts.items()
        if part
    ]
    if problems:
        raise errors.Incompatible(problems)


def _date_macro() -> str:
    """Return a macro that replaces the function with which templates write today's date."""

    def replacements() -> Iterator[str]:
        for code, value in _TODAY.items():
            yield f"replace('%{code}', '{value}')"
            yield f"replace('%-{code}', '{value.lstrip('0') or '0'}')"
        yield "replace('%%', '%')"

    return "{% macro strftime_now(format) %}{{ format | " + " | ".join(replacements()) + " }}{% endmacro %}"


_DATE_MACRO = _date_macro()

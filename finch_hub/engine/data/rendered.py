"""Place of each assistant turn in a rendered conversation.

Most templates do not mark what the model generates, some change earlier turns (Qwen3's drops the reasoning of all but
the last), and a turn's text can be anywhere in the others. So the conversation is rendered once more with markers
instead of its texts. What is between the markers is the template's own, and what replaces them are the turns.
`turn_finder` then finds where an answer begins and ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finch_hub import errors
from finch_hub.engine.data.chat import ChatTemplate, Conversation, fold_system
from finch_hub.engine.data.markers import MarkedConversation
from finch_hub.engine.data.template_changes import check_fields, describe_changes, find_control_tokens
from finch_hub.engine.data.turn_finder import Turn, TurnFinder
from finch_hub.specs.examples import Message


@dataclass(frozen=True, kw_only=True)
class RenderedConversation:
    """Text of a conversation.

    Attributes:
        messages: the turns that were rendered: those of the conversation, or with the system prompt in the first one.
        turns: assistant turns by their index in `messages`, as far as the template writes them.
        changes: what the template drops, changes or moves, in words.
    """

    text: str
    messages: tuple[Message, ...]
    turns: Mapping[int, Turn]
    changes: tuple[str, ...] = ()


def render_turns(template: ChatTemplate, conversation: Conversation) -> RenderedConversation:
    """Render a conversation and find its assistant turns.

    The number of renderings depends on how many kinds of neighbors the turns have, and not on the number of turns.

    Raises:
        Incompatible: the template cannot render these turns, leaves out what answers rest on (tools, documents, tool
            turns, all reasoning), or writes an answer so that its place is unclear.
    """
    changes = []
    if conversation.messages[0].role == "system" and not template.has_system_role and not template.is_missing:
        folded = fold_system(conversation.messages)
        if folded != conversation.messages:
            changes.append("the system prompt is put into the first user turn, since the template has no system role")
            conversation = conversation._replace(messages=folded)
    text = template.render(conversation, generation=False)
    check_fields(template, conversation, text)
    marked = MarkedConversation.of(template, conversation, text)
    spans = marked.locate(text)
    changes += describe_changes(conversation.messages, marked, spans, text)
    if spans is None:
        # Some templates look into system and user turns, for example for /no_think.
        marked = MarkedConversation.of(template, conversation, text, only_assistant=True)
        spans = marked.locate(text)
    if spans is None:
        # Some know tools by their names.
        marked = MarkedConversation.of(template, conversation, text, only_assistant=True, has_calls=False)
        spans = marked.locate(text)
    if spans is None:
        raise errors.Incompatible(
            "the chat template changes the turns so that the answers cannot be found in its text",
            fix="use a base with another template, or give rows as text",
        )
    changes += find_control_tokens(template, conversation.messages)
    if any(message.name for message in conversation.messages):
        nameless = tuple(message.evolve(name=None) for message in conversation.messages)
        if template.render(conversation._replace(messages=nameless), generation=False) == text:
            changes.append("names of speakers and of tools in their turns are dropped")
    answers = {n for n, message in enumerate(conversation.messages) if message.role == "assistant" and message.learn}
    marked_answers = answers.intersection(piece.message for piece in marked.pieces)
    if marked_answers and marked_answers.isdisjoint(marked.pieces[piece].message for piece in marked.found):
        raise errors.Incompatible("the chat template writes no answer", fix="use a base with another template")
    turns = TurnFinder(template, marked, spans).turns()
    for index, message in enumerate(conversation.messages):
        content = message.content.strip()
        if message.role == "assistant" and message.learn and content and index not in turns and content in text:
            what = f"the place of turn {index + 1} in the text of the chat template is unclear"
            raise errors.Incompatible(what, fix="use a base with another template")
    return RenderedConversation(
        text=text, messages=conversation.messages, turns=turns, changes=tuple(dict.fromkeys(changes))
    )

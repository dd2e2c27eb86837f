"""What a chat template drops, changes or moves of a conversation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from finch_hub import errors
from finch_hub.engine.data.chat import ChatTemplate, Conversation
from finch_hub.engine.data.markers import MarkedConversation
from finch_hub.specs.examples import Message


def check_fields(template: ChatTemplate, conversation: Conversation, text: str) -> None:
    """Refuse a template that does not write what the answers rest on."""
    problems = []
    messages = conversation.messages
    without_calls = tuple(message.evolve(tool_calls=()) for message in messages)
    variants: dict[str, Conversation] = {}
    if conversation.tools:
        variants["tools"] = conversation._replace(tools=())
    if conversation.documents:
        variants["documents"] = conversation._replace(documents=())
    if without_calls != messages:
        variants["tool_calls"] = conversation._replace(messages=without_calls)
    unwritten = [name for name, variant in variants.items() if not _differs(template, variant, text)]
    if not _writes_reasoning(template, conversation):
        unwritten.append("reasoning_content")
    for name in unwritten:
        fix = f"ignore the column {name}, or use a base whose template writes it"
        problems.append(errors.Problem(where=name, what="is not written by the chat template", fix=fix))
    written = {
        "tools": [tool.get("function", tool).get("name", "") for tool in conversation.tools],
        "documents": [str(document.get("text", "")).strip() for document in conversation.documents],
    }
    known = {problem.where for problem in problems}
    for name, texts in written.items():
        if name not in known and (lost := sum(part not in text for part in texts)):
            fix = f"give fewer {name}, or use a base whose template writes all of them"
            what = f"{lost} of {len(texts)} are not written by the chat template"
            problems.append(errors.Problem(where=name, what=what, fix=fix))
    if problems:
        raise errors.Incompatible(problems)


def _writes_reasoning(template: ChatTemplate, conversation: Conversation) -> bool:
    """Tell whether a template writes the reasoning of a turn that is the last one, if any turn has reasoning.

    Some templates drop the reasoning of earlier turns.
    """
    messages = conversation.messages
    first = next((number for number, message in enumerate(messages) if message.reasoning), None)
    if first is None:
        return True
    thought = conversation._replace(messages=messages[: first + 1])
    thoughtless = conversation._replace(messages=(*messages[:first], messages[first].evolve(reasoning=None)))
    try:
        return _differs(template, thoughtless, template.render(thought, generation=False))
    except errors.Incompatible:
        return True


def _differs(template: ChatTemplate, conversation: Conversation, text: str) -> bool:
    """Tell whether a conversation has another text, or none."""
    try:
        return template.render(conversation, generation=False) != text
    except errors.Incompatible:
        return True


def describe_changes(
    messages: Sequence[Message], marked: MarkedConversation, spans: Sequence[tuple[int, int]] | None, text: str
) -> Iterator[str]:
    """Yield what the template drops, changes or moves, in words that are equal for all rows."""
    counts = Counter(marked.found)
    rendered = "".join(
        part
        for number, between in enumerate(marked.between)
        for part in (between, marked.marker(marked.found[number]) if number < len(marked.found) else "")
    )
    owned: dict[int, list[int]] = {}
    for number, piece in enumerate(marked.pieces):
        owned.setdefault(piece.message, []).append(number)
    altered = {
        marked.pieces[piece].message
        for piece, (begin, end) in zip(marked.found, spans or (), strict=False)
        if text[begin:end] != marked.pieces[piece].text
    }
    for index, message in enumerate(messages):
        numbers = owned.get(index, [])
        spoken = [number for number in numbers if not marked.pieces[number].is_reasoning]
        thought = [number for number in numbers if marked.pieces[number].is_reasoning]
        if thought and not all(counts[number] for number in thought):
            yield "the reasoning of earlier turns is dropped"
        if not spoken:
            continue
        content = marked.conversation.messages[index].content
        if not any(counts[number] for number in spoken):
            if message.role == "tool":
                fix = "remove tool turns from the data, or use a base whose template writes them"
                raise errors.Incompatible("tool turns are not written by the chat template", fix=fix)
            yield f"{message.role} turns are dropped"
        elif not all(counts[number] for number in spoken):
            yield f"{message.role} turns are written in part"
        elif index in altered or (content.strip() not in rendered):
            yield f"the text of {message.role} turns is changed"
        elif content not in rendered:
            yield f"white space around {message.role} turns is removed"
        if any(counts[number] > 1 for number in spoken):
            yield f"{message.role} turns are written more than once"
    order = [marked.pieces[piece].message for piece in dict.fromkeys(marked.found)]
    if order != sorted(order):
        yield "the turns are written in another order"


def find_control_tokens(template: ChatTemplate, messages: Sequence[Message]) -> Iterator[str]:
    """Yield what turns contain that the template's readers take for the end of a turn."""
    token = template.frame.end
    if token is not None and any(token in message.content for message in messages):
        yield f"turns contain {token}, which ends a turn"

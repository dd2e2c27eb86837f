"""Rendering of conversations, the same for training and for generation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.models import CHATML, THINKING, make_tokenizer

from finch_hub import errors
from finch_hub.engine.data.chat import ChatTemplate, Conversation
from finch_hub.specs.examples import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SYSTEM = Message(role="system", content="You know birds.")
USER = Message(role="user", content="What does it eat?")
ANSWER = Message(role="assistant", content="Seeds.")


def render(tokenizer: PreTrainedTokenizerFast, *messages: Message, generation: bool) -> str:
    return ChatTemplate(tokenizer).render(Conversation(messages), generation=generation)


NO_SYSTEM = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '[' + message.role + ']' + message.content }}"
    "{% endfor %}"
)


def test_template_is_applied() -> None:
    assert render(make_tokenizer(CHATML), SYSTEM, USER, generation=True) == (
        "<|im_start|>system\nYou know birds.<|im_end|>\n"
        "<|im_start|>user\nWhat does it eat?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_generation_prompt_is_the_beginning_of_the_training_text() -> None:
    for template in (CHATML, THINKING):
        tokenizer = make_tokenizer(template)
        prompt = render(tokenizer, SYSTEM, USER, generation=True)
        assert render(tokenizer, SYSTEM, USER, ANSWER, generation=False).startswith(prompt)


def test_template_without_a_system_role_gets_the_text_in_the_user_turn() -> None:
    text = render(make_tokenizer(NO_SYSTEM), SYSTEM, USER, ANSWER, generation=False)
    assert text == "[user]You know birds.\n\nWhat does it eat?[assistant]Seeds."


def test_error_of_a_template_is_reported() -> None:
    with pytest.raises(errors.Incompatible, match="turns user, system: System role not supported"):
        render(make_tokenizer(NO_SYSTEM), USER, SYSTEM, generation=False)


def test_turns_become_lines_without_a_template() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    assert render(tokenizer, SYSTEM, USER, generation=True) == "You know birds.\nWhat does it eat?\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("localedef") is None, reason="this system cannot make a locale")
def test_date_of_templates_does_not_depend_on_the_locale_of_the_program(tmp_path: Path) -> None:
    made = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.utf8")], capture_output=True, check=False
    )
    if made.returncode > 1:  # 1 is for warnings
        pytest.skip("this system has no description of the locale")
    code = "import locale, time; locale.setlocale(locale.LC_ALL, 'de_DE.utf8'); import finch_hub.engine.data.chat as c"
    code += "; print(time.strftime('%B', (2024, 7, 26, 0, 0, 0, 4, 208, 0))); print('July' in c._DATE_MACRO)"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "LOCPATH": str(tmp_path)}, capture_output=True, check=True
    )
    assert run.stdout.split() == [b"Juli", b"True"]

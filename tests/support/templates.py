"""Chat templates of well-known families, written anew from their documented behavior, and hostile ones.

Each family names what the model must learn in the conversation that the tests render: `lead` is what a template writes
between the prompt of a generation and an answer, `end` is what ends a turn.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.models import make_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}" + 3 * "{% endfor %}"
"""Loops that take years. The sandbox of transformers bounds only a single range."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A chat template with the tokens of its tokenizer.

    Attributes:
        special: special tokens that the tokenizer does not name, as Gemma's `<end_of_turn>`.
        end: end of each turn but the last one; `last_end` that of the last one.
        writes: fields beyond role and content that the template writes.
        drops_system: whether it has no system role.
    """

    name: str
    template: str
    eos: str
    bos: str | None = None
    special: tuple[str, ...] = ()
    lead: str = ""
    end: str = ""
    last_end: str | None = None
    writes: frozenset[str] = field(default_factory=frozenset)
    has_system: bool = True

    @property
    def ends(self) -> tuple[str, str]:
        """End of a turn, and of the last turn."""
        return self.end, self.end if self.last_end is None else self.last_end


@functools.cache
def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with the tokens and the template of a family."""
    from transformers import AddedToken

    tokenizer = make_tokenizer(family.template)
    named = [token for token in (family.bos, family.eos) if token]
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in (*named, *family.special)])
    tokenizer.eos_token = family.eos
    if family.bos:
        tokenizer.bos_token = family.bos
    return tokenizer


_ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user and assistant') }}{% endif %}{% endfor %}"
)

CHATML = Family(
    name="chatml",
    eos="<|im_end|>",
    special=("<|im_start|>",),
    end="<|im_end|>",
    template=(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
)
# A system prompt where none is given, tools in it, calls and results of tools in turns of their own.
QWEN_2_5 = Family(
    name="qwen2.5",
    eos="<|im_end|>",
    special=("<|im_start|>", "<|endoftext|>"),
    end="<|im_end|>",
    writes=frozenset({"tools", "tool_calls"}),
    template=(
        "{%- set system = messages[0].content if messages[0].role == 'system' else 'You are a helpful bird.' %}"
        "{{- '<|im_start|>system\n' + system }}"
        "{%- if tools %}{{- '\n\n# Tools\n\n<tools>' }}"
        "{%- for tool in tools %}{{- '\n' + tool | tojson }}{%- endfor %}{{- '\n</tools>' }}{%- endif %}"
        "{{- '<|im_end|>\n' }}"
        "{%- for m in messages %}"
        "{%- if m.role == 'user' or (m.role == 'system' and not loop.first)"
        " or (m.role == 'assistant' and not m.tool_calls) %}"
        "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant' }}"
        "{%- if m.content %}{{- '\n' + m.content }}{%- endif %}"
        "{%- for call in m.tool_calls %}{%- set call = call.function if call.function else call %}"
        '{{- \'\n<tool_call>\n{"name": "\' + call.name + \'", "arguments": \' + (call.arguments | tojson)'
        " + '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}"
        "{%- elif m.role == 'tool' %}"
        "{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
        "{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
        "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}"
        "{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
    ),
)
# The reasoning of turns before the last question is dropped, and an answer after it always has a block of reasoning.
QWEN_3 = Family(
    name="qwen3",
    eos="<|im_end|>",
    special=("<|im_start|>", "<|endoftext|>"),
    end="<|im_end|>",
    writes=frozenset({"reasoning_content", "tool_calls"}),
    template=(
        "{%- set ns = namespace(asked=messages | length - 1, searching=true) %}"
        "{%- for m in messages[::-1] %}{%- set index = (messages | length - 1) - loop.index0 %}"
        "{%- if ns.searching and m.role == 'user' and not (m.content.startswith('<tool_response>')"
        " and m.content.endswith('</tool_response>')) %}"
        "{%- set ns.searching = false %}{%- set ns.asked = index %}{%- endif %}{%- endfor %}"
        "{%- for m in messages %}"
        "{%- if m.role in ('user', 'system') %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{%- elif m.role == 'tool' %}"
        "{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
        "{%- else %}{%- set content = m.content %}{%- set thought = '' %}"
        "{%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}"
        "{%- elif '</think>' in content %}"
        "{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
        "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
        "{{- '<|im_start|>assistant\n' }}"
        "{%- if loop.index0 > ns.asked and (loop.last or thought) %}"
        "{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
        "{%- else %}{{- content }}{%- endif %}"
        "{%- for call in m.tool_calls or [] %}"
        "{{- '\n<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}{%- endfor %}"
        "{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
        "{%- endif %}"
    ),
)
LLAMA_2 = Family(
    name="llama2",
    bos="<s>",
    eos="</s>",
    lead=" ",
    end=" </s>",
    template=(
        "{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}{% set system = messages[0].content %}"
        "{% else %}{% set turns = messages %}{% set system = false %}{% endif %}"
        "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if loop.index0 == 0 and system is not false %}"
        "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content %}"
        "{% else %}{% set content = m.content %}{% endif %}"
        "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
)
LLAMA_3 = Family(
    name="llama3",
    bos="<|begin_of_text|>",
    eos="<|end_of_text|>",
    special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    end="<|eot_id|>",
    template=(
        "{% for m in messages %}{% set text = '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n'"
        " + m.content | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
)
# Writes today's date, also where no system prompt is given. The system prompt can hold tools.
LLAMA_3_2 = Family(
    name="llama3.2",
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
    special=("<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>", "<|eom_id|>"),
    end="<|eot_id|>",
    writes=frozenset({"tools", "tool_calls"}),
    template=(
        "{{- bos_token }}"
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%d %b %Y') %}"
        "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
        "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}"
        "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
        "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' }}"
        "{%- if tools is not none %}"
        "{%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\n\n' }}{%- endfor %}{%- endif %}"
        "{{- system }}{{- '<|eot_id|>' }}"
        "{%- for m in messages %}"
        "{%- if not (m.role == 'ipython' or m.role == 'tool' or 'tool_calls' in m) %}"
        "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
        "{%- elif 'tool_calls' in m %}"
        "{%- if not m.tool_calls | length == 1 %}"
        "{{- raise_exception('This model only supports single tool-calls at once!') }}{%- endif %}"
        "{%- set call = m.tool_calls[0].function %}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        "{{- '{\"name\": \"' + call.name + '\", \"parameters\": ' }}{{- call.arguments | tojson }}{{- '}' }}"
        "{{- '<|eot_id|>' }}"
        "{%- else %}{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}{%- endif %}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
    ),
)
# The system prompt moves into the last user turn.
MISTRAL = Family(
    name="mistral",
    bos="<s>",
    eos="</s>",
    special=("[INST]", "[/INST]"),
    lead=" ",
    end="</s>",
    template=(
        "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}"
        "{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}"
        "{{- bos_token }}"
        "{%- for m in turns %}{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{- raise_exception('After the optional system message, roles must alternate') }}{%- endif %}"
        "{%- if m['role'] == 'user' %}"
        "{%- if loop.last or (loop.index0 == turns | length - 2 and turns[-1]['role'] == 'assistant') %}"
        "{%- if system is defined %}{{- '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}"
        "{%- else %}{{- '[INST] ' + m['content'] + '[/INST]' }}{%- endif %}"
        "{%- else %}{{- '[INST] ' + m['content'] + '[/INST]' }}{%- endif %}"
        "{%- else %}{{- ' ' + m['content'] + eos_token }}{%- endif %}{%- endfor %}"
    ),
)
# No system role, `model` instead of `assistant`, and an end of turn that is not the end of text.
GEMMA_2 = Family(
    name="gemma2",
    bos="<bos>",
    eos="<eos>",
    special=("<start_of_turn>", "<end_of_turn>"),
    end="<end_of_turn>",
    has_system=False,
    template=(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}" + _ALTERNATE + "{% for m in messages %}"
        "{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
)
# Folds the system prompt into the first user turn.
GEMMA_3 = Family(
    name="gemma3",
    bos="<bos>",
    eos="<eos>",
    special=("<start_of_turn>", "<end_of_turn>"),
    end="<end_of_turn>",
    template=(
        "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
        "{%- set prefix = messages[0]['content'] + '\n\n' -%}{%- set turns = messages[1:] -%}"
        "{%- else -%}{%- set prefix = '' -%}{%- set turns = messages -%}{%- endif -%}"
        "{%- for m in turns -%}"
        "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif -%}"
        "{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
        "{{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}{{ m['content'] | trim }}"
        "{{ '<end_of_turn>\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
    ),
)
# The end of text follows the last turn, if no answer is asked for.
PHI_3 = Family(
    name="phi3",
    bos="<s>",
    eos="<|endoftext|>",
    special=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    end="<|end|>",
    template=(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
)
PHI_4 = Family(
    name="phi4",
    eos="<|im_end|>",
    special=("<|im_start|>", "<|im_sep|>", "<|endoftext|>"),
    end="<|im_end|>",
    template=(
        "{% for m in messages %}{% if m['role'] in ('system', 'user', 'assistant') %}"
        "{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
    ),
)
ZEPHYR = Family(
    name="zephyr",
    bos="<s>",
    eos="</s>",
    end="</s>",
    template=(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
)
VICUNA = Family(
    name="vicuna",
    bos="<s>",
    eos="</s>",
    lead=" ",
    end="</s>",
    template=(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}"
        "{% elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
        "{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
)
# Headers are plain text, and no token ends a turn.
ALPACA = Family(
    name="alpaca",
    bos="<s>",
    eos="</s>",
    end="",
    last_end="</s>",
    template=(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}"
        "{% elif m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n\n' }}"
        "{% else %}{{ '### Response:\n' + m.content + '\n\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
    ),
)
# The prompt of a generation opens the reasoning, the turns of a conversation never have it.
DEEPSEEK_R1 = Family(
    name="deepseek-r1",
    bos="<|begin▁of▁sentence|>",
    eos="<|end▁of▁sentence|>",
    special=("<|User|>", "<|Assistant|>"),
    end="<|end▁of▁sentence|>",
    template=(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"
        "{% for m in messages %}{%- if m['role'] == 'user' %}{{ '<|User|>' + m['content'] }}{%- endif %}"
        "{%- if m['role'] == 'assistant' %}{% set content = m['content'] %}"
        "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{ '<|Assistant|>' + content + '<|end▁of▁sentence|>' }}{%- endif %}{%- endfor -%}"
        "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
    ),
)
COMMAND_R = Family(
    name="command-r",
    bos="<BOS_TOKEN>",
    eos="<|END_OF_TURN_TOKEN|>",
    special=("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
    end="<|END_OF_TURN_TOKEN|>",
    template=(
        "{{ bos_token }}{% for m in messages %}{% set role = {'system': 'SYSTEM', 'user': 'USER',"
        " 'assistant': 'CHATBOT'}[m.role] %}"
        "{{ '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
    ),
)
# Has documents, tools, and a system prompt with the date.
GRANITE = Family(
    name="granite",
    eos="<|end_of_text|>",
    special=("<|start_of_role|>", "<|end_of_role|>"),
    end="<|end_of_text|>",
    writes=frozenset({"tools", "documents"}),
    template=(
        "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}"
        "{%- set turns = messages[1:] %}{%- else %}"
        "{%- set system = 'Knowledge Cutoff Date: April 2024.\nToday\\'s Date: ' + strftime_now('%B %d, %Y') + '.' %}"
        "{%- set turns = messages %}{%- endif %}"
        "{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\n' }}"
        "{%- if tools %}{{- '<|start_of_role|>tools<|end_of_role|>' }}{{- tools | tojson(indent=4) }}"
        "{{- '<|end_of_text|>\n' }}{%- endif %}"
        "{%- if documents %}{{- '<|start_of_role|>documents<|end_of_role|>' }}"
        "{%- for document in documents %}{{- document['text'] + '\n' }}{%- endfor %}"
        "{{- '<|end_of_text|>\n' }}{%- endif %}"
        "{%- for m in turns %}{{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content']"
        " + '<|end_of_text|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"
    ),
)
# The next turn's header ends a turn, so nothing ends the last one.
GLM_4 = Family(
    name="glm4",
    eos="<|endoftext|>",
    special=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    lead="\n",
    end="",
    last_end="<|endoftext|>",
    template=(
        "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
)
INTERN_LM_2 = Family(
    name="internlm2",
    bos="<s>",
    eos="</s>",
    special=("<|im_start|>", "<|im_end|>"),
    end="<|im_end|>",
    template=(
        "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
)
# Looks for /no_think in the system prompt and writes a date.
SMOL_LM_3 = Family(
    name="smollm3",
    eos="<|im_end|>",
    special=("<|im_start|>",),
    end="<|im_end|>",
    template=(
        "{%- set mode = '/think' if enable_thinking else '/no_think' %}"
        "{%- set custom = '' %}"
        "{%- if messages[0].role == 'system' %}{%- set custom = messages[0].content %}"
        "{%- if '/no_think' in custom %}{%- set mode = '/no_think' %}"
        "{%- set custom = custom.replace('/no_think', '').rstrip() %}{%- endif %}{%- endif %}"
        "{{- '<|im_start|>system\n## Metadata\n\nToday Date: ' + strftime_now('%d %B %Y') + '\nReasoning Mode: ' + mode"
        " + '\n\n' + custom + '<|im_end|>\n' }}"
        "{%- for m in messages %}{%- if m.role == 'user' %}{{- '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
        "{%- elif m.role == 'assistant' %}{%- if mode == '/think' %}"
        "{{- '<|im_start|>assistant\n' + m.content.lstrip('\n') + '<|im_end|>\n' }}"
        "{%- else %}{{- '<|im_start|>assistant\n<think>\n\n</think>\n' + m.content.lstrip('\n') + '<|im_end|>\n' }}"
        "{%- endif %}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
        "{%- if mode == '/no_think' %}{{- '<think>\n\n</think>\n' }}{%- endif %}{%- endif %}"
    ),
)
OLMO_2 = Family(
    name="olmo2",
    bos="<|endoftext|>",
    eos="<|endoftext|>",
    end="<|endoftext|>",
    template=(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{% if not loop.last %}{{ '<|assistant|>\n' + m['content'] + eos_token + '\n' }}"
        "{% else %}{{ '<|assistant|>\n' + m['content'] + eos_token }}{% endif %}"
        "{% else %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}{% endif %}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
    ),
)
# An answer has a channel, and the last turn ends with another token than the others.
GPT_OSS = Family(
    name="gpt-oss",
    eos="<|return|>",
    special=("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|endoftext|>"),
    lead="<|channel|>final<|message|>",
    end="<|end|>",
    last_end="<|return|>",
    writes=frozenset({"reasoning_content"}),
    template=(
        "{{- '<|start|>system<|message|>You are a bird.\nCurrent date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}"
        "{%- for m in messages %}"
        "{%- if m.role == 'system' %}{{- '<|start|>developer<|message|># Instructions\n\n' + m.content + '<|end|>' }}"
        "{%- elif m.role == 'user' %}{{- '<|start|>user<|message|>' + m.content + '<|end|>' }}"
        "{%- elif m.role == 'assistant' %}"
        "{%- if loop.last and not add_generation_prompt %}"
        "{%- if m.thinking %}"
        "{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{%- endif %}"
        "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}"
        "{%- else %}{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}{%- endif %}"
        "{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"
    ),
)
# Merges neighboring turns of one role.
MERGING = Family(
    name="merging",
    bos="<s>",
    eos="</s>",
    special=("[USER]", "[BOT]"),
    end="</s>",
    template=(
        "{{ bos_token }}{% for m in messages %}{% if loop.first or messages[loop.index0 - 1].role != m.role %}"
        "{{ {'system': '', 'user': '[USER]', 'assistant': '[BOT]'}[m.role] }}{% else %}{{ '\n\n' }}{% endif %}"
        "{{ m.content }}"
        "{% if m.role == 'assistant' and (loop.last or messages[loop.index0 + 1].role != m.role) %}{{ eos_token }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '[BOT]' }}{% endif %}"
    ),
)
# The end of a turn is plain text.
PLAIN_END = Family(
    name="plain-end",
    eos="</s>",
    end="\n[END]",
    last_end="\n[END]</s>",
    template=(
        "{% for m in messages %}{{ '## ' + m.role + '\n' + m.content + '\n[END]\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '## assistant\n' }}{% endif %}"
    ),
)
# Leaves system turns out without a word.
NO_SYSTEM = Family(
    name="no-system",
    eos="<|im_end|>",
    special=("<|im_start|>",),
    end="<|im_end|>",
    has_system=False,
    template=(
        "{% for m in messages %}{% if m.role != 'system' %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
)

FAMILIES = (
    CHATML, QWEN_2_5, QWEN_3, LLAMA_2, LLAMA_3, LLAMA_3_2, MISTRAL, GEMMA_2, GEMMA_3, PHI_3, PHI_4, ZEPHYR, VICUNA,
    ALPACA, DEEPSEEK_R1, COMMAND_R, GRANITE, GLM_4, INTERN_LM_2, SMOL_LM_3, OLMO_2, GPT_OSS, MERGING,
    PLAIN_END, NO_SYSTEM,
)  # fmt: skip

_CHAT = "{{ '<|im_start|>' + m.role + '\n' + %s + '<|im_end|>\n' }}"
_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
HOSTILE = {
    "shouting": "{% for m in messages %}" + _CHAT % "m.content | upper" + "{% endfor %}" + _ASK,
    "backwards": "{% for m in messages | reverse %}" + _CHAT % "m.content" + "{% endfor %}" + _ASK,
    "reversed text": "{% for m in messages %}" + _CHAT % "m.content[::-1]" + "{% endfor %}" + _ASK,
    "cut": "{% for m in messages %}" + _CHAT % "m.content[:5]" + "{% endfor %}" + _ASK,
    "twice": "{% for m in messages %}" + _CHAT % "m.content + m.content" + "{% endfor %}" + _ASK,
    "answers first": "{% for m in messages if m.role == 'assistant' %}" + _CHAT % "m.content" + "{% endfor %}"
    "{% for m in messages if m.role != 'assistant' %}" + _CHAT % "m.content" + "{% endfor %}" + _ASK,
    "echo": "{% for m in messages %}" + _CHAT % "messages[0].content + m.content" + "{% endfor %}" + _ASK,
    "by length": "{% for m in messages %}{% if m.content | length > 9 %}" + _CHAT % "m.content" + "{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}" + _ASK,
    "answers only": "{% for m in messages if m.role == 'assistant' %}" + _CHAT % "m.content" + "{% endfor %}" + _ASK,
    "nothing": "nothing",
    "in one": "{{ messages | map(attribute='content') | join('') }}",
    "escaped": "{% for m in messages %}" + _CHAT % "m.content | e" + "{% endfor %}" + _ASK,
    "json": "{{ messages | tojson }}",
}
"""Templates by what they do, over the tokens of ChatML."""

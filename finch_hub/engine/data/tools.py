"""Tools and calls of tools, in the forms that people write them. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finch_hub import errors
from finch_hub.engine.data import json_values
from finch_hub.engine.data.row import describe, describe_other
from finch_hub.specs.value import JsonObject

_CALL_FORM = 'write {"name": …, "arguments": {…}}'


def read_tools(value: Any, where: str) -> tuple[JsonObject, ...]:
    """Read schemas of tools, or their JSON text, in the form of OpenAI. Anthropic's form is converted.

    Raises:
        InvalidSpec: a tool has no name, or its parameters are not an object.
    """
    value = json_values.parse_list(value)
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, (list, tuple)):
        raise errors.InvalidSpec(describe_other(value, "tools"), where=where)
    return tuple(_read_tool(tool, f"{where}, item {number}") for number, tool in enumerate(value, start=1))


def read_calls(value: Any) -> tuple[JsonObject, ...]:
    """Return calls of tools in OpenAI's form, with arguments as objects."""
    if value is None or value in ("", [], {}):
        return ()
    value = json_values.parse_list(value)
    calls = [value] if isinstance(value, Mapping) else value
    if not isinstance(calls, (list, tuple)):
        raise errors.InvalidSpec(f"has a call of a tool that is not JSON but {describe(calls)}", fix=_CALL_FORM)
    return tuple(_read_call(call) for call in calls)


def _read_call(call: Any) -> JsonObject:
    call = json_values.parse_list(call)
    envelope = json_values.drop_nulls(call) if isinstance(call, Mapping) else {}
    function = envelope.pop("function", None)
    if isinstance(function, Mapping):
        function = json_values.drop_nulls(function)
    else:
        function = {name: envelope.pop(name) for name in ("name", "arguments", "parameters") if name in envelope}
    name, arguments = function.get("name"), json_values.take(function, "arguments", "parameters")
    if not isinstance(name, str) or not name:
        raise errors.InvalidSpec("has a call of a tool without a name", fix=_CALL_FORM)
    if isinstance(arguments, str):
        try:
            arguments = json_values.clean(json_values.parse(arguments), keeps_nulls=True) if arguments.strip() else {}
        except ValueError:
            arguments = "text"
    else:
        arguments = json_values.clean(arguments)
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping):
        what = "has arguments of a call that are not a JSON object"
        raise errors.InvalidSpec(what, fix=_CALL_FORM)
    ordered: JsonObject = json_values.order_keys(
        {**json_values.clean(envelope), "type": "function", "function": {**json_values.clean(function)}}
    )
    ordered["function"]["arguments"] = dict(arguments)
    return ordered


def _read_tool(tool: Any, where: str) -> JsonObject:
    tool = json_values.parse_list(tool)
    envelope = json_values.clean_item(tool, where) if isinstance(tool, Mapping) else {}
    function = envelope.pop("function", None)
    if not isinstance(function, Mapping):
        function, envelope = {key: value for key, value in envelope.items() if key != "type"}, {}
    if "input_schema" in function:
        function["parameters"] = function.pop("input_schema")
    if isinstance(function.get("parameters"), str):
        function["parameters"] = json_values.clean_item(
            json_values.parse_list(function["parameters"]), where, keeps_nulls=True
        )
    if not isinstance(function.get("name"), str) or not function["name"]:
        what = f"is {describe(tool)} without a name"
        raise errors.InvalidSpec(what, where=where, fix='write {"type": "function", "function": {"name": …}}')
    if not isinstance(function.get("parameters", {}), Mapping):
        given = function["parameters"]
        shown = "a text that is not JSON" if isinstance(given, str) else describe(given)
        what = f"has {shown} instead of an object in 'parameters'"
        raise errors.InvalidSpec(what, where=where)
    ordered: JsonObject = json_values.order_keys({**envelope, "type": "function", "function": function})
    return ordered

"""Base class of values that layers exchange: frozen, readable as JSON, without unknown fields unless stored."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

import pydantic

from finch_hub import errors
from finch_hub.texts.summaries import Summarized, list_attributes

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass  # pydantic exports no name for it
else:
    ModelMetaclass = type(pydantic.BaseModel)

JsonObject = dict[str, Any]
"""JSON at a border; its fields depend on a job kind, a format or a plugin."""

MAX_NESTING = 200
"""Deepest nesting of a stored document. The parser that reads documents takes no deeper ones."""
_MAX_PARAMETER_NESTING = 100  # a job's parameters are a part of other documents


def check_nesting(value: Any, limit: int = MAX_NESTING) -> None:
    """Refuse JSON that is nested too deeply to be read again.

    Raises:
        ValueError: lists and objects are nested more than `limit` deep.
    """
    parts: list[tuple[Any, int]] = [(value, 0)]
    while parts:
        part, depth = parts.pop()
        if isinstance(part, (dict, list, tuple)):
            if depth == limit:
                raise ValueError(f"is nested more than {limit} deep")
            parts += [(item, depth + 1) for item in (part.values() if isinstance(part, dict) else part)]


def _check_parameters(parameters: JsonObject) -> JsonObject:
    check_nesting(parameters, _MAX_PARAMETER_NESTING)
    return parameters


Parameters = Annotated[JsonObject, pydantic.AfterValidator(_check_parameters)]
"""Parameters of a job, whose names and values its kind, a format or a plugin knows."""

MAX_INTEGER = 2**63 - 1
"""Largest integer that both databases store."""
NonNegativeInt = Annotated[int, pydantic.Field(ge=0, le=MAX_INTEGER)]
PositiveInt = Annotated[int, pydantic.Field(gt=0, le=MAX_INTEGER)]
Digest = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]

# Paths of pydantic contain the members of a union: `constrained-int`, `literal['auto']`, `function-after[…]`.
_MEMBER = re.compile(r"^[a-z]+(-[a-z]+)+$|\[.*\]$")


class _Translating(ModelMetaclass):
    """Metaclass that raises `InvalidSpec` from a direct call. Nested values are validated together."""

    def __call__(cls, *args: Any, **fields: Any) -> Any:  # noqa: N805 - a metaclass's instances are classes
        try:
            return super().__call__(*args, **fields)
        except pydantic.ValidationError as error:
            raise errors.InvalidSpec(
                problems_of(error, cast("type[Value]", cls).model_fields), subject=cls.__name__
            ) from None

    def __dir__(cls) -> list[str]:  # noqa: N805
        return list_attributes(super().__dir__(), _list_meant(cls))


class Value(Summarized, pydantic.BaseModel, metaclass=_Translating):
    """A frozen pydantic model that raises `InvalidSpec`.

    Completion offers its fields and methods, and of pydantic's methods only those that write JSON.

    Raises:
        InvalidSpec: some fields are invalid; contains a problem for each.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, data: object, *, subject: str = "", context: Mapping[str, Any] | None = None) -> Self:
        """Return the value of a mapping or of JSON text.

        Raises:
            InvalidSpec: some fields are invalid; contains a problem for each.
        """
        try:
            if isinstance(data, (str, bytes)):
                return cls.model_validate_json(data, context=context)
            return cls.model_validate(data, context=context)
        except pydantic.ValidationError as error:
            raise errors.InvalidSpec(problems_of(error, cls.model_fields), subject=subject) from None

    @classmethod
    def of_stored(cls, data: object, *, subject: str = "", context: Mapping[str, Any] | None = None) -> Self:
        """Return the value of stored JSON, without the fields that only another version of Finch Hub knows.

        Raises:
            InvalidSpec: some fields are invalid; contains a problem for each.
        """
        return cls.of(_drop_fields(data, cls._find_unknown(data, context)), subject=subject, context=context)

    @classmethod
    def list_unknown(cls, data: object, *, context: Mapping[str, Any] | None = None) -> list[str]:
        """Return the dotted paths of the fields that `of_stored` passes over."""
        return sorted({".".join(map(str, path)) for path in cls._find_unknown(data, context)})

    @classmethod
    def _find_unknown(cls, data: object, context: Mapping[str, Any] | None) -> list[tuple[int | str, ...]]:
        try:
            cls.model_validate(data, context=context)
        except pydantic.ValidationError as error:
            findings = error.errors(include_url=False, include_context=False, include_input=False)
            return [finding["loc"] for finding in findings if finding["type"] == "extra_forbidden"]
        return []

    def __dir__(self) -> list[str]:
        return list_attributes(super().__dir__(), _list_meant(type(self)) | set(self.model_extra or ()))

    def _list_fields(self) -> Mapping[str, object]:
        """Return the fields that are shown and differ from their defaults."""
        known = self.__dict__  # a value that is only begun lacks some
        fields = ((name, field, known[name]) for name, field in type(self).model_fields.items() if name in known)
        shown = {
            name: value
            for name, field, value in fields
            if field.repr and (field.is_required() or value != field.get_default(call_default_factory=True))
        }
        return {**shown, **(getattr(self, "__pydantic_extra__", None) or {})}

    def evolve(self, **changes: Any) -> Self:
        """Return a validated copy with changes.

        Raises:
            InvalidSpec: some fields are invalid; contains a problem for each.
        """
        return type(self).of({**{name: getattr(self, name) for name in self.model_fields_set}, **changes})


class Config(Value):
    """A value whose fields users set. True is not taken for 1, and neither is 1 for true."""

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _tell_truth_from_numbers(cls, value: object, info: pydantic.ValidationInfo) -> object:
        is_truth = cls.model_fields[str(info.field_name)].annotation is bool
        if is_truth and not isinstance(value, bool):
            raise ValueError("is neither true nor false")
        if isinstance(value, bool) and not is_truth:
            raise ValueError("cannot be true or false")
        parts = list(value.values()) if isinstance(value, Mapping) else value
        if isinstance(parts, (list, tuple, set, frozenset)) and any(isinstance(part, bool) for part in parts):
            raise ValueError("cannot contain true or false")
        return value


_OF_PYDANTIC = frozenset({"model_dump", "model_dump_json"})
_FOR_STORES = frozenset({"list_unknown", "model_config", "of_stored"})


def _list_meant(value: type) -> set[str]:
    """Return the names of a value that users are to see: its fields, methods and properties."""
    names = {name for name, field in getattr(value, "model_fields", {}).items() if field.repr}
    for part in value.__mro__:
        if part is pydantic.BaseModel:
            break
        names.update(vars(part))
    return (names | _OF_PYDANTIC) - _FOR_STORES


def _drop_fields(data: object, paths: Iterable[tuple[int | str, ...]]) -> object:
    """Return a copy without the fields at these paths of pydantic, which also name members of unions."""
    paths = list(paths)
    kept = copy.deepcopy(data) if paths else data
    for *parts, name in paths:
        parent: Any = kept
        for part in parts:
            is_index = isinstance(parent, list) and isinstance(part, int) and part < len(parent)
            if is_index or (isinstance(parent, dict) and part in parent):
                parent = parent[part]
        if isinstance(parent, dict):
            parent.pop(name, None)
    return kept


def problems_of(error: pydantic.ValidationError, known: Iterable[str] = ()) -> tuple[errors.Problem, ...]:
    """Return a problem for each invalid field, by its dotted path; `known` are the names of all fields."""
    problems: dict[str, errors.Problem] = {}
    for finding in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in finding["loc"] if not _MEMBER.search(str(part)))
        what, fix = str(finding["msg"]).removeprefix("Value error, "), ""
        if finding["type"] == "extra_forbidden":
            near = errors.near(where, known) if len(finding["loc"]) == 1 else ()
            what, fix = "there is no such field", f"did you mean {' or '.join(near)}?" if near else ""
        elif where in problems:  # pydantic reports each member of a union
            what = f"{problems[where].what}, or {what.removeprefix('Input should be ')}"
        problems[where] = errors.Problem(where=where, what=what, fix=fix)
    return tuple(problems.values())

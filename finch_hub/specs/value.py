"""The base of every value that travels between layers: frozen, strict about unknown fields, readable as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, cast

import pydantic

from finch_hub import errors

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass  # pydantic exports no name for it
else:
    ModelMetaclass = type(pydantic.BaseModel)


# In a path pydantic names the members of a union as well: `constrained-int`, `literal['auto']`, `function-after[…]`.
_MEMBER = re.compile(r"^[a-z]+(-[a-z]+)+$|\[.*\]$")


class _Translating(ModelMetaclass):
    """Turns the ValidationError of a direct call into ours; nested values are still validated in one go."""

    def __call__(cls, *args: Any, **fields: Any) -> Any:  # noqa: N805 - a metaclass's instances are classes
        try:
            return super().__call__(*args, **fields)
        except pydantic.ValidationError as error:
            raise errors.InvalidSpec(
                problems_of(error, cast("type[Value]", cls).model_fields), subject=cls.__name__
            ) from None


class Value(pydantic.BaseModel, metaclass=_Translating):
    """A frozen pydantic model whose problems are reported as ours, all at once.

    Raises:
        InvalidSpec: with one problem for each field that is wrong.

    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, data: object, *, subject: str = "", context: Mapping[str, Any] | None = None) -> Self:
        """Validate plain data (a mapping, or the JSON text of one).

        Raises:
            InvalidSpec: with one problem for each field that is wrong.

        """
        try:
            if isinstance(data, (str, bytes)):
                return cls.model_validate_json(data, context=context)
            return cls.model_validate(data, context=context)
        except pydantic.ValidationError as error:
            raise errors.InvalidSpec(problems_of(error, cls.model_fields), subject=subject) from None

    def evolve(self, **changes: Any) -> Self:
        """Return a copy with the changes, validated as a whole.

        Raises:
            InvalidSpec: with one problem for each field that is wrong.

        """
        return type(self).of({**{name: getattr(self, name) for name in self.model_fields_set}, **changes})


def problems_of(error: pydantic.ValidationError, known: Iterable[str] = ()) -> tuple[errors.Problem, ...]:
    """Translate pydantic's findings, one for each field by its dotted path; `known` are the fields that there are."""
    found: dict[str, errors.Problem] = {}
    for finding in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in finding["loc"] if not _MEMBER.search(str(part)))
        what, fix = str(finding["msg"]).removeprefix("Value error, "), ""
        if finding["type"] == "extra_forbidden":
            near = errors.near(where, known) if len(finding["loc"]) == 1 else ()
            what, fix = "there is no such field", f"did you mean {' or '.join(near)}?" if near else ""
        elif where in found:  # each member of a union has its own finding
            what = f"{found[where].what}, or {what.removeprefix('Input should be ')}"
        found[where] = errors.Problem(where=where, what=what, fix=fix)
    return tuple(found.values())

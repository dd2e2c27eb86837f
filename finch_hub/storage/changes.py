"""Changes of the registry by a user: each leaves an entry in the audit, also if it is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from finch_hub import errors
from finch_hub.registry import audit
from finch_hub.registry.database import Session
from finch_hub.specs.value import JsonObject
from finch_hub.storage.stores import Stores

_MAX_REASON = 1000  # characters


@contextlib.contextmanager
def changing(stores: Stores, action: audit.Action, on: object, **details: Any) -> Iterator[Change]:
    """Open a change. What it writes is in the audit with the commit, and its refusal is after the roll back.

    Args:
        on: what is changed, as the user named it.
        details: what else is known; None is left out.
    """
    change = Change(stores, action, str(on), details)
    try:
        yield change
    except errors.FinchError as error:
        if not isinstance(error, errors.Unavailable):  # a failure, which is no refusal
            change.refuse(error)
        raise


class Change:
    """A change of the registry by the user of this process.

    Attributes:
        on: what is changed. Whoever resolves a reference names the version here.
        details: what else is known of the change, until its last transaction ends.
    """

    def __init__(self, stores: Stores, action: audit.Action, on: str, details: JsonObject) -> None:
        self._stores, self._action = stores, action
        self._entry: int | None = None
        self.on = on
        self.details = details

    @property
    def who(self) -> str:
        """Name of the user."""
        return self._clean(self._stores.settings.user_name)

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction of the change, with its entry. Further transactions complete the same entry.

        Raises:
            Conflict: a constraint of the database forbids the change.
            Unavailable: the database does not answer, stays locked too long, or is full.
        """
        with self._stores.database.write() as session:
            yield session
            on, details = self._clean(self.on), self._stores.redactor.clean_values(self._list_details())
            if self._entry is None:
                entry = audit.add(session, who=self.who, action=self._action, on=on, details=details)
            else:
                entry = self._entry
                audit.describe_more(session, entry, on=on, details=details)
        self._entry = entry  # not before the commit

    def refuse(self, error: errors.FinchError) -> None:
        """Add the entry of the refusal, unless a part of the change was made, or the database fails."""
        if self._entry is not None:
            return
        # Problems of a data set quote its rows, which a purge could not find if it was never stored.
        is_about_rows = isinstance(error, errors.InvalidDataset)
        reason = "some of its rows cannot be used" if is_about_rows else self._clean(str(error))[:_MAX_REASON]
        on, details = self._clean(self.on), self._stores.redactor.clean_values(self._list_details())
        refused: JsonObject = {"outcome": "refused", "reason": reason}
        with contextlib.suppress(errors.FinchError), self._stores.database.write() as session:
            audit.add(session, who=self.who, action=self._action, on=on, details=details, **refused)

    def _list_details(self) -> JsonObject:
        return {name: value for name, value in self.details.items() if value is not None}

    def _clean(self, text: str) -> str:
        return self._stores.redactor.clean(text)

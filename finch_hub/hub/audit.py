"""Audit: the changes of the registry, who made them, and which were refused."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.registry import audit

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


class Audit:
    """The entries of the audit. Each change has written one in its own transaction."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def find(
        self,
        *,
        who: str | None = None,
        action: str | None = None,
        on: str | None = None,
        since: date | None = None,
        limit: int = 100,
        after: int | None = None,
    ) -> list[audit.AuditEntry]:
        """Return entries, newest first.

        Args:
            who: name of the user, or the owner of the job.
            action: action, such as ``alias.move``.
            on: name of an adapter, a base or a data set, id of a job, or reference of one version or alias.
            since: day or time of the oldest entry. Without a time zone, it is that of this machine.
            limit: maximum number of entries.
            after: `id` of the last entry on the previous page.

        Raises:
            InvalidSpec: there is no such action.
            NotFound: nothing that `on` names has entries or exists; offers similar names.
        """
        oldest = None
        if since is not None:
            moment = since if isinstance(since, datetime) else datetime(since.year, since.month, since.day)
            try:
                oldest = moment.astimezone()
            except (ValueError, OverflowError):
                raise errors.InvalidSpec(f"{since} is not a time here", where="since", fix="give a later day") from None
        with self._stores.database.read() as session:
            return audit.find(session, who=who, action=action, on=on, since=oldest, limit=limit, after=after)

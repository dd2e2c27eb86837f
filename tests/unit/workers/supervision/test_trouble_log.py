from __future__ import annotations

import logging

import pytest
from support.logs import list_said

from finch_hub.workers.supervision.trouble_log import TroubleLog

log = logging.getLogger("finch_hub.test")


def test_trouble_is_logged_once_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trouble = TroubleLog(log, "dispatch")
    trouble.end()
    assert caplog.messages == [], "nothing was wrong"
    for error in (OSError("gone"), OSError("full"), OSError("gone"), OSError()):
        trouble.add(error)
    trouble.end()
    trouble.end()
    trouble.add(OSError("gone"))
    fields = [{"error": "gone"}, {"error": "full"}, {"error": "OSError"}, {"broker": "well"}, {"error": "gone"}]
    assert list_said(caplog) == [{"action": "dispatch", **field} for field in fields]

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finch_hub.specs.events import NewEvent
from finch_hub.workers.runs.channel import Channel, Stopped


@pytest.fixture
def messages() -> io.BytesIO:
    return io.BytesIO()


@pytest.fixture
def channel(messages: io.BytesIO) -> Channel:
    return Channel(messages)


def sent(messages: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in messages.getvalue().splitlines()]


def test_messages_are_lines_of_json(channel: Channel, messages: io.BytesIO) -> None:
    channel.report(NewEvent(type="message", message="two\nlines"))
    channel.send(type="done", outcome={"adapter": Path("/a")})
    event, done = sent(messages)
    assert event["type"] == "event"
    assert event["event"]["message"] == "two\nlines"
    assert done == {"type": "done", "outcome": {"adapter": "/a"}}


def test_event_keeps_what_json_does_not_have(channel: Channel, messages: io.BytesIO) -> None:
    """Events of plugins may have NumPy's numbers, and a training that diverges has no finite loss."""
    channel.report(NewEvent(type="metrics", data={"loss": math.nan, "score": np.float32(0.5), "rank": None}))
    data = sent(messages)[0]["event"]["data"]
    assert math.isnan(data.pop("loss"))
    assert data == {"score": "0.5", "rank": None}


def test_stop_is_raised_at_the_next_phase_and_no_plugin_catches_it(channel: Channel, messages: io.BytesIO) -> None:
    channel.phase("training")
    channel.stop("hand_back")
    assert channel.should_stop() == "hand_back"
    with pytest.raises(Stopped) as caught:
        channel.phase("storing")
    assert caught.value.why == "hand_back"
    assert not isinstance(caught.value, Exception)
    channel.stop(None)
    channel.phase("storing")
    assert [message["event"]["message"] for message in sent(messages)] == ["training", "storing", "storing"]


def test_member_has_its_own_folder_stop_and_tag(channel: Channel, messages: io.BytesIO, tmp_path: Path) -> None:
    channel.workdir = tmp_path / "shared"
    member = channel.member("a", tmp_path / "a")
    member.stop("cancel")
    assert channel.should_stop() is None
    member.send(type="done")
    assert sent(messages) == [{"type": "done", "job": "a"}]
    assert member.bases is channel.bases
    assert not (tmp_path / "a").exists(), "a folder is made when it is used"
    assert member.checkpoints.parent == tmp_path / "a"
    assert (tmp_path / "a").is_dir()


def test_message_to_a_supervisor_that_has_ended_raises_nothing(tmp_path: Path) -> None:
    class Closed(io.BytesIO):
        def write(self, data: Any) -> int:
            raise BrokenPipeError

    Channel(Closed()).send(type="done")

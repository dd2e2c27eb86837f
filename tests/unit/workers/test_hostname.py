from __future__ import annotations

import socket

import pytest

from finch_hub.specs.jobs import check_label
from finch_hub.workers.hostname import find_hostname


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("box-1.example.org", "box-1.example.org"),
        ("my_box", "my_box"),
        ("büro rechner", "b-ro-rechner"),
        ("caf\udce9", "caf"),
        ("-box-", "box"),
        ("コンピュータ", "host"),
        ("", "host"),
        ("a" * 63 + ".example.org", "a" * 63),
        ("b" * 253, "b" * 64),
    ],
)
def test_name_of_any_host_can_begin_the_name_of_a_worker(
    name: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert find_hostname() == found
    check_label(f"{find_hostname()}-home-4194304")  # the largest process id of Linux

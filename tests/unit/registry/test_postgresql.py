from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.registry.database import Database


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://finch@db.example.com/finch",
        "postgresql+psycopg://finch@10.0.0.7:5433/finch",
        "postgresql://finch@/finch?host=127.0.0.1:5432&host=db2:5432",
    ],
)
def test_remote_server_without_password_is_refused(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGPASSWORD", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(errors.InvalidSpec, match=r"no password for the database at .*FINCH_ALLOW_INSECURE"):
        Database(url)
    Database(url, allow_insecure=True).close()
    monkeypatch.setenv("PGPASSWORD", "secret")
    Database(url).close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://finch@localhost/finch",
        "postgresql://finch@127.0.0.2/finch",
        "postgresql://finch@[::1]:5432/finch",
        "postgresql://finch@/finch?host=/run/postgresql",
        "postgresql:///finch",
        "postgresql://finch:secret@db.example.com/finch",
        "postgresql://finch@db.example.com/finch?passfile=/run/secrets/pgpass",
    ],
)
def test_local_server_or_credentials_are_accepted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    Database(url).close()

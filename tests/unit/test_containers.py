"""`Dockerfile`, `docker-compose.yml` and the unit of systemd, checked without an engine or a service manager."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from finch_hub import settings
from finch_hub.cli.worker import worker
from finch_hub.workers.messaging import broker

ROOT = Path(__file__).parents[2]
PASSWORDS = {"FINCH_DATABASE_PASSWORD": "database-password", "FINCH_BROKER_PASSWORD": "broker-password"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text()
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: PASSWORDS[match[1]], text)
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_the_compose_file_is_as_the_specification_says(compose: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(get_builtin_schema("vendor.compose-spec"))
    assert [error.message for error in validator.iter_errors(compose)] == []
    broken = {**compose, "services": {"worker": {"imagine": "x"}}}
    assert list(validator.iter_errors(broken)), "the schema refuses what it should"


def test_its_services_refer_to_what_there_is(compose: dict[str, Any]) -> None:
    services, volumes = compose["services"], compose["volumes"]
    assert {"postgres", "redis", "worker"} <= services.keys()
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed]
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in volumes


@pytest.mark.parametrize("name", ["migrate", "worker", "worker-gpu"])
def test_its_workers_are_configured_as_the_settings_want(
    compose: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service = compose["services"][name]
    for variable, value in service["environment"].items():
        assert variable.removeprefix("FINCH_").lower() in settings.Settings.model_fields
        monkeypatch.setenv(variable, value)
    loaded = settings.load(home=tmp_path)
    assert not loaded.allow_insecure
    assert loaded.broker_url is not None
    broker.refuse_open_broker(loaded.broker_url.get_secret_value(), allow_insecure=False)
    for url in (loaded.database, loaded.broker_url.get_secret_value()):
        host = re.search(r"@([\w-]+):", url)
        assert host is not None
        assert host[1] in compose["services"]
    if name != "migrate":
        assert int(service["stop_grace_period"].removesuffix("s")) > loaded.grace_seconds
        mounted = {volume.split(":")[1] for volume in service["volumes"]}
        assert loaded.artifacts in mounted


def test_a_gpu_is_reserved_in_its_profile_only(compose: dict[str, Any]) -> None:
    reserving = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in compose["services"].items()
        if "deploy" in service
    }
    assert list(reserving) == ["worker-gpu"]
    assert reserving["worker-gpu"][0]["capabilities"] == ["gpu"]
    assert compose["services"]["worker-gpu"]["profiles"] == ["gpu"]
    assert "profiles" not in compose["services"]["worker"]


def test_no_password_stands_in_the_file() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) == set(PASSWORDS)
    assert re.findall(r"(?i)^\s*\w*(?:password|auth)\w*:\s*([^$\s].*)", text, re.MULTILINE) == []


def test_the_dockerfile_copies_what_is_there_and_starts_what_is_installed() -> None:
    lines = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text()).splitlines()
    copied = {
        source
        for line in lines
        if line.startswith("COPY") and "--from" not in line
        for source in shlex.split(line)[1:-1]
    }
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept
    assert all((ROOT / source).exists() for source in copied)
    entry = next(line for line in lines if line.startswith("ENTRYPOINT"))
    assert f"{yaml.safe_load(entry.removeprefix('ENTRYPOINT'))[0]} = " in (ROOT / "pyproject.toml").read_text()
    users = [line for line in lines if line.startswith("USER")]
    assert users, "it does not run as root"
    assert users != ["USER root"]
    variables = {name for line in lines for name in re.findall(r"FINCH_(\w+)=", line)}
    assert {name.lower() for name in variables} <= settings.Settings.model_fields.keys()


def test_the_dockerfile_asks_for_extras_that_exist() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = re.search(r"ARG EXTRAS=(\S+)", (ROOT / "Dockerfile").read_text())
    assert asked is not None
    compose = (ROOT / "docker-compose.yml").read_text()
    named = asked[1].split(",") + (re.search(r"EXTRAS: (\S+)", compose) or [""])[1].split(",")
    assert set(named) <= project["optional-dependencies"].keys()


def test_the_unit_of_systemd_starts_a_worker_and_leaves_it_time_to_stop() -> None:
    unit = configparser.ConfigParser(delimiters="=", interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "examples" / "systemd" / "finch-hub-worker.service")
    service = unit["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/finch-hub")
    assert arguments[:2] == ["worker", "start"]
    command = worker.commands["start"]
    assert command.make_context("start", arguments[2:]).params["name"] == "%H"
    assert int(service["TimeoutStopSec"]) > settings.load().grace_seconds
    assert service["Restart"] == "on-failure"

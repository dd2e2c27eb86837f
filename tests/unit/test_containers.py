"""`Dockerfile`, `docker-compose.yml`, the unit of systemd and manifests of Kubernetes, without their engines."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema
import pytest
import redis
import sqlalchemy as sa
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from support import commands
from support.fleet import wait_until

from finch_hub import settings
from finch_hub.registry import postgresql
from finch_hub.workers.embedded import broker as embedded_broker
from finch_hub.workers.messaging import broker
from finch_hub.workers.supervision import health

ROOT = Path(__file__).parents[2]
USER = 10001
PASSWORDS = {"FINCH_DATABASE_PASSWORD": "p@ss:w/o%rd#?&[]", "FINCH_BROKER_PASSWORD": "größer: 日本"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text()
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: f"'{PASSWORDS[match[1]]}'", text)
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
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
    for url, password in ((loaded.database, "DATABASE"), (loaded.broker_url.get_secret_value(), "BROKER")):
        parts = urlsplit(url)
        assert parts.hostname in compose["services"]
        assert unquote(parts.password or "") == PASSWORDS[f"FINCH_{password}_PASSWORD"]
    if name != "migrate":
        assert int(service["stop_grace_period"].removesuffix("s")) > loaded.grace_seconds
        mounted = {volume.split(":")[1] for volume in service["volumes"]}
        assert loaded.artifacts in mounted


@pytest.mark.parametrize(
    "password", ["--port 1", "größer: 日本", "p@ss:w/o%rd#?&[]", """'a"b\\x41\\\\ $HOME `id` c'"""]
)
def test_its_broker_takes_any_password(compose: dict[str, Any], password: str, tmp_path: Path) -> None:
    shell, option, script = compose["services"]["redis"]["command"]
    server, place = embedded_broker.find_server(), tmp_path / "s"
    script = script.replace("$$", "$").replace(" valkey-server ", f" {server} --port 0 --unixsocket {place} ")
    variables = {"PATH": os.environ["PATH"], "VALKEYCLI_AUTH": password}
    with (
        subprocess.Popen([shell, option, script], env=variables, cwd=tmp_path, stdout=subprocess.DEVNULL) as process,
        contextlib.closing(redis.Redis(unix_socket_path=str(place), password=password)) as client,
    ):
        try:
            wait_until(place.exists, "the broker to start")
            assert client.ping()
        finally:
            process.terminate()


def test_a_gpu_is_reserved_in_its_profile_only(compose: dict[str, Any]) -> None:
    reserving = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in compose["services"].items()
        if "reservations" in service["deploy"]["resources"]
    }
    assert list(reserving) == ["worker-gpu"]
    assert reserving["worker-gpu"][0]["capabilities"] == ["gpu"]
    assert compose["services"]["worker-gpu"]["profiles"] == ["gpu"]
    assert "profiles" not in compose["services"]["worker"]


def test_every_service_has_limits(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}


def test_no_password_stands_in_the_file() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == set(PASSWORDS)
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
    init, separator, program = yaml.safe_load(entry.removeprefix("ENTRYPOINT"))
    assert (init, separator) == ("tini", "--")
    assert f"--no-install-recommends {init} " in "".join(lines)
    assert f"{program} = " in (ROOT / "pyproject.toml").read_text()
    assert [line for line in lines if line.startswith("USER")] == [f"USER {USER}:{USER}"]
    assert f"--gid {USER} " in "".join(lines)
    assert f"--uid {USER} " in "".join(lines)
    variables = {name for line in lines for name in re.findall(r"FINCH_(\w+)=", line)}
    assert {name.lower() for name in variables} <= settings.Settings.model_fields.keys()


@pytest.mark.parametrize("file", [health.ALIVE, health.READY])
def test_probes_ask_for_files_that_a_worker_touches(file: str, tmp_path: Path) -> None:
    """The commands of all probes are run, with a new file, an old one and none."""
    dockerfile = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    check = re.search(r"HEALTHCHECK .*CMD (\[.*\])", dockerfile)
    assert check is not None
    commands = [yaml.safe_load(check[1])] + [
        probe["exec"]["command"] for name, probe in worker_container().items() if name.endswith("Probe")
    ]
    commands = [command for command in commands if f"/{file}" in command[-1]]
    assert commands

    def ask() -> set[int]:
        variables = {"PATH": os.environ["PATH"], "FINCH_HEALTH_FOLDER": str(tmp_path / "health")}
        return {subprocess.run(command, env=variables, capture_output=True).returncode for command in commands}

    assert ask() == {1}
    files = health.HealthFiles(tmp_path / "health")
    files.report_ready(True)
    assert ask() == {0}
    os.utime(tmp_path / "health" / file, (0, 0))
    assert ask() == {1}


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "examples" / "kubernetes" / f"{name}.yaml").read_text()))


def worker_container() -> dict[str, Any]:
    (worker,) = manifests("worker")
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    made: dict[str, Any] = container
    return made


def test_the_settings_of_kubernetes_can_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings_map, secret = manifests("configuration")
    variables = {**settings_map["data"], **secret["stringData"]}
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
        name = variable.removeprefix("FINCH_")
        assert name.lower() in settings.Settings.model_fields or name.startswith("AWS_")
    loaded = settings.load(home=tmp_path)
    assert loaded.broker_url is not None
    broker.refuse_open_broker(loaded.broker_url.get_secret_value(), allow_insecure=False)
    postgresql.refuse_open_server(sa.make_url(loaded.database))
    assert loaded.artifacts.startswith("s3://")
    for name in ("migration", "worker"):
        (manifest,) = manifests(name)
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        sources = {(kind, ref["name"]) for source in container["envFrom"] for kind, ref in source.items()}
        assert sources == {
            ("configMapRef", settings_map["metadata"]["name"]),
            ("secretRef", secret["metadata"]["name"]),
        }


@pytest.mark.parametrize("name", ["migration", "worker"])
def test_the_pods_of_kubernetes_fit_the_image_and_the_command_line(name: str) -> None:
    (manifest,) = manifests(name)
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context = pod["securityContext"]
    assert context["runAsNonRoot"]
    assert {context[user] for user in ("runAsUser", "runAsGroup", "fsGroup")} == {USER}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
    assert commands.parse(container["args"]).info_name == container["args"][1]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    dockerfile = (ROOT / "Dockerfile").read_text()
    for variable in ("FINCH_HOME", "FINCH_HEALTH_FOLDER"):
        folder = re.search(rf"{variable}=(\S+)", dockerfile)
        assert folder is not None
        assert any(Path(folder[1]).is_relative_to(mount) for mount in mounted), "the rest of the image is read-only"


def test_workers_of_kubernetes_are_replaced_one_by_one_and_have_time_to_stop() -> None:
    (manifest,) = manifests("worker")
    spec, template = manifest["spec"], manifest["spec"]["template"]
    assert spec["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert template["spec"]["terminationGracePeriodSeconds"] > settings.load().grace_seconds


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
    assert commands.parse(arguments).params["name"] == "%H"
    assert int(service["TimeoutStopSec"]) > settings.load().grace_seconds
    assert service["Restart"] == "on-failure"

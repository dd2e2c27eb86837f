"""Checks of the package as users install it, each in a new environment outside the repository.

The development environment runs it, since it builds the package and makes the tiny base:

    .venv/bin/python -m scripts.check_package wheel      installs the wheel and calls every command
    .venv/bin/python -m scripts.check_package extras     also installs each extra and uses it
    .venv/bin/python -m scripts.check_package lowest     installs the oldest requirements and calls every command
    .venv/bin/python -m scripts.check_package release    builds both archives, checks them, then does as `wheel`

torch has the version of the development environment. If TORCH_INDEX can be reached, it is the build for CPUs there,
else the one that pip finds.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import logging
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.metadata import Metadata

from scripts.command_walk import ROOT, CommandWalk

# A program for each extra: it imports what the extra promises, and fails without it.
EXTRAS = {
    "cuda": "import bitsandbytes, pynvml",
    "parquet": "import pyarrow.parquet",
    "report": "import jinja2, vl_convert",
    "postgres": "import psycopg, sqlalchemy; sqlalchemy.create_engine('postgresql+psycopg://localhost/finch')",
    "s3": "import fsspec; fsspec.filesystem('s3', anon=True)",
}
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


class Environment:
    """A new virtual environment with torch."""

    def __init__(self, folder: Path, python: Path | None) -> None:
        if python is None:
            venv.create(folder, with_pip=True)
        else:
            run(python, "-m", "venv", folder)
        self.python, self.program = folder / "bin" / "python", folder / "bin" / "finch-hub"
        index = os.environ.get("TORCH_INDEX") or _CPU_INDEX
        version = importlib.metadata.version("torch").partition("+")[0]
        # Beside the user's index, so that pip goes on without it. `+cpu` makes a build newer than the one without.
        self.install(f"torch=={version}", "--extra-index-url", index, "--retries", "1")

    def install(self, *requirements: str | Path) -> None:
        """Install requirements with plain pip."""
        run(self.python, *_PIP, "install", *requirements)

    def check_isolation(self) -> None:
        """Check that Finch Hub and all that it loads lie outside the repository.

        Raises:
            RuntimeError: a module or a folder of the path lies in it.
        """
        code = "import finch_hub.cli.main, finch_hub.hub.facade, sys; print(finch_hub.__file__, *sys.path, sep='\\n')"
        places = run(self.python, "-c", code, cwd=self.python.parent).splitlines()
        if any(Path(place).is_relative_to(ROOT) for place in places):
            raise RuntimeError(f"the installed package uses the repository: {places}")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program and return its output.

    Raises:
        RuntimeError: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from the sdist. Return both."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def check_archives(sdist: Path, wheel: Path) -> None:
    """Check the metadata and the files of both archives, and that the changelog has the version.

    Raises:
        ExceptionGroup: the metadata is not valid, so PyPI would refuse it.
        RuntimeError: something is missing or too much.
    """
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
        information = archive.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/PKG-INFO")
        if information is None:
            raise RuntimeError("the sdist lacks PKG-INFO")
        metadata = information.read()
    Metadata.from_email(metadata, validate=True)
    folder = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    if zipfile.ZipFile(wheel).read(f"{folder}/METADATA") != metadata:
        raise RuntimeError("the sdist and the wheel have different metadata")
    tracked = run("git", "ls-files", "finch_hub", "migrations", cwd=ROOT).split()
    expected = {name if name.startswith("finch_hub") else f"finch_hub/{name}" for name in tracked}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if names != expected:
        raise RuntimeError(f"the wheel differs from the repository in {sorted(names ^ expected)}")
    documents = {"CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md", "pyproject.toml"}
    if missing := ({*tracked} | documents) - files:
        raise RuntimeError(f"the sdist lacks {sorted(missing)}")
    version = wheel.name.split("-")[1]
    if not re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE):
        raise RuntimeError(f"CHANGELOG.md has no heading for version {version}")


def lower_bounds() -> list[str]:
    """Return `name==lowest version` for each requirement but torch, with those of the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    bounds = []
    for text in (*project["dependencies"], *(text for texts in extras.values() for text in texts)):
        found = re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", text)
        if found is None:
            raise RuntimeError(f"pyproject.toml: {text} has no lower bound")
        if found[1] != "torch":
            bounds.append(f"{found[1]}=={found[2]}")
    return bounds


def make_bases(folder: Path) -> tuple[Path, Path]:
    """Write a tiny base as a folder and as a GGUF file."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.gguf_files import save_gguf
    from support.models import DEFAULT, save_model

    base = save_model(DEFAULT, folder / "tiny")
    return base, save_gguf(base, folder / "tiny.gguf")


@contextlib.contextmanager
def shared_services(folder: Path) -> Iterator[dict[str, str]]:
    """Start a PostgreSQL, a Valkey and an S3 server. Yield the settings that name them."""
    import boto3
    from moto.server import ThreadedMotoServer
    from support import services

    keys = {"AWS_ACCESS_KEY_ID": "finch", "AWS_SECRET_ACCESS_KEY": "finch", "AWS_DEFAULT_REGION": "us-east-1"}
    with services.postgres() as server, services.valkey() as broker:
        databases = services.Databases(folder, server)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request to the store
        store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        store.start()
        try:
            host, port = store.get_host_and_port()
            keys["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
            os.environ.update(keys)
            boto3.client("s3").create_bucket(Bucket="finch")
            yield {
                **keys,
                "FINCH_DATABASE_URL": databases.empty(),
                "FINCH_BROKER_URL": broker,
                "FINCH_ARTIFACTS_URL": "s3://finch/artifacts",
            }
        finally:
            databases.close()
            store.stop()


def walk_shared(environment: Environment, folder: Path, base: Path) -> None:
    """Use the extras for data and services: train from Parquet with PostgreSQL, Valkey and S3."""
    import pyarrow
    import pyarrow.parquet

    with shared_services(folder) as settings:
        walk = CommandWalk(environment.program, folder / "shared", settings)
        rows = {"prompt": [f"Is {n} even?" for n in range(20)], "completion": ["Yes.", "No."] * 10}
        pyarrow.parquet.write_table(pyarrow.table(rows), folder / "shared" / "rows.parquet")
        walk.walk_shared(base)


def main() -> None:
    """Run one check."""
    parser = argparse.ArgumentParser(description="Check the package as users install it.")
    parser.add_argument("check", choices=["wheel", "extras", "lowest", "release"])
    parser.add_argument("--python", type=Path, help="Python of the new environment. By default, the running one.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finch-package-") as place:
        folder = Path(place)
        sdist, wheel = build(folder / "dist")
        print(f"built {sdist.name} and {wheel.name}", flush=True)
        if options.check == "release":
            check_archives(sdist, wheel)
            print("checked the metadata and the files of both", flush=True)
        environment = Environment(folder / "environment", options.python)
        if options.check == "lowest":
            environment.install(f"{wheel}[{','.join(EXTRAS)}]", *lower_bounds())
        else:
            environment.install(wheel)
        environment.check_isolation()
        print(run(environment.python, *_PIP, "freeze"), flush=True)
        base, gguf = make_bases(folder)
        CommandWalk(environment.program, folder / "walk").walk(base, gguf)
        if options.check in ("extras", "lowest"):
            for extra, code in EXTRAS.items():
                if options.check == "extras":
                    environment.install(f"{wheel}[{extra}]")
                run(environment.python, "-c", code, cwd=folder)
                print(f"the extra {extra} imports what it promises", flush=True)
            walk_shared(environment, folder, base)
    print(f"check of {options.check}: passed")


if __name__ == "__main__":
    main()

"""The installation of a checkout: what is missing in .venv, and how it gets there."""

from __future__ import annotations

import ensurepip
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from dataclasses import replace
from pathlib import Path

from scripts import environment, lockfile, pip_runs, torch_build
from scripts.environment import Environment, State
from scripts.pip_runs import InstallationFailed, format_bytes

USE_LOCK = "requirements.lock"
DEVELOPMENT_LOCK = "requirements-dev.lock"
# Modules that most commands import, by their package. Compiling all modules would take several times as long.
COMPILED = {
    "torch": "torch, torch._dynamo",
    "transformers": "transformers.models.llama.modeling_llama, transformers.models.auto.tokenization_auto",
    "peft": "peft",
    "celery": "celery.app, celery.worker, kombu.transport.redis",
    "sqlalchemy": "sqlalchemy.orm, alembic.command",
    "gguf": "gguf",
    "pytest": "pytest, _pytest.assertion.rewrite",
    "hypothesis": "hypothesis",
    "moto": "moto.server",
    "s3fs": "s3fs",
}


def complete(
    root: Path, *, is_for_development: bool, torch: str | None, torch_index: str, is_exact_python: bool
) -> None:
    """Leave a complete `.venv` in a checkout.

    Raises:
        InstallationFailed: a step failed. An environment that was there is as it was.
        OSError: a file cannot be read or written.
    """
    current, staging = Environment(root / ".venv"), Environment(root / ".venv-new")
    with environment.lock(root / ".venv.lock") as held:
        if not current.folder.exists() and staging.read_state() is not None:
            staging.move(current.folder)
        environment.remove(staging.folder)
        environment.remove(root / ".venv-old")

        state = current.read_state()
        kind = torch or (state.torch if state else "cpu")
        wanted = State(
            root=str(root),
            python=f"{sys.version_info[0]}.{sys.version_info[1]}",
            torch=kind,
            use=lockfile.hash_files(root / USE_LOCK, root / torch_build.LOCKS[kind]),
            development=lockfile.hash_files(root / DEVELOPMENT_LOCK) if is_for_development else "",
            project=lockfile.hash_files(root / "pyproject.toml"),
            packages=(),
        )
        installer = _Installer(root, wanted, torch_index, held)
        fault = current.find_fault(root) or (state and _find_difference(state, wanted, is_exact_python))
        if state is None or fault:
            if current.folder.exists():
                print(f"Setting up .venv again: {fault}", flush=True)
            installer.build(staging)
            staging.move(current.folder)
        else:
            installer.add(current, state)


def _find_difference(state: State, wanted: State, is_exact_python: bool) -> str | None:
    """Return what only a new environment changes, or None."""
    if is_exact_python and state.python != wanted.python:
        return f"it has Python {state.python}, and PYTHON is {wanted.python}"
    if state.torch != wanted.torch:
        return f"it has torch for {state.torch}"
    if state.use != wanted.use:
        return f"{USE_LOCK} has changed"
    if state.development and wanted.development and state.development != wanted.development:
        return f"{DEVELOPMENT_LOCK} has changed"
    return None


class _Installer:
    """Steps that put the wanted packages into an environment."""

    def __init__(self, root: Path, wanted: State, torch_index: str, held: int) -> None:
        self._root = root
        self._wanted = wanted
        self._torch_index = torch_index
        self._held = held

    def build(self, target: Environment) -> None:
        """Create an environment, and install everything."""
        started = time.monotonic()
        print(f"Setting up .venv with Python {self._wanted.python} ({sys.executable})", flush=True)
        try:
            environment.create(target.folder)
        except subprocess.CalledProcessError as error:
            raise InstallationFailed(
                f"{sys.executable} could not create an environment: see above (set PYTHON to another Python)"
            ) from error
        self._install_pip(target)
        torch = torch_build.choose(self._root, target.python, kind=self._wanted.torch, index=self._torch_index)
        pins = lockfile.read_needed(self._root / USE_LOCK)
        locks = [USE_LOCK]
        if self._wanted.development:
            pins += lockfile.read_needed(self._root / DEVELOPMENT_LOCK)
            locks.append(DEVELOPMENT_LOCK)
        names = {lockfile.normalize(pin.name) for pin in pins if pin.name != "pip"} | torch.names
        self._say_sizes(
            len(names),
            torch.download_bytes + sum(pin.download_bytes for pin in pins),
            torch.disk_bytes + sum(pin.disk_bytes for pin in pins),
        )
        commands = [pip_runs.make_install_command(target.python, *torch.arguments)]
        for lock in locks:
            commands.append(self._lock_command(target, lock))
        progress = pip_runs.Progress(target.find_packages(), names)
        pip_runs.run_together(commands, progress, held=self._held)
        self._install_project(target)
        self._compile(target, names)
        target.write_state(replace(self._wanted, packages=target.list_packages()))
        print(f"Installed {len(names)} packages and this checkout in {time.monotonic() - started:.0f} s", flush=True)

    def add(self, target: Environment, state: State) -> None:
        """Install what a complete environment does not have yet."""
        if self._wanted.development and not state.development:
            pins = lockfile.read_needed(self._root / DEVELOPMENT_LOCK)
            print(f"Adding the packages for development to .venv ({DEVELOPMENT_LOCK})", flush=True)
            self._say_sizes(len(pins), sum(pin.download_bytes for pin in pins), sum(pin.disk_bytes for pin in pins))
            names = {lockfile.normalize(pin.name) for pin in pins}
            # pip would take packages for installed that an interrupted run has written in part.
            for described in target.find_packages().glob("*.dist-info"):
                if lockfile.normalize(described.name.rsplit("-", 1)[0]) in names:
                    environment.remove(described)
            progress = pip_runs.Progress(target.find_packages(), names)
            pip_runs.run_together([self._lock_command(target, DEVELOPMENT_LOCK)], progress, held=self._held)
            self._compile(target, names)
            state = replace(state, development=self._wanted.development, packages=target.list_packages())
            target.write_state(state)
        if state.project != self._wanted.project:
            print("Installing this checkout again: pyproject.toml has changed", flush=True)
            self._install_project(target)
            target.write_state(replace(state, project=self._wanted.project, packages=target.list_packages()))

    def _lock_command(self, target: Environment, lock: str) -> list[str]:
        return pip_runs.make_install_command(target.python, "--require-hashes", f"--requirement={self._root / lock}")

    def _say_sizes(self, count: int, download: int, disk: int) -> None:
        """Say what the packages take, and raise if the disk has less."""
        print(
            f"{count} packages: {format_bytes(download)} to download, less what pip has in its cache, "
            f"and {format_bytes(disk)} on disk",
            flush=True,
        )
        free = shutil.disk_usage(self._root).free
        if free < disk:
            raise InstallationFailed(
                f"not enough space in {self._root}: {format_bytes(free)} are free, and the packages take "
                f"{format_bytes(disk)} (free some space, then run the command again)"
            )

    def _install_pip(self, target: Environment) -> None:
        """Install the locked pip with the one that Python brings."""
        folders = [Path(ensurepip.__file__).parent / "_bundled", Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or "-")]
        wheels = [wheel for folder in folders for wheel in folder.glob("pip-*.whl")]
        if wheels:
            bundled = [str(wheels[0] / "pip")]
        else:
            subprocess.run([target.python, "-I", "-m", "ensurepip", "--default-pip"], check=True)
            bundled = ["-m", "pip"]
        requirements = target.folder / "pip.txt"
        requirements.write_text(lockfile.read(self._root / USE_LOCK)["pip"].text, encoding="utf-8")
        command = [str(target.python), "-I", *bundled, "install", "--quiet", "--no-user", "--no-deps", "--no-compile"]
        command += ["--only-binary=:all:", "--require-hashes", f"--requirement={requirements}"]
        pip_runs.run_together([command], pip_runs.Progress(target.find_packages(), set()), held=self._held)

    def _compile(self, target: Environment, names: set[str] | frozenset[str]) -> None:
        """Compile the modules that most commands import, by importing them. So a build that cannot run is found too."""
        imports = [modules for name, modules in COMPILED.items() if name in names]
        if imports:
            print(f"Compiling what {', '.join(name for name in COMPILED if name in names)} import", flush=True)
            # -I ignores PYTHONDONTWRITEBYTECODE, with which each process would compile everything again.
            command = [str(target.python), "-I", "-W", "ignore", "-c", f"import {', '.join(imports)}"]
            pip_runs.run_together([command], pip_runs.Progress(target.find_packages(), set()), held=self._held)

    def _install_project(self, target: Environment) -> None:
        """Install the checkout itself, so that its files are used where they are."""
        project = tomllib.loads((self._root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
        command = pip_runs.make_install_command(target.python, "--no-build-isolation", f"--editable={self._root}")
        progress = pip_runs.Progress(target.find_packages(), {lockfile.normalize(project)})
        pip_runs.run_together([command], progress, held=self._held)
        target.escape_paths()

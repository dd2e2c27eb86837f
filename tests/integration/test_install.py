"""`make install` with real pip and real environments, from a folder of tiny wheels instead of an index."""

from __future__ import annotations

import base64
import csv
import fcntl
import hashlib
import importlib.metadata
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP_VERSION = importlib.metadata.version("pip")
# An address at which nothing listens.
UNREACHABLE = "http://127.0.0.1:9/simple"

BACKEND = """
import pathlib, zipfile

def get_requires_for_build_editable(settings=None):
    return []

def build_editable(folder, settings=None, metadata=None):
    name = "tiny_checkout-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("tiny_checkout.pth", str(pathlib.Path.cwd()) + "\\n")
        about = "tiny_checkout-1.0.dist-info/"
        wheel.writestr(about + "METADATA", "Metadata-Version: 2.1\\nName: tiny-checkout\\nVersion: 1.0\\n")
        wheel.writestr(about + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any")
        wheel.writestr(about + "entry_points.txt", "[console_scripts]\\ntiny-hub = tiny_hub:main\\n")
        wheel.writestr(about + "RECORD", "")
    return name
"""


def write_wheel(folder: Path, name: str, version: str, *, needs: tuple[str, ...] = ()) -> str:
    """Write a wheel of one module, and return its hash as a lock has it."""
    about = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    files = {
        f"{name}/__init__.py": f"version = {version!r}\n",
        f"{name}/_dynamo.py": "",  # the installer imports torch's
        f"{about}/METADATA": "\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs)]) + "\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    return zip_wheel(folder / f"{name}-{version}-py3-none-any.whl", {key: text.encode() for key, text in files.items()})


def zip_wheel(path: Path, files: dict[str, bytes]) -> str:
    about = next(name for name in files if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.writerow([name, f"sha256={digest}", len(content)])
            wheel.writestr(name, content)
        rows.writerow([f"{about}/RECORD", "", ""])
        wheel.writestr(f"{about}/RECORD", record.getvalue())
    return f"--hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def write_pip(folder: Path) -> str:
    """Write the wheel of the pip that runs these tests."""
    about = f"pip-{PIP_VERSION}.dist-info/"
    installed = {str(file): file for file in importlib.metadata.files("pip") or []}
    kept = {
        name: Path(str(file.locate())).read_bytes()
        for name, file in installed.items()
        if name.startswith("pip/") and not name.endswith(".pyc")
    }
    for name in ("METADATA", "WHEEL", "entry_points.txt"):
        kept[about + name] = Path(str(installed[about + name].locate())).read_bytes()
    return zip_wheel(folder / f"pip-{PIP_VERSION}-py3-none-any.whl", kept)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("wheels")
    hashes = {"pip": write_pip(folder)}
    for name in ("alpha", "beta", "gamma", "nvidia_tiny"):
        hashes[name] = write_wheel(folder, name, "1.0")
    hashes["torch"] = write_wheel(folder, "torch", "2.0", needs=('nvidia-tiny ; platform_system == "Linux"',))
    write_wheel(folder, "torch", "2.0+cpu")
    return folder, hashes


class Checkout:
    """A checkout with this Makefile and these scripts, and a package of its own."""

    def __init__(self, root: Path, wheels: Path, hashes: dict[str, str]) -> None:
        self.root, self.wheels = root, wheels
        root.mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", root)
        shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        (root / "backend.py").write_text(BACKEND)
        (root / "tiny_hub.py").write_text("def main():\n    import alpha\n    print('alpha', alpha.version)\n")
        (root / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[project]\nname = "tiny-checkout"\nversion = "1.0"\n'
        )

        def pin(name: str, version: str, sizes: str = "1000 bytes to download, 2000 on disk") -> str:
            return f"# {sizes}\n{name}=={version} \\\n    {hashes[name.replace('-', '_')]}\n"

        (root / "requirements.lock").write_text(pin("pip", PIP_VERSION) + pin("alpha", "1.0") + pin("beta", "1.0"))
        (root / "requirements-dev.lock").write_text(pin("gamma", "1.0"))
        (root / "requirements-cpu.lock").write_text("torch==2.0\n")
        large = "2500000000 bytes to download, 4000000 on disk"
        cuda = pin("torch", "2.0", large).replace("==", "===") + pin("nvidia-tiny", "1.0")
        (root / "requirements-cuda.lock").write_text(cuda)
        (root / "check.mk").write_text("include Makefile\nready: .development\n")

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FINCH_")}
        settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": self.wheels.as_uri()}
        given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
        settings |= {"PYTHON": sys.executable, "TORCH_INDEX": "", **given, **variables}
        targets = [argument for argument in arguments if "=" not in argument]
        return subprocess.Popen(
            ["make", "--file=check.mk", *targets],
            cwd=self.root,
            env={**kept, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def make(self, *arguments: str, code: int = 0, **variables: str) -> str:
        process = self.start(*arguments, **variables)
        output, _ = process.communicate(timeout=240)
        assert (process.returncode == 0) == (code == 0), output
        return output

    def run(self, **variables: str) -> str:
        """Return what the installed command prints."""
        command = [self.root / ".venv/bin/tiny-hub"]
        return subprocess.run(
            command, env={**os.environ, **variables}, capture_output=True, text=True, check=True
        ).stdout

    def list_leftovers(self) -> list[str]:
        return sorted(path.name for path in self.root.glob(".venv*") if path.name not in (".venv", ".venv.lock"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheels: tuple[Path, dict[str, str]]) -> tuple[Checkout, str]:
    checkout = Checkout(tmp_path_factory.mktemp("with space") / "Zoë's finch", *wheels)
    return checkout, checkout.make("install")


def test_install_in_a_folder_with_spaces_and_accents_gives_a_command_that_runs(installed: tuple[Checkout, str]) -> None:
    checkout, output = installed
    assert checkout.run() == "alpha 1.0\n"
    assert checkout.run(LC_ALL="C") == "alpha 1.0\n"
    assert checkout.run(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0") == "alpha 1.0\n"
    assert "[3/3]" in output
    assert "on disk" in output
    assert checkout.list_leftovers() == []
    assert ".venv-new" not in (checkout.root / ".venv/bin/activate").read_text()
    # A second call finds nothing to do.
    assert checkout.make("install") == ""


def test_commands_for_development_add_their_packages_to_the_same_environment(installed: tuple[Checkout, str]) -> None:
    checkout, _ = installed
    python = checkout.root / ".venv/bin/python"
    before = python.lstat().st_ino
    assert "gamma 1.0" in checkout.make("ready")
    subprocess.run([python, "-c", "import alpha, gamma"], check=True)
    assert python.lstat().st_ino == before
    assert checkout.make("ready") == ""


@pytest.mark.slow
def test_install_replaces_an_environment_that_was_moved_and_lost_its_python(installed: tuple[Checkout, str]) -> None:
    checkout, _ = installed
    checkout.make("install")
    moved = checkout.root.with_name("moved")
    checkout.root.rename(moved)
    checkout.root = moved
    (moved / ".venv/bin/python").unlink()
    (moved / ".venv/bin/python").symlink_to("/nowhere/python")
    assert "Setting up .venv again: it was made in " in checkout.make("install")
    assert checkout.run() == "alpha 1.0\n"
    assert checkout.list_leftovers() == []


@pytest.mark.slow
def test_killed_installation_is_finished_by_the_next_one(tmp_path: Path, wheels: tuple[Path, dict[str, str]]) -> None:
    checkout = Checkout(tmp_path / "checkout", *wheels)
    process = checkout.start("install")
    deadline = time.monotonic() + 120
    while not (checkout.root / ".venv-new/pip.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (checkout.root / ".venv").exists()
    assert (checkout.root / ".venv-new").exists()
    checkout.make("install")
    assert checkout.run() == "alpha 1.0\n"
    assert checkout.list_leftovers() == []


def test_two_installations_at_once_wait_for_each_other(tmp_path: Path, wheels: tuple[Path, dict[str, str]]) -> None:
    checkout = Checkout(tmp_path / "checkout", *wheels)
    with (checkout.root / ".venv.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = checkout.start("install")
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Waiting for another make")
        assert not (checkout.root / ".venv-new").exists()
    # The lock is free now.
    assert process.stdout.readline().startswith("Setting up .venv with Python")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_without_an_index_for_cpus_the_size_of_cuda_is_said_first(
    tmp_path: Path, wheels: tuple[Path, dict[str, str]]
) -> None:
    folder = tmp_path / "wheels"
    shutil.copytree(wheels[0], folder)
    (folder / "torch-2.0+cpu-py3-none-any.whl").unlink()
    checkout = Checkout(tmp_path / "checkout", folder, wheels[1])
    output = checkout.make(
        "install", f"TORCH_INDEX={UNREACHABLE}", PIP_NO_INDEX="", PIP_INDEX_URL=UNREACHABLE, PIP_RETRIES="0"
    )
    packages = next((checkout.root / ".venv").glob("lib/python*/site-packages"))
    if sys.platform == "linux":
        assert output.index("2.5 GB to download") < output.index("[1/")
        assert (packages / "nvidia_tiny/__init__.py").exists()
    assert (packages / "torch/__init__.py").exists()


@pytest.mark.slow
def test_install_for_cuda_takes_its_lock(tmp_path: Path, wheels: tuple[Path, dict[str, str]]) -> None:
    if sys.platform != "linux":
        pytest.skip("CUDA is for Linux only")
    checkout = Checkout(tmp_path / "checkout", *wheels)
    checkout.make("install", CUDA="1")
    packages = next((checkout.root / ".venv").glob("lib/python*/site-packages"))
    assert "2.0'" in (packages / "torch/__init__.py").read_text()
    assert (packages / "nvidia_tiny/__init__.py").exists()
    # Without CUDA=1, the next command keeps that build.
    assert checkout.make("install") == ""


@pytest.mark.slow
def test_wheel_with_another_hash_is_refused_and_the_environment_stays(
    installed: tuple[Checkout, str], tmp_path: Path
) -> None:
    checkout, _ = installed
    lock = checkout.root / "requirements.lock"
    text = lock.read_text()
    head, _, tail = text.rpartition("--hash=sha256:")
    lock.write_text(head + "--hash=sha256:" + "0" * 64 + tail[64:])
    try:
        assert "beta" in checkout.make("install", code=2)
        assert checkout.run() == "alpha 1.0\n"
    finally:
        lock.write_text(text)


def test_missing_python_is_named_before_anything_else(tmp_path: Path, wheels: tuple[Path, dict[str, str]]) -> None:
    checkout = Checkout(tmp_path / "checkout", *wheels)
    output = checkout.make("install", code=2, PYTHON="python-that-is-not-there")
    assert "python-that-is-not-there is not on PATH: Finch Hub needs Python 3.11 or newer" in output
    assert not (checkout.root / ".venv").exists()


def test_clean_removes_all_that_git_ignores_but_the_users_passwords(
    tmp_path: Path, wheels: tuple[Path, dict[str, str]]
) -> None:
    checkout = Checkout(tmp_path / "checkout", *wheels)
    patterns = (ROOT / ".gitignore").read_text().splitlines()
    ignored = [line.rstrip("/").replace(".venv*", ".venv-new").replace("*", "tiny") for line in patterns]
    for name in ignored:
        (checkout.root / name).mkdir()
    before = {path.name for path in checkout.root.iterdir()} - set(ignored)
    checkout.make("clean")
    assert {path.name for path in checkout.root.iterdir()} == before | {".env"}

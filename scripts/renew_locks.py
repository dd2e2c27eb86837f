"""Renewal of the locks, which `make lock` runs in the development environment.

pip resolves once, for this machine. The closures for the other Pythons and systems follow from the requirements of the
resolved wheels. Hashes and sizes come from PyPI.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from scripts import lockfile, wheel_sizes
from scripts.suitability import NEWEST, OLDEST

INDEX = "https://pypi.org/simple"
MINORS = range(OLDEST[1], NEWEST[1] + 1)
# torch's wheels for CPUs need none of these.
CUDA_PREFIXES = ("cuda-", "nvidia-", "triton")
HEADER = "# {title} Written by `make lock`: do not edit. See docs/decisions/0084-dependency-lock.md.\n"

Environments = frozenset[int]


def _list_environments() -> list[dict[str, str]]:
    """Return the variables of markers for each Python and system that the locks serve."""
    systems = [("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64")]
    versions = [f"3.{minor}.{micro}" for minor in MINORS for micro in (0, 9)]
    return [
        {
            "python_version": version.rpartition(".")[0],
            "python_full_version": version,
            "implementation_version": version,
            "sys_platform": platform,
            "platform_system": system,
            "platform_machine": machine,
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }
        for version in versions
        for platform, system, machine in systems
    ]


ENVIRONMENTS = _list_environments()
ALL: Environments = frozenset(range(len(ENVIRONMENTS)))


@dataclass
class Package:
    """One resolved version, and the environments that need it."""

    name: str
    version: str
    requirements: list[Requirement]
    environments: set[int] = field(default_factory=set)


def _resolve(requirements: list[str], constraints: list[str]) -> dict[str, Package]:
    """Return what pip resolves the requirements to, on PyPI and this machine."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PIP_FIND_LINKS", "PIP_CONSTRAINT")
    }
    environment["PIP_CONFIG_FILE"] = os.devnull
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
        (Path(folder) / "constraints.txt").write_text("\n".join(constraints) + "\n", encoding="utf-8")
        command = [sys.executable, "-I", "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        # With fast-deps pip reads the metadata of torch without the half gigabyte around it.
        command += ["--use-feature=fast-deps", "--only-binary=:all:", f"--index-url={INDEX}"]
        command += ["--report=report.json", "--requirement=requirements.txt", "--constraint=constraints.txt"]
        subprocess.run(command, cwd=folder, env=environment, check=True)
        report = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    packages = {}
    for item in report["install"]:
        metadata = item["metadata"]
        needs = [Requirement(line) for line in metadata.get("requires_dist", [])]
        packages[lockfile.normalize(metadata["name"])] = Package(metadata["name"], metadata["version"], needs)
    return packages


def _walk(
    packages: dict[str, Package], roots: list[str], *, without: tuple[str, ...] = ()
) -> tuple[dict[str, set[int]], dict[str, str]]:
    """Return the environments in which each package is needed, and the requirements that are not resolved yet."""
    needed: dict[str, set[int]] = {}
    missing: dict[str, str] = {}
    for number in ALL:
        seen: set[tuple[str, str]] = set()
        pending = [(Requirement(root), "") for root in roots]
        while pending:
            requirement, extra = pending.pop()
            name = lockfile.normalize(requirement.name)
            variables: dict[str, Any] = {**ENVIRONMENTS[number], "extra": extra}
            is_needed = requirement.marker is None or requirement.marker.evaluate(variables)
            if not is_needed or name.startswith(without):
                continue
            if name not in packages:
                extras = f"[{','.join(requirement.extras)}]" if requirement.extras else ""
                missing[name] = f"{requirement.name}{extras}{requirement.specifier}"
                continue
            needed.setdefault(name, set()).add(number)
            for wanted in {"", *requirement.extras}:
                if (name, wanted) not in seen:
                    seen.add((name, wanted))
                    pending += [(need, wanted) for need in packages[name].requirements]
    return needed, missing


def _find_marker(needed: set[int]) -> str:
    """Return the marker that is true in exactly these environments."""
    if needed == ALL:
        return ""
    for text in lockfile.MARKERS:
        marker = Marker(text)
        if {number for number in ALL if marker.evaluate(dict(ENVIRONMENTS[number]))} == needed:
            return text
    raise SystemExit(f"no marker of scripts/lockfile.py fits {[ENVIRONMENTS[number] for number in sorted(needed)]}")


def _serves(tag: Tag) -> bool:
    """Return whether a wheel with this tag can be installed in one of the environments."""
    platform = tag.platform
    is_linux = "manylinux" in platform and platform.endswith(("x86_64", "aarch64"))
    if not (platform == "any" or is_linux or (platform.startswith("macosx") and "x86_64" not in platform)):
        return False
    if tag.interpreter in ("py3", "py2.py3"):
        return tag.abi == "none"
    if not tag.interpreter.startswith("cp3"):
        return False
    minor = int(tag.interpreter.removeprefix("cp3"))
    if tag.abi == "abi3":
        return minor <= NEWEST[1]
    return minor in MINORS and tag.abi in (tag.interpreter, "none")


def _describe(package: Package) -> str:
    """Return the lines of a lock for one package, with its marker left out."""
    request = urllib.request.Request(
        f"{INDEX}/{lockfile.normalize(package.name)}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    wheels = []
    for file in files:
        if file["filename"].endswith(".whl") and f"-{package.version}-" in file["filename"]:
            try:
                _, version, _, tags = parse_wheel_filename(file["filename"])
            except ValueError:
                continue
            if str(version) == package.version and any(_serves(tag) for tag in tags):
                wheels.append(file)
    if not wheels:
        raise SystemExit(f"{package.name} {package.version} has no wheel for the systems that the locks serve")
    names = [file["filename"] for file in wheels]
    for minor in MINORS:
        if not any("-cp" not in name or f"cp3{minor}-" in name or "abi3" in name for name in names):
            print(f"{package.name} {package.version} has no wheel for Python 3.{minor}", file=sys.stderr)
    # Wheels for the other systems are of a similar size.
    url = max(wheels, key=lambda file: ("cp311" in file["filename"], "x86_64" in file["filename"]))["url"]
    download, disk = wheel_sizes.measure(url)
    hashes = " \\\n".join(f"    --hash=sha256:{value}" for value in sorted(w["hashes"]["sha256"] for w in wheels))
    # Exactly this version, without a local one: a build for CPUs has another hash.
    sign = "===" if package.name == "torch" else "=="
    pin = f"{package.name}{sign}{package.version}"
    return f"# {download} bytes to download, {disk} on disk\n{pin}{{marker}} \\\n{hashes}\n"


def _write(path: Path, title: str, needed: dict[str, set[int]], texts: dict[str, str]) -> None:
    lines = [HEADER.format(title=title)]
    for name in sorted(needed):
        marker = _find_marker(needed[name])
        lines.append(texts[name].format(marker=f" ; {marker}" if marker else ""))
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Rewrite all locks, with the pinned versions where the requirements still allow them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions, not the pinned ones")
    upgrade = parser.parse_args().upgrade

    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    torch = lockfile.read(Path("requirements-cpu.lock"))["torch"]
    dependencies = [line for line in project["project"]["dependencies"] if Requirement(line).name != "torch"]
    # hatchling needs editables for the editable installation, and asks for it only then.
    use = [*dependencies, *project["build-system"]["requires"], "editables", "pip", "torch"]
    cuda = ["torch", *project["project"]["optional-dependencies"]["cuda"]]
    development = [*use, *project["dependency-groups"]["dev"]]
    roots = [*development, *cuda, f"torch==={torch.version}"]
    pinned = (
        []
        if upgrade
        else [
            f"{pin.name}=={pin.version}"
            for name in ("requirements.lock", "requirements-dev.lock", "requirements-cuda.lock")
            if Path(name).exists()
            for key, pin in lockfile.read(Path(name)).items()
            if key != "torch"
        ]
    )
    packages = _resolve(roots, pinned)
    while missing := _walk(packages, roots)[1]:
        known = [f"{package.name}=={package.version}" for name, package in packages.items() if name != "torch"]
        packages |= {name: found for name, found in _resolve(list(missing.values()), known).items() if name in missing}

    with ThreadPoolExecutor(8) as pool:
        texts = dict(zip(packages, pool.map(_describe, packages.values()), strict=True))
    used, _ = _walk(packages, use, without=CUDA_PREFIXES)
    del used["torch"]
    developed, _ = _walk(packages, development, without=CUDA_PREFIXES)
    del developed["torch"]
    accelerated, _ = _walk(packages, cuda)
    _write(Path("requirements.lock"), "What running Finch Hub needs, but torch.", used, texts)
    for title, name, needed in (
        ("What developing Finch Hub needs besides requirements.lock.", "requirements-dev.lock", developed),
        ("torch for NVIDIA GPUs, and what it needs besides requirements.lock.", "requirements-cuda.lock", accelerated),
    ):
        _write(Path(name), title, {key: value for key, value in needed.items() if key not in used}, texts)


if __name__ == "__main__":
    main()

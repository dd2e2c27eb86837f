"""Choice of the build of torch: for CPUs from torch's own index, or with CUDA from the user's index."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import lockfile, wheel_sizes
from scripts.pip_runs import InstallationFailed, format_bytes, make_environment

CPU_LOCK = "requirements-cpu.lock"
CUDA_LOCK = "requirements-cuda.lock"
LOCKS = {"cpu": CPU_LOCK, "cuda": CUDA_LOCK}
# For the search alone. Later downloads wait as long as pip is configured to.
PATIENCE = ("--timeout=10", "--retries=2")


@dataclass(frozen=True)
class TorchBuild:
    """The packages of a build, their sizes in bytes, and pip's arguments that install them."""

    names: frozenset[str]
    download_bytes: int
    disk_bytes: int
    arguments: tuple[str, ...]


def choose(root: Path, python: Path, *, kind: str, index: str) -> TorchBuild:
    """Return the build to install, and say so first if it is larger than expected.

    Args:
        root: the checkout with the locks.
        python: interpreter with pip.
        kind: "cpu" or "cuda".
        index: URL of an index with builds for CPUs, or "" for the user's index.

    Raises:
        InstallationFailed: no index has torch for this Python and system.
    """
    if kind == "cuda":
        if sys.platform != "linux":
            raise InstallationFailed("CUDA=1 needs Linux: NVIDIA has no CUDA for this system (leave CUDA out)")
        return _with_cuda(root)
    pin = lockfile.read(root / CPU_LOCK)["torch"]
    arguments: tuple[str, ...] = (f"--requirement={root / CPU_LOCK}",)
    found, reason = None, ""
    if index:
        print(f"Looking for torch {pin.version} at {index}", flush=True)
        found, reason = _find(python, (*arguments, f"--index-url={index}"))
    if found is not None:
        arguments = (*arguments, f"--index-url={index}")
    else:
        found, other_reason = _find(python, arguments)
        if found is None:
            raise InstallationFailed(
                f"could not find torch {pin.version} for this Python and system:\n{reason}{other_reason}"
                "(check the network, the proxy, PIP_INDEX_URL and TORCH_INDEX, then run the command again)"
            )
        if index:
            print(f"Could not find torch {pin.version} there, so pip takes it from your package index", flush=True)
    if _needs_cuda(found, root):
        build = _with_cuda(root)
        print(
            f"Warning: pip finds only the build of torch with CUDA: {format_bytes(build.download_bytes)} to download, "
            f"{format_bytes(build.disk_bytes)} on disk.\n"
            f"If you do not want it, press Ctrl-C and set TORCH_INDEX to an index with torch {pin.version} for CPUs.",
            flush=True,
        )
        return build
    try:
        sizes = wheel_sizes.measure(found["download_info"]["url"])
    except (OSError, ValueError):
        sizes = (pin.download_bytes, pin.disk_bytes)
    return TorchBuild(frozenset({"torch"}), *sizes, arguments)


def _with_cuda(root: Path) -> TorchBuild:
    pins = lockfile.read_needed(root / CUDA_LOCK)
    return TorchBuild(
        names=frozenset(lockfile.normalize(pin.name) for pin in pins),
        download_bytes=sum(pin.download_bytes for pin in pins),
        disk_bytes=sum(pin.disk_bytes for pin in pins),
        arguments=("--require-hashes", f"--requirement={root / CUDA_LOCK}"),
    )


def _find(python: Path, arguments: tuple[str, ...]) -> tuple[dict[str, Any] | None, str]:
    """Return what pip would install without downloading it, or None with pip's words."""
    command = [str(python), "-I", "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    # With fast-deps pip reads a wheel's metadata alone.
    command += ["--only-binary=:all:", "--use-feature=fast-deps", "--report=-", *PATIENCE, *arguments]
    done = subprocess.run(
        command, env=make_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:
        return None, "".join(line + "\n" for line in done.stderr.splitlines() if line.startswith("ERROR"))
    found: dict[str, Any] = json.loads(done.stdout)["install"][0]
    return found, ""


def _needs_cuda(found: dict[str, Any], root: Path) -> bool:
    """Return whether a build requires packages of the lock with CUDA. They are for Linux only."""
    with_cuda = lockfile.read(root / CUDA_LOCK).keys() - {"torch"}
    needs = {lockfile.normalize(line) for line in _names(found["metadata"].get("requires_dist", []))}
    return sys.platform == "linux" and bool(needs & with_cuda)


def _names(requirements: list[str]) -> list[str]:
    names = []
    for line in requirements:
        end = next((position for position, sign in enumerate(line) if not (sign.isalnum() or sign in "-_.")), len(line))
        names.append(line[:end])
    return names

"""Installer of this checkout: sets up .venv from the locks, repairs it, and otherwise does nothing.

`make` runs it before each command that needs .venv.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from scripts import suitability


def main() -> None:
    """Check this Python, and leave a complete .venv in the current folder."""
    if obstacle := suitability.find_obstacle():
        sys.exit(f"error: {obstacle}")
    # These modules need the Python that was checked.
    from scripts import installation, pip_runs

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--development", action="store_true", help="install requirements-dev.lock too")
    parser.add_argument("--torch", choices=["cpu", "cuda"], help="build of torch; the installed one or cpu if left out")
    parser.add_argument("--torch-index", default="", help="index with torch for CPUs")
    parser.add_argument("--exact-python", action="store_true", help="replace a .venv of another Python version")
    options = parser.parse_args()
    # Ends the runs of pip too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        installation.complete(
            Path.cwd(),
            is_for_development=options.development,
            torch=options.torch,
            torch_index=options.torch_index,
            is_exact_python=options.exact_python,
        )
    except pip_runs.InstallationFailed as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(
            f"error: could not set up .venv: {error} (check the folder's owner and the free space, then try again)"
        )
    except KeyboardInterrupt:
        sys.exit("\nerror: interrupted (run the command again: pip keeps what it has downloaded)")


if __name__ == "__main__":
    main()

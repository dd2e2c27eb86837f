"""Entry of `python -m finch_hub`, which runs `finch-hub`."""

import sys

from finch_hub.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

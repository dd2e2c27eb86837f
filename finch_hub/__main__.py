"""Entry of `python -m finch_hub`, which runs `finch-hub`."""

from finch_hub.cli.main import run

if __name__ == "__main__":
    run()

"""The command line. Heavy modules load inside the commands that need them."""

import sys

from pairwright.cli import models, runs, select, sources, train
from pairwright.cli.app import app
from pairwright.errors import PairwrightError

__all__ = ["app", "main", "models", "runs", "select", "sources", "train"]


def main() -> None:
    """Our own errors in one line and exit code 2; everything else with its traceback."""
    try:
        app()
    except PairwrightError as error:
        sys.stderr.write(f"pairwright: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None

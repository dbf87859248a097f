"""The verbs: every command a person runs is `python -m safe_rl.<verb>`."""

import os
import sys
from types import TracebackType

# Before NumPy is imported anywhere: its matrices here are small, and BLAS threads waiting for each other cost up to
# fifty times the work itself when the cores are busy. What the user has set wins.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an uncaught exception; an interruption is no mistake, so it gets a line and no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("\nInterrupted before anything was begun.", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # this package is imported because one of its commands starts
    sys.excepthook = _tell

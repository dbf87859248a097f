"""Family by property: what the tests of the bases show of every family, as a table.

    python benchmarks/bases_matrix.py                # the families of the core, float32 and bfloat16, a minute
    python benchmarks/bases_matrix.py --all          # all accepted families, some minutes
    python benchmarks/bases_matrix.py -k qwen2_vl    # one of them

Nothing is checked here: pytest runs tests/supervised/bases, where a test says by its mark `shows` which columns it
fills, and what happens to it is the cell. A cell gathers the tests of both types of numbers and of all ways to decode
(greedy, 3 beams, sampled under a seed, without cache, static cache):

    yes       all of them passed
    rounds    passed, and what is equal bit for bit elsewhere is equal up to rounding (experts)
    refused   passed: the family cannot do this, and the error names the reason
    -         does not apply: the family takes one picture per question
    FAILED    some of them did not pass

Prints a Markdown table and, as its last line, one JSON object: {"families": n, "checks": n, "failed": n}. The exit code
is not 0 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "tests" / "supervised" / "bases"
TESTS = [str(FOLDER / f"test_{name}.py") for name in ("matrix", "ways_to_hear", "diagnosed")]
TYPES = {"float32": "fp32", "bfloat16": "bf16"}
WORST_FIRST = ("FAILED", "not run", "-", "refused", "rounds", "yes")


class Matrix:
    """A plugin of pytest that gathers what became of the marked tests."""

    def __init__(self) -> None:
        self.columns: list[str] = []
        self.cells: dict[tuple[str, str], list[str]] = defaultdict(list)
        """(family, column) -> what became of its tests."""
        self.types: dict[str, set[str]] = defaultdict(set)
        """Family -> types of numbers."""
        self.checks: dict[str, bool] = {}
        """Test -> whether it passed, or does not apply."""
        self._places: dict[str, tuple[str, tuple[str, ...]]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which cells every test that will run fills.

        Raises:
            pytest.UsageError: a test of a family fills none, so that the table would not be whole.
        """
        for item in session.items:
            mark, call = item.get_closest_marker("shows"), getattr(item, "callspec", None)
            if call is None or "setting" not in call.params:
                continue
            if mark is None:
                raise pytest.UsageError(f"{item.nodeid} fills no column; mark it with pytest.mark.shows.")
            family, dtype = call.params["setting"]
            self._places[item.nodeid] = (family, mark.args)
            self.types[family].add(dtype)
            self.columns += [column for column in mark.args if column not in self.columns]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Fill the cells of a test that ran, or that could not be set up."""
        if report.nodeid not in self._places or (report.when != "call" and report.passed):
            return
        family, columns = self._places[report.nodeid]
        shown = dict(report.user_properties).get("shown", "yes")
        word = "FAILED" if report.failed else "-" if report.skipped else str(shown)
        self.checks[report.nodeid] = not report.failed
        for column in columns:
            self.cells[family, column].append(word)

    def row(self, family: str) -> tuple[str, ...]:
        """Return the types of numbers and the cells of a family."""
        types = [short for name, short in TYPES.items() if name in self.types[family]]
        cells = (min(self.cells[family, column] or ["not run"], key=WORST_FIRST.index) for column in self.columns)
        return (", ".join(types), *cells)

    def table(self, grouped: bool) -> Iterable[str]:
        """Yield the lines of the table in the order of the tests; `grouped`: families with equal cells share a row."""
        rows: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for family in self.types:
            rows[(*self.row(family), "" if grouped else family)].append(family)
        yield "| family | types | " + " | ".join(self.columns) + " |"
        yield "|---" * (2 + len(self.columns)) + "|"
        for (*cells, _), families in rows.items():
            yield " | ".join(["| " + ", ".join(families), *cells]) + " |"


def main() -> int:
    """Run the tests and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="all accepted families, not only those of the core")
    parser.add_argument("--grouped", action="store_true", help="one row for all families with equal cells")
    parser.add_argument("-k", default="", help="only tests whose name contains this, as of pytest")
    options = parser.parse_args()
    matrix = Matrix()
    chosen = [] if options.all else ["-m", "not slow"]
    code = pytest.main([*TESTS, "-q", "--no-header", "-r", "f", "-k", options.k, *chosen], [matrix])
    print("\n".join(matrix.table(options.grouped)))
    failed = sum(not passed for passed in matrix.checks.values())
    print(json.dumps({"families": len(matrix.types), "checks": len(matrix.checks), "failed": failed}))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

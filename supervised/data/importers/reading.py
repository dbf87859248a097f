"""Annotation files: JSON, CSV and plain text, with errors that name the file.

A JSON file is read whole. Up to about 1 GB that is in order: `slim` lets go of what an importer does not use while
the file is still being read, so that what stays is the text itself and what is used.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from supervised.data.importers.rows import Doubled
from supervised.errors import DataError

Slim = Callable[[dict[str, Any]], Any]


def read_json(path: Path, slim: Slim | None = None) -> Any:
    """Return what a JSON file holds; objects in which a key stands twice become `Doubled`.

    Args:
        path: the file, UTF-8 with or without a byte-order mark.
        slim: called for every object as soon as it is read, innermost first; what it returns takes the object's place.

    Raises:
        DataError: missing, not UTF-8 or not JSON.
    """

    def build(pairs: list[tuple[str, Any]]) -> Any:
        row = dict(pairs)
        if len(row) != len(pairs):
            doubled = Doubled(row)
            doubled.twice = tuple(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            return doubled
        return row if slim is None else slim(row)

    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file, object_pairs_hook=build)
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; download it again, or save it as UTF-8.") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply; download it again.") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); download it again.") from None
    except ValueError as error:  # e.g. a number with thousands of digits
        raise DataError(f"{path}: not usable JSON ({error}); download it again.") from None


def read_list(path: Path, slim: Slim | None = None, key: str | None = None) -> list[Any]:
    """Return the list that a JSON file holds, at its top or under `key`.

    Raises:
        DataError: as `read_json`; or there is no such list.
    """
    content = read_json(path, slim)
    if isinstance(content, Doubled):
        raise DataError(f"{path}: key {content.key!r} stands twice at the top; keep one.")
    found = content.get(key) if key is not None and isinstance(content, dict) else content
    if not isinstance(found, list):
        place = f"a list under {key!r}" if key is not None else "a list"
        raise DataError(f"{path}: expected {place}, got {type(found).__name__}; give the dataset's own file.")
    return found


def read_table(path: Path, columns: tuple[str, ...], encoding: str = "utf-8-sig") -> Iterator[tuple[int, Any]]:
    """Yield the line number and the row of each line of a CSV file with a header, columns by name.

    A row with more or fewer cells than the header is yielded as it is, as a list.

    Raises:
        DataError: the file is not in this encoding, no CSV, or a column is missing or stands twice.
    """
    lines = read_cells(path, encoding)
    _, header = next(lines, (0, []))
    header = [name.strip() for name in header]
    for name in columns:
        if header.count(name) != 1:
            problem = "is missing" if name not in header else "stands twice"
            raise DataError(
                f"{path}, line 1: column {name!r} {problem}; needed: {', '.join(columns)}; "
                f"there are: {', '.join(header) or 'none'}; give the dataset's own file."
            )
    for number, cells in lines:
        yield number, dict(zip(header, cells, strict=True)) if len(cells) == len(header) else cells


def read_cells(path: Path, encoding: str = "utf-8-sig", delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of each line of a CSV file that is not blank.

    Raises:
        DataError: the file is not in this encoding, or no CSV.
    """
    try:
        with open(path, encoding=encoding, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            while True:
                first = reader.line_num + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    raise DataError(f"{path}, line {first}: not valid CSV ({error}); correct it.") from None
                if any(cell.strip() for cell in cells):
                    yield first, cells
    except UnicodeDecodeError:
        raise DataError(f"{path}: not in the encoding {encoding}; download it again, or save it so.") from None


def find_files(root: Path, names: Mapping[str, tuple[str, ...]], chosen: tuple[str, ...]) -> dict[str, Path]:
    """Return own split -> its file, for the splits that are there, or those chosen.

    Args:
        root: folder of the annotations.
        names: own split -> file names that it goes by, relative to `root`.
        chosen: own splits to read; none: those that are there.

    Raises:
        DataError: a chosen split is unknown or its file is missing; a split has two files; or there is none at all.
    """
    check_splits(chosen, tuple(names))
    found: dict[str, Path] = {}
    for split in chosen or names:
        there = [root / name for name in names[split] if (root / name).exists()]
        if len(there) > 1:
            raise DataError(
                f"split {split!r} has two files, {there[0]} and {there[1]}; keep one, or give the folder of one with "
                "--root."
            )
        if there:
            found[split] = there[0]
        elif chosen:
            raise DataError(f"split {split!r} has no file under {root}; looked for {', '.join(names[split])}; add it.")
    if not found:
        looked = ", ".join(options[0] for options in names.values())
        raise DataError(f"no annotations under {root}; looked for {looked}; give their folder with --root.")
    return found


def check_splits(chosen: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    """Refuse splits that the dataset does not have.

    Raises:
        DataError: names those that it has.
    """
    for split in chosen:
        if split not in allowed:
            raise DataError(f"split {split!r} is unknown in this dataset; allowed: {', '.join(allowed)}; correct it.")

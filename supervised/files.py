"""Files that are either whole or absent: written to a temporary name beside the target, synced and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` when the block ends without an exception.

    A block that fails, or is interrupted, leaves `path` as it was and no temporary file behind.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes it private; the finished file is an ordinary one
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused with a ValueError, because JSON has neither."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_tensors(
    path: Path | str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays as safetensors, whole or not at all."""
    from safetensors.numpy import save

    # Not `ascontiguousarray`, which gives a scalar the shape [1].
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with atomic_path(path) as temporary:
        # `save` + `write_bytes` rather than `save_file`: a full disk then raises OSError like any other write.
        temporary.write_bytes(save(contiguous, dict(metadata) if metadata else None))


def sha256_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

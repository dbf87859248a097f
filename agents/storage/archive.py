"""One file that holds an agent: JSON and tensors go in and come back, and nothing in the file is ever executed.

A zip of `agent.json` and `tensors.safetensors`, stored as they are; no pickle. Equal agents give equal bytes.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from supervised.errors import CheckpointError
from supervised.files import atomic_path

FORMAT, VERSION = "safe-rl-agent", 1
CONTENTS, TENSORS = "agent.json", "tensors.safetensors"
Target = str | Path | io.BufferedIOBase | BinaryIO


def write_archive(target: Target, contents: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file whole or not at all; a path without an ending gets `.zip`, as in stable-baselines3."""
    header = {"format": FORMAT, "version": VERSION, **contents}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    members = {CONTENTS: json.dumps(header, indent=2, allow_nan=False).encode(), TENSORS: save(whole)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # of 1980, so that equal agents give equal bytes
    if isinstance(target, str | Path):
        with atomic_path(_with_ending(target)) as temporary:
            temporary.write_bytes(buffer.getvalue())
    else:
        target.write(buffer.getvalue())


def read_archive(source: Target) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON and the tensors of a file.

    Raises:
        CheckpointError: the file is missing, damaged, or none that `write_archive` wrote.
    """
    if isinstance(source, str | Path):
        given = Path(source)
        source = given if given.is_file() else _with_ending(given)
    name = str(source) if isinstance(source, Path) else "The given stream"
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            if sorted(member.filename for member in members) != [CONTENTS, TENSORS]:
                raise CheckpointError(
                    f"{name} holds {sorted(member.filename for member in members)[:4]}, not an agent of "
                    f"PPOLagrangian.save ({CONTENTS} and {TENSORS}); pickles of stable-baselines3 are not opened."
                )
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CheckpointError(f"{name} is compressed, which PPOLagrangian.save never does; save it again.")
            contents, tensors = json.loads(archive.read(CONTENTS)), load(archive.read(TENSORS))
    except FileNotFoundError as error:
        raise CheckpointError(f"No agent at {name}; give a file that PPOLagrangian.save wrote.") from error
    except (
        zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RecursionError, SafetensorError
    ) as error:  # fmt: skip
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{name} is damaged, or no agent of PPOLagrangian.save ({type(error).__name__}); save the agent again."
        ) from error
    if not isinstance(contents, dict) or contents.get("format") != FORMAT or contents.get("version") != VERSION:
        found = (contents.get("format"), contents.get("version")) if isinstance(contents, dict) else type(contents)
        raise CheckpointError(
            f"{name} is {found}, this program reads {FORMAT} version {VERSION}; save the agent again."
        )
    return contents, tensors


def _with_ending(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix else path.with_suffix(".zip")

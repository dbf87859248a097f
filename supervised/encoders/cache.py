"""Features on disk, so that no clip is encoded twice: by another run, another process, or after an interruption.

An entry is found by what it was made from, never by a path: the clip's decoded samples and rate, the encoder (weights,
settings, framing), the kind of device, the versions of the packages that compute, and the version of this format. So
nothing ever has to be invalidated, and what is read is, bit for bit, what the encoder would say (on one machine: CPUs
and GPUs of other kinds, or another number of threads, may differ in the last bits).

An entry is a file that is renamed into place when it is whole. Writers need no lock: those that make the same entry
at once write the same bytes. A checksum guards each; a damaged one counts as missing and is made again. Entries are
never removed by the program: to make room, delete the folder or any part of it, also while it is in use.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from supervised.data.media import read_waveform
from supervised.data.sample import Waveform
from supervised.encoders.features import AudioEncoder, AudioFeatures
from supervised.errors import ConfigError
from supervised.files import atomic_path

VERSION = 1
SUFFIX = ".features"
DIGEST_BYTES = 32
ABANDONED_SECONDS = 3600.0
"""Age at which a temporary file belongs to no writer any more, but to one that was killed."""


class FeatureCache:
    """A folder of features; several processes and threads may share it.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"model.feature_cache is {str(folder)!r}, which cannot be made ({error.strerror}); "
                "give a folder that can be written to, or leave it out."
            ) from error
        self._warned = False
        for left in self.folder.glob(f"*/.*{SUFFIX}"):
            try:
                if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                    left.unlink()
            except OSError:  # another process was faster
                continue

    def encode(self, encoder: AudioEncoder, waveforms: Sequence[Waveform | None]) -> AudioFeatures:
        """Return what `encoder(waveforms)` would, from the folder where it is there; the rest is encoded and kept.

        Raises:
            DataError: a clip cannot be encoded.
        """
        clips = [None if waveform is None else read_waveform(waveform, encoder.rate) for waveform in waveforms]
        keys = [None if clip is None else entry_key(encoder, clip) for clip in clips]
        clip_of = {key: clip for key, clip in zip(keys, clips, strict=True) if key is not None}
        rows = {key: row for key in clip_of if (row := self._read(key, encoder)) is not None}
        missing = [key for key in clip_of if key not in rows]
        fresh = encoder([*(clip_of[key] for key in missing), None])  # None: the row of questions without a clip
        for i, key in enumerate(missing):
            rows[key] = fresh.rows([i])
            self._write(key, rows[key])
        silent = fresh.rows([len(missing)])
        found = [silent if key is None else rows[key] for key in keys]
        return AudioFeatures.concatenate(found).to(encoder.device) if found else encoder([])

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / (key + SUFFIX)

    def _read(self, key: str, encoder: AudioEncoder) -> AudioFeatures | None:
        """Return the entry as one row, or None: missing, damaged, or not of this encoder's shapes."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        digest, body = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if digest != _digest(key, body):
            return None
        try:
            entry = load(body)
            heard, mask, embedding = entry["heard"], entry["mask"], entry["embedding"]
        except (SafetensorError, ValueError, KeyError):
            return None
        if (len(mask), heard.shape[-1], len(embedding)) != (
            encoder.num_tokens,
            encoder.token_dim,
            encoder.embedding_dim,
        ):
            return None
        tokens = torch.zeros(len(mask), heard.shape[-1])  # (T, Da)
        tokens[mask] = heard
        present = torch.ones(1, dtype=torch.bool)
        return AudioFeatures(tokens[None], mask[None], present, embedding[None]).to(encoder.device)

    def _write(self, key: str, row: AudioFeatures) -> None:
        """Keep one row; a folder that cannot be written to is told of once, and the work goes on without it."""
        mask = row.mask[0].cpu()
        entry: dict[str, Tensor] = {
            "heard": row.tokens[0].cpu()[mask].contiguous(),  # tokens that do not count are zero, and not kept
            "mask": mask,
            "embedding": row.embedding[0].cpu().contiguous(),
        }
        body = save(entry)
        try:
            with atomic_path(self._path(key)) as temporary:
                temporary.write_bytes(_digest(key, body) + body)
        except FileNotFoundError:
            return  # the folder was cleared just now
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"features cannot be kept in {self.folder} ({error.strerror}); they are made anew each time.",
                    stacklevel=2,
                )


def entry_key(encoder: AudioEncoder, clip: Waveform) -> str:
    """Return the name under which the features of a clip are kept: a SHA-256 over all that decides about them."""
    header = {
        "version": VERSION,
        "encoder": encoder.sha256,
        "device": encoder.device.type,
        "rate": clip.rate,
        "packages": packages(),
    }
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode() + b"\n")
    digest.update(memoryview(clip.samples.tobytes()))
    return digest.hexdigest()


@cache
def packages() -> dict[str, str]:
    """Return the versions of the packages that resample, make spectrograms and compute."""
    return {name: version(name) for name in ("numpy", "soxr", "torch", "transformers")}


def _digest(key: str, body: bytes) -> bytes:
    """Return the checksum of an entry, which also tells when it stands under another's name."""
    return hashlib.sha256(key.encode() + body).digest()

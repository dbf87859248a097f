"""The certificate of a policy: a JSON file beside it that says what is promised, and the gate that keeps the promise.

In: the folder of a policy with its certificate. Out: decisions at the certified threshold. NumPy only, like the policy.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.gate_policy import DESCRIPTION, TENSORS, Features, GatePolicy, load_policy
from envs.actions import Action
from supervised.errors import CheckpointError
from supervised.files import sha256_file, write_json

FORMAT, VERSION = "safe-rl-certificate", 1
FILE = "certificate.json"
NEVER = math.inf
"""The threshold that no probability reaches; null in the file."""


@dataclass(frozen=True)
class SetCertificate:
    """What is certified about one retention set, and on what evidence."""

    name: str
    limit: float
    """The promise: the true rate is at most this, with the certificate's confidence."""
    rows: int
    """Calibration rows of the set."""
    without_audio: int
    """Rows of the set that carry no audio; they are left out, because nothing can happen to them."""
    n: int
    """Questions tested: one per group among the others."""
    k: int
    """Events among them: questions harmed; with method usage, questions on which audio is used."""
    observed: float
    """Mean of what is limited: k / n; with method drop, the mean net drop."""
    bound: float
    """Upper confidence bound at this threshold alone; 0 where audio is never used."""
    needed: int | None
    """Questions that would certify the limit without a single event; None: no number."""
    wanted_observed: float
    """`observed` at the threshold that utility alone would choose."""
    wanted_needed: int | None
    """Questions that would certify that threshold at the rate seen; None: no number, or too many to count."""


@dataclass(frozen=True)
class Certificate:
    """The contents of certificate.json."""

    method: str
    """harm, usage or drop."""
    delta: float
    """Probability with which the certificate may be wrong."""
    threshold: float
    """USE iff the probability of use is at least this; infinity: never."""
    sets: tuple[SetCertificate, ...]
    actions: tuple[str, ...]
    usage: float
    """Share of calibration rows on which audio is used."""
    utility: float
    """Mean reward over the calibration rows."""
    utility_never: float
    """Mean reward without audio."""
    wanted: float
    """The threshold that utility alone would choose."""
    alpha: float
    gamma: float
    thresholds_passed: int
    thresholds_tried: int
    split: str
    rows: int
    """Rows of the split."""
    seed: int
    """Of the draw of one question per group."""
    drawn_sha256: str
    """Of the rows tested: their numbers in the table as little-endian int64, set by set, in the order drawn."""
    table_sha256: str
    """Of table.json."""
    policy_sha256: dict[str, str]
    """Of the files of the policy."""
    gate_zero: dict[str, Any]
    """Certificate 0, for questions without audio: what the table's builder compared bit for bit, and on which base."""

    @property
    def confidence(self) -> float:
        """Probability with which the certificate holds."""
        return 1 - self.delta

    def as_json(self) -> dict[str, Any]:
        """Return the value that certificate.json holds."""
        value = asdict(self) | {"threshold": _finite(self.threshold), "wanted": _finite(self.wanted)}
        return {"format": FORMAT, "version": VERSION, "confidence": round(self.confidence, 12)} | value


def _finite(threshold: float) -> float | None:
    return None if threshold == NEVER else threshold


def policy_sha256(directory: Path | str) -> dict[str, str]:
    """Return the SHA-256 of each file of a policy."""
    return {name: sha256_file(Path(directory) / name) for name in (DESCRIPTION, TENSORS)}


def save_certificate(directory: Path | str, certificate: Certificate) -> None:
    """Write a certificate beside its policy."""
    write_json(Path(directory) / FILE, certificate.as_json())


def load_certificate(directory: Path | str) -> Certificate:
    """Read the certificate of the policy in `directory`.

    Raises:
        CheckpointError: it is missing, damaged, of another version, or that of another policy.
    """
    path = Path(directory) / FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["format"] != FORMAT or value["version"] != VERSION:
            raise CheckpointError(
                f"{path} is {value['format']} version {value['version']}, this program reads {FORMAT} version "
                f"{VERSION}; certify the policy again."
            )
        certificate = _parse(value)
        found = policy_sha256(directory)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"No certified policy at {directory}: {error.filename} is missing; run `python -m safe_rl.certify`."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{path} is damaged ({reason}); certify the policy again.") from error
    if different := [name for name, sha in found.items() if certificate.policy_sha256.get(name) != sha]:
        raise CheckpointError(
            f"{path} is the certificate of another policy ({', '.join(different)} changed since); certify this one."
        )
    return certificate


def _parse(value: dict[str, Any]) -> Certificate:
    """Turn the JSON value into a Certificate; what is wrong raises KeyError, TypeError or ValueError."""
    fields = {name: value[name] for name in Certificate.__dataclass_fields__}
    fields["threshold"], fields["wanted"] = (_threshold(value[name]) for name in ("threshold", "wanted"))
    fields["sets"] = tuple(SetCertificate(**entry) for entry in value["sets"])
    fields["actions"] = tuple(value["actions"])
    fields["policy_sha256"], fields["gate_zero"] = dict(value["policy_sha256"]), dict(value["gate_zero"])
    if not fields["sets"] or not 0 < value["delta"] < 1 or value["method"] not in ("harm", "usage", "drop"):
        raise ValueError("sets, delta or method are not those of a certificate")
    return Certificate(**fields)


def _threshold(value: Any) -> float:
    if value is None:
        return NEVER
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"a threshold must be between 0 and 1, or null for never, got {value!r}")
    return float(value)


def gate_actions(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Return int64 [n]: the most probable paying action where using audio is probable enough, else SKIP.

    Args:
        probabilities: (n, A), or (A,) for a single question; SKIP first.
        threshold: USE iff 1 - P(SKIP) >= threshold; infinity: never.
    """
    use = np.asarray(1.0 - probabilities[..., Action.SKIP], dtype=np.float64)  # as `GatePolicy.use_probability`
    paying = 1 + probabilities[..., 1:].argmax(axis=-1)  # a tie goes to the cheaper action
    return np.where(use >= threshold, paying, int(Action.SKIP)).astype(np.int64)


class CertifiedGate:
    """A policy that decides at its certified threshold.

    Raises:
        CheckpointError: the certificate is about other actions than the policy's.
    """

    def __init__(self, policy: GatePolicy, certificate: Certificate) -> None:
        if policy.actions != certificate.actions:
            raise CheckpointError(
                f"The policy decides between {', '.join(policy.actions)}, its certificate is about "
                f"{', '.join(certificate.actions)}; certify the policy again."
            )
        self.policy, self.certificate = policy, certificate

    @classmethod
    def load(cls, directory: Path | str) -> CertifiedGate:
        """Read a policy and its certificate.

        Raises:
            CheckpointError: one of them is missing, damaged, or the certificate is that of another policy.
        """
        return cls(load_policy(directory), load_certificate(directory))

    def decide(self, features: Features) -> np.ndarray:
        """Return one action per question, int64 [n]; a question with a NaN among its features is answered by SKIP."""
        return gate_actions(self.policy.probabilities(features), self.certificate.threshold)

"""How much the base's answers depend on each number of the adapter, and what it costs to move those that matter.

In: retention questions with their irrelevant audio. Out: the diagonal of the empirical Fisher information over the
adapter's parameters, and the penalty of elastic weight consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796,
section 2), sum_i F_i (theta_i - theta*_i)^2. Over the frozen base that penalty would be zero: the base does not move.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from supervised.errors import CheckpointError
from supervised.files import write_tensors
from supervised.stage_a.examples import Examples

PARTS = ("information", "anchor")
"""Prefixes of the names in a file."""


@dataclass(frozen=True)
class Consolidated:
    """Where the adapter was when its information was measured; both by the names of `named_parameters`, float32."""

    information: dict[str, Tensor]
    """F, in the shape of each parameter."""
    anchor: dict[str, Tensor]
    """theta*."""

    def penalty(self, adapter: nn.Module) -> Tensor:
        """Return `fisher_penalty` of the adapter as it is now."""
        return fisher_penalty(adapter, self.information, self.anchor)


def fisher_information(examples: Examples, rows: Sequence[int], gate: float = 1.0) -> dict[str, Tensor]:
    """Return the diagonal of the adapter's empirical Fisher information on questions that it must not disturb.

        F_i = mean over the questions of (d/d theta_i sum_k log p(y_k | prompt, audio, label_<k))^2

    Here y_k is what the base itself, without audio, holds to be the likeliest token at position k of the label. The
    label is not taken, because a wrong answer of the base would then have the largest gradients: what is to be kept is
    the base, mistakes and all. Nothing is drawn either, as the expectation over answers asks for, so that the same
    questions give the same numbers; where the base is sure, the likeliest token is nearly all of that expectation.

    The square is that of one question's gradient, so that every question has a backward pass of its own. Parameters
    that do not require a gradient yet count as well, since a later phase may train them; those that play no part have
    zeros. `.grad` and `requires_grad` are as before when this returns.

    Args:
        examples: prepared questions.
        rows: which of them; retention questions with a clip.
        gate: in (0, 1], of the pass with audio.

    Returns:
        A float32 tensor for every name in `adapter.named_parameters()`, of that parameter's shape and device.

    Raises:
        ValueError: `rows` is empty.
    """
    if not rows:
        raise ValueError("the Fisher information needs at least one question")
    named = dict(examples.model.adapter.named_parameters())
    parameters = list(named.values())
    wanted = [parameter.requires_grad for parameter in parameters]
    total = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in named.items()}
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for row in rows:
            likelihood = _log_likelihood(examples, row, gate)
            gradients = torch.autograd.grad(likelihood, parameters, allow_unused=True)
            for name, gradient in zip(named, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient.float().square() / len(rows)
    finally:
        for parameter, before in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(before)
    return total


def fisher_penalty(adapter: nn.Module, information: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> Tensor:
    """Return sum_i F_i (theta_i - theta*_i)^2 over the adapter's parameters, a scalar in float32.

    Args:
        adapter: theta; the gradient reaches its parameters.
        information: F, from `fisher_information`.
        anchor: theta*, the parameters when F was measured.

    Raises:
        KeyError: a parameter of the adapter has no information or no anchor.
    """
    terms = [
        torch.sum(information[name] * (parameter.float() - anchor[name].float()).square())
        for name, parameter in adapter.named_parameters()
    ]
    return torch.stack(terms).sum()


def consolidated(
    path: Path,
    identity: Mapping[str, Any],
    examples: Examples,
    rows: Sequence[int],
    gate: float = 1.0,
    begun: bool = False,
) -> Consolidated:
    """Return information and anchor as the file at `path` keeps them; if it does not fit, measure and write it.

    The anchor stands in the file, because a run that goes on has moved its adapter since. A file that is missing,
    damaged, or of another identity, other questions or another adapter's shapes is replaced where the phase is about to
    begin; the anchor is then the adapter as it is.

    Args:
        path: a safetensors file, written whole or not at all.
        identity: values that JSON can hold and that tell this measurement from others, e.g. configuration and model.
        examples: prepared questions; their own identity is added.
        rows: which of them to measure on.
        gate: in (0, 1].
        begun: steps of the phase have been taken, so that its anchor is in the file or nowhere.

    Raises:
        CheckpointError: the phase has begun, and the file does not fit.
        ValueError: `rows` is empty.
        OSError: the file cannot be written.
    """
    parameters = dict(examples.model.adapter.named_parameters())
    whole = {**identity, "questions": examples.sha256, "rows": list(rows), "gate": gate}
    told = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    found = _read(path, told)
    if found is None or any({n: v.numel() for n, v in part.items()} != sizes for part in found):
        if begun:
            raise CheckpointError(
                f"{path} is missing, damaged or of another run, but the phase that it belongs to has begun; "
                "put it back, or start again in another folder."
            )
        anchor = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}
        found = fisher_information(examples, rows, gate), anchor
        named = {f"{part}.{n}": v for part, values in zip(PARTS, found, strict=True) for n, v in values.items()}
        arrays = {name: value.cpu().numpy() for name, value in named.items()}
        write_tensors(path, arrays, {"sha256": _digest(told, named)})
    information, anchor = (
        {name: part[name].reshape(parameter.shape).to(parameter.device) for name, parameter in parameters.items()}
        for part in found
    )
    return Consolidated(information, anchor)


def _log_likelihood(examples: Examples, row: int, gate: float) -> Tensor:
    """Return log p, summed over the positions of the answer, of what the base without audio would say there."""
    batch = examples.batch([row])  # alone, so that every position is one of its answer
    with torch.no_grad():
        likeliest = examples.logits(batch, None, 0.0).argmax(-1)  # (1, K)
    with torch.enable_grad():
        logits = examples.logits(batch, batch.audio, gate).float()  # (1, K, V)
        chosen = logits.log_softmax(-1).gather(-1, likeliest[..., None])[..., 0]  # (1, K)
        return chosen.sum()


def _read(path: Path, told: str) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """Return information and anchor of the file, or None where it is missing, damaged or of another identity."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError):
        return None
    if header != {"sha256": _digest(told, tensors)}:
        return None
    information, anchor = (
        {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
        for part in PARTS
    )
    return information, anchor


def _digest(told: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of identity, names and values: one entry, as safetensors writes several in any order."""
    digest = hashlib.sha256(told.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().numpy().tobytes())
    return digest.hexdigest()

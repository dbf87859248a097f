"""Isolation: what must not hear keeps its bits, beside others that hear, and everything does at gate 0.

Rows without audio are compared with the plain base at the same batch shape: the sums of a smaller batch may round
otherwise. Positions that must not hear are compared within the adapter. Inserted audio tokens lengthen every row of a
batch, so that rows without audio keep their answers but not the last bits of their logits; these may round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from supervised.diagnostics.questions import Questions
from supervised.diagnostics.recording import bits, recording
from supervised.safe_model import SafeModel

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Share of the largest logit that a longer row may round by."""


@dataclass(frozen=True)
class Isolation:
    """What changed although it must not."""

    gate_zero: float
    """Largest change of a logit at gate 0, with audio at hand; exactly 0 where all bits are equal."""
    rows: float
    """Largest change of a logit in rows without audio, in batches where every second row hears."""
    positions: bool
    """Whether all positions that must not hear kept their bits."""
    rounding: float = 0.0
    """Change of a logit in rows without audio that is allowed; above 0 for inserted audio tokens only."""

    @property
    def leaks(self) -> float:
        """Return the number of checks that failed, of 3."""
        return float((self.gate_zero != 0) + (self.rows > self.rounding) + (not self.positions))


def isolation(model: SafeModel, batches: Sequence[Questions]) -> Isolation:
    """Return what changes in rows, positions and calls that must not hear."""
    gate_zero = rows = largest = 0.0
    positions = True
    for batch in batches:
        plain = _logits(model, batch)
        closed = _logits(model, batch, gate=0.0)
        deaf = torch.arange(len(batch.samples), device=batch.audio.present.device) % 2 == 1
        mixed = replace(batch, audio=replace(batch.audio, present=batch.audio.present & ~deaf))
        with recording(model.adapter) as seen:
            heard = _logits(model, mixed, gate=1.0)
        gate_zero = max(gate_zero, _change(plain, closed))
        rows = max(rows, _change(plain[deaf.to(plain.device)], heard[deaf.to(plain.device)]))
        largest = max(largest, float(plain.float().abs().max()))
        positions = positions and all(fused.untouched for fused in seen)
    inserts = model.config.fusion.injection == "tokens"
    return Isolation(gate_zero, rows, positions, ROUNDING[model.base.dtype] * largest if inserts else 0.0)


def _logits(model: SafeModel, batch: Questions, gate: float | None = None) -> Tensor:
    """Return the logits (B, V) of the first token of the answers; without a `gate`, those of transformers alone."""
    if gate is None:
        output = model.base.generate(
            **batch.inputs,
            do_sample=False,
            num_beams=1,  # as `SafeModel.generate`, whatever the base's own settings say
            max_new_tokens=1,
            return_dict_in_generate=True,
            output_logits=True,
        )
    else:
        output = model.generate(batch.inputs, batch.audio, gate, max_new_tokens=1)
    logits: Tensor = output.logits[0]
    return logits


def _change(first: Tensor, second: Tensor) -> float:
    """Return the largest difference; where only bits differ (-0.0 and 0.0, NaN), the smallest number above 0."""
    if torch.equal(bits(first), bits(second)):
        return 0.0
    change = float((first.float() - second.float()).abs().nan_to_num(torch.inf).max())
    return change or torch.finfo(torch.float32).tiny

"""How much the adapter adds: ||delta|| / ||x|| position by position, the residual scales and the learned gates.

The earliest warning there is: an adapter that pushes hidden states as far as they are long writes over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from supervised.adapter import Adapter
from supervised.diagnostics.delta_logits import quantile
from supervised.diagnostics.recording import Fused, fusions


@dataclass(frozen=True)
class Residual:
    """What one place added to n questions."""

    ratio: Tensor
    """float32 (m,): ||delta|| / ||x|| of all positions that heard."""
    question: Tensor
    """int64 (m,): which of the n questions a position belongs to."""
    openness: Tensor
    """float32 (n,): the learned gate of each question; of another kind of fusion than gated, 1."""

    @staticmethod
    def concatenate(parts: Sequence[Residual]) -> Residual:
        """Return the questions of all `parts`, counted on."""
        starts = torch.tensor([0, *(len(part.openness) for part in parts)]).cumsum(0)
        return Residual(
            torch.cat([part.ratio for part in parts]),
            torch.cat([part.question + start for part, start in zip(parts, starts, strict=False)]),
            torch.cat([part.openness for part in parts]),
        )


def residual(fused: Fused) -> Residual:
    """Return what one call of the adapter added."""
    hears = fused.hears.cpu()
    rows = torch.arange(len(hears))[:, None].expand_as(hears)
    openness = torch.ones(len(hears)) if fused.openness is None else fused.openness.cpu()
    return Residual(fused.ratio.cpu()[hears], rows[hears], openness)


def figures(added: Residual, retention: Tensor) -> dict[str, Any]:
    """Return the figures of one place; `retention` is bool (n,)."""
    result: dict[str, Any] = {}
    for name, kind in (("audio", ~retention), ("retention", retention)):
        ratio, gate = added.ratio[kind[added.question]], added.openness[kind]
        result[name] = {
            "ratio_mean": float(ratio.mean()),
            "ratio_p95": quantile(ratio, 0.95),
            "ratio_max": float(ratio.max()),
            "gate_mean": float(gate.mean()),
            "gate_min": float(gate.min()),
            "gate_max": float(gate.max()),
        }
    return result


def residual_scales(adapter: Adapter) -> list[float]:
    """Return the residual scale of every place."""
    each = fusions(adapter)
    scales = [each[0].residual_scale if fusion.residual_scale is None else fusion.residual_scale for fusion in each]
    return [float(scale.detach()) for scale in scales]


@torch.no_grad()
def fusion_sums(seen: Sequence[Fused]) -> Tensor:
    """Return what calls of an adapter add to `fusion_figures`, float64 (4,): calls and processes may be summed.

    Sum of ||delta|| / ||x|| and number of positions that hear; sum of learned gates and their number. It costs two
    norms of the embeddings, no pass of the base.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    for fused in seen:
        sums[0] += float(fused.ratio.where(fused.hears, 0).sum(dtype=torch.float64))
        sums[1] += int(fused.hears.sum())
        if fused.openness is not None:
            sums[2] += float(fused.openness.sum(dtype=torch.float64))
            sums[3] += len(fused.openness)
    return sums


def fusion_figures(adapter: Adapter, sums: Tensor) -> dict[str, float]:
    """Return what a training step logs from `fusion_sums`: residual_ratio, residual_scale, and open_gate of gated ones.

    Nothing where nothing was fused.
    """
    ratio, positions, gates, questions = sums.tolist()
    if not positions:
        return {}
    scales = residual_scales(adapter)
    figures = {"residual_ratio": ratio / positions, "residual_scale": sum(scales) / len(scales)}
    return figures | ({"open_gate": gates / questions} if questions else {})

"""Updates that leave alone what the fusion asks for on retention questions: null-space projection.

In: retention questions with irrelevant audio. Out: for the query of every fusion, an orthonormal basis of the
directions that these questions put into it; an optimiser step then moves the weight only at right angles to them
(GPM, arXiv:2103.09762, sections 4 and 5, which projects gradients; Adam-NSCL, arXiv:2103.07113, projects what Adam
makes of them, as is done here: decay and moments would otherwise bring the protected directions back in).

    X = U S V'    inputs (D, N) of a weight W (O, D) on N positions; U_r: the fewest directions that hold the share
    dW <- dW - dW U_r U_r'    so that W x does not move for any x in the span of U_r

Protected is the query side of the cross-attention alone: its inputs are prompts, which differ between questions that
need audio and those that do not. Projector, keys and values read audio, which is of one kind on both; to protect those
would be to forbid hearing. A gate per question and the feed-forward of a block read both, and are free as well. The
norm before the query would bend the inputs themselves, so it stands still.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from supervised.fusion.cross_attention import CrossAttentionFusion
from supervised.fusion.lora import LowRank
from supervised.injection import hooked
from supervised.stage_a.examples import Examples

CHUNK = 64
"""Questions of one pass."""


class NullSpace:
    """Protected weights of an adapter and the directions in which they do not move."""

    def __init__(self, adapter: nn.Module, bases: Mapping[str, Tensor]) -> None:
        """Take `bases` (D, r) by the names of weights (O, D) in `adapter.named_parameters()`."""
        named = dict(adapter.named_parameters())
        self._bases = dict(bases)
        self._weights = {name: named[name] for name in bases}
        self._still = [
            parameter
            for fusion in _attentions(adapter).values()
            if fusion.query_norm is not None
            for parameter in fusion.query_norm.parameters()
        ]

    @classmethod
    def measure(cls, examples: Examples, rows: Sequence[int], share: float) -> NullSpace:
        """Find the directions that hold `share` of the second moment of the query side's inputs.

        A low-rank query x + (alpha / r) B A x is protected as the product it is. A fresh one has B = 0: A is made
        blind to the directions at once, which changes no output, and B stays free. One that was trained before keeps
        its A on the directions and its B on what A makes of them.

        Args:
            examples: prepared questions.
            rows: which of them to look at; retention questions with a clip.
            share: in (0, 1), of the sum of squares of the inputs (uncentred) at the positions that hear.

        Raises:
            ValueError: `rows` is empty, or none of its questions has a clip.
        """
        adapter = examples.model.adapter
        moments = _moments(examples, rows)
        bases: dict[str, Tensor] = {}
        for name, fusion in _attentions(adapter).items():
            basis = principal_directions(moments[name], share)  # (D, r)
            query = fusion.query
            if not isinstance(query, LowRank):
                bases[f"{name}query.weight"] = basis
                continue
            bases[f"{name}query.down.weight"] = basis
            down = query.down.weight.detach()  # (R, D)
            if bool(query.up.weight.any()):
                bases[f"{name}query.up.weight"] = _range(down @ basis)  # (R, at most r)
            else:
                down.sub_(_along(down, basis))
        return cls(adapter, bases)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block the optimiser may step; on leaving it, what it moved along the directions is undone."""
        before = {name: weight.detach().clone() for name, weight in self._weights.items()}
        still = [parameter.detach().clone() for parameter in self._still]
        yield
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.sub_(_along(weight - before[name], self._bases[name]))
            for parameter, value in zip(self._still, still, strict=True):
                parameter.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Return the directions, float32 (D, r) by name, as a checkpoint keeps them."""
        return dict(self._bases)

    @classmethod
    def from_tensors(cls, adapter: nn.Module, tensors: Mapping[str, Tensor]) -> NullSpace:
        """Return what `tensors` describes, on the device of the adapter's weights.

        Raises:
            ValueError: a name is not that of a weight of the adapter, or its directions do not fit the weight.
        """
        named = dict(adapter.named_parameters())
        for name, basis in tensors.items():
            if name not in named or basis.ndim != 2 or named[name].shape[-1] != len(basis):
                raise ValueError(f"directions {tuple(basis.shape)} of {name!r} do not fit the adapter")
        return cls(adapter, {name: basis.to(named[name].device) for name, basis in tensors.items()})


def _attentions(adapter: nn.Module) -> dict[str, CrossAttentionFusion]:
    """Return the adapter's cross-attentions by the prefix of their parameters' names."""
    modules = adapter.named_modules()
    return {f"{name}.": module for name, module in modules if isinstance(module, CrossAttentionFusion)}


@torch.no_grad()
def _moments(examples: Examples, rows: Sequence[int]) -> dict[str, Tensor]:
    """Return X X' (D, D) in float64 of what enters every query, over the positions that hear."""
    adapter = examples.model.adapter
    sums: dict[str, Tensor] = {}
    hears: list[Tensor] = []  # of the fusion that is being called

    def listen(_: nn.Module, args: tuple[Any, ...]) -> None:
        hears[:] = [args[0].hears]

    def note(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs = args[0][hears[0]].double()  # (N, D)
            sums[name] = sums.get(name, 0) + inputs.T @ inputs

        return hook

    tops = adapter.fusion if isinstance(adapter.fusion, nn.ModuleList) else [adapter.fusion]
    queries = {name: fusion.query for name, fusion in _attentions(adapter).items()}
    with (
        hooked(top.register_forward_pre_hook(listen) for top in tops),
        hooked(query.register_forward_pre_hook(note(name)) for name, query in queries.items()),
    ):
        for start in range(0, len(rows), CHUNK):
            batch = examples.batch(rows[start : start + CHUNK])
            examples.logits(batch, batch.audio, 1.0)
    if not sums or not all(bool(moment.any()) for moment in sums.values()):
        raise ValueError("no retention question with a clip reached the fusion, so there is nothing to protect")
    return sums


def principal_directions(moment: Tensor, share: float) -> Tensor:
    """Return the fewest eigenvectors (D, r) of `moment` (D, D) that hold `share` of its trace, float32."""
    values, vectors = torch.linalg.eigh(moment)  # rising
    held = values.flip(0).clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
    count = int((held < share).sum()) + 1
    return vectors.flip(1)[:, :count].float().contiguous()


def _range(matrix: Tensor) -> Tensor:
    """Return an orthonormal basis (R, r) of the columns of `matrix` (R, N)."""
    vectors, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return vectors[:, values > 1e-5 * values.max()].contiguous()


def _along(weight: Tensor, basis: Tensor) -> Tensor:
    """Return the part of every row of `weight` (O, D) that lies in the span of `basis` (D, r)."""
    return (weight @ basis) @ basis.T

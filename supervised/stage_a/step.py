"""One optimiser step of Stage A, over all parts and processes of its batch.

Gradients are summed over the parts, then over the processes, and only then clipped and followed: the step is that of
one process with the whole batch at once, up to the order of sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from supervised.diagnostics.recording import recording
from supervised.diagnostics.residual import fusion_figures, fusion_sums
from supervised.errors import ModelError
from supervised.processes import Processes
from supervised.stage_a.config import StageAConfig
from supervised.stage_a.examples import Batch
from supervised.stage_a.fisher import Consolidated
from supervised.stage_a.null_space import NullSpace
from supervised.stage_a.objective import READING, Objective
from supervised.stage_a.recomputing import recomputing
from supervised.stage_a.schedule import budget_at, gate_at, set_rates


@contextmanager
def _training(adapter: nn.Module) -> Iterator[None]:
    """Within the block dropout is awake; everything else measures the adapter as it serves."""
    adapter.train()
    try:
        yield
    finally:
        adapter.eval()


class Step:
    """Takes steps; it keeps nothing between two of them but the optimiser's own state."""

    def __init__(
        self, objective: Objective, optimizer: torch.optim.Optimizer, config: StageAConfig, processes: Processes
    ) -> None:
        self.objective, self.optimizer, self.config, self.processes = objective, optimizer, config, processes
        self.adapter = objective.examples.model.adapter
        self.consolidated: Consolidated | None = None
        self.null_space: NullSpace | None = None

    def gradient(self, number: int, batches: Sequence[Batch], weights: Mapping[str, float]) -> dict[str, float]:
        """Compute the gradient of step `number` (the first is 0) and clip it; return the step's figures.

        Args:
            number: of the step.
            batches: this process's questions in `config.accumulate` parts; parts without a question are left out.
            weights: of the loss, by term; the Fisher term counts where something is consolidated.

        Raises:
            ModelError: the gradient is not finite.
        """
        gate, budget = gate_at(number, self.config), budget_at(number, self.config)
        counts = self.objective.counts(batches)
        self.processes.sum_([counts])
        self.optimizer.zero_grad(set_to_none=True)
        sums, fused = torch.zeros(len(READING), dtype=torch.float64), fusion_sums([])
        again = recomputing(self.objective.examples.model.stack) if self.config.checkpointing else nullcontext()
        with recording(self.adapter) as seen, again, _training(self.adapter):
            for batch in batches:
                terms = self.objective(batch, gate, budget, counts)
                loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
                loss.backward()
                sums += torch.tensor([terms[name].item() if name in terms else 0.0 for name in READING])
                fused += fusion_sums(seen)
                seen.clear()  # or the states of every part would stay until the last one
        trained = self._trained()
        for parameter in trained:  # the same list in every process
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.processes.sum_([sums, fused, *(parameter.grad for parameter in trained if parameter.grad is not None)])
        figures = {
            f"{name}_loss": value for name, value in zip(READING, sums.tolist(), strict=True) if weights[name] > 0
        }
        if self.consolidated is not None and weights["fisher"] > 0:
            penalty = self.consolidated.penalty(self.adapter)
            (weights["fisher"] * penalty).backward()
            figures["fisher_loss"] = penalty.item()
        figures["loss"] = sum(weights[name.removesuffix("_loss")] * value for name, value in figures.items())
        figures["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(trained, self.config.clip_norm))
        if not math.isfinite(figures["grad_norm"]):
            raise ModelError(
                f"Stage A diverged at step {number + 1} (gradient norm {figures['grad_norm']}); "
                "lower stage_a.fusion_lr."
            )
        figures |= {"gate": gate, **fusion_figures(self.adapter, fused)}
        return figures if budget is None else figures | {"budget": float(budget)}

    def follow(self, number: int) -> float:
        """Move the trained values along the gradient; return the factor on the peak rates."""
        factor = set_rates(self.optimizer, number, self.config)
        with nullcontext() if self.null_space is None else self.null_space.held():
            self.optimizer.step()
        return factor

    def _trained(self) -> list[nn.Parameter]:
        """Return the parameters that this phase trains."""
        return [
            parameter
            for group in self.optimizer.param_groups
            for parameter in group["params"]
            if parameter.requires_grad
        ]

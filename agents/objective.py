"""The objective of constrained PPO: a minibatch and the multipliers [K] go in, one loss to descend comes out."""

from __future__ import annotations

from typing import NamedTuple

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from agents.buffer import Batch
from agents.cost_policy import CostActorCriticPolicy


class Weights(NamedTuple):
    """Weights of the terms beside the policy's."""

    entropy: float
    value: float
    cost_value: float


def mixed_advantages(batch: Batch, multiplier: Tensor, standardise: bool) -> Tensor:
    """Return (A_r - sum_k multiplier_k A_ck) / (1 + sum_k multiplier_k), standardised after mixing if asked, (B,)."""
    mixed = (batch.advantages - batch.cost_advantages @ multiplier) / (1.0 + multiplier.sum())
    if standardise and len(mixed) > 1:
        mixed = (mixed - mixed.mean()) / (mixed.std() + 1e-8)
    return mixed


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> None:
    """Scale the gradients together to the norm `largest`, where theirs is larger.

    As `torch.nn.utils.clip_grad_norm_`, without its sorting by device and type, which takes longer than the sums.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = th.linalg.vector_norm(th.stack(th._foreach_norm(gradients)))
    th._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))


def ppo_loss(
    policy: CostActorCriticPolicy, batch: Batch, advantages: Tensor, clip_range: float, weights: Weights
) -> tuple[Tensor, Tensor]:
    """Return the loss, and what `agents.update_log.RECORDED` names (7,).

    Args:
        policy: the network as it is now.
        batch: B samples of the rollout.
        advantages: (B,), mixed.
        clip_range: how far the ratio of probabilities may pay (arXiv:1707.06347, equation 7).
        weights: of entropy bonus and critics.
    """
    log_probs, values, cost_values, entropy = policy.evaluate(batch.observations, batch.actions)
    log_ratio = log_probs - batch.log_probs
    ratio = th.exp(log_ratio)
    clipped = th.clamp(ratio, 1 - clip_range, 1 + clip_range)
    policy_loss = -th.min(advantages * ratio, advantages * clipped).mean()
    value_loss = F.mse_loss(values, batch.returns)
    cost_value_loss = (cost_values - batch.cost_returns).square().mean(dim=0).sum()
    entropy_mean = entropy.mean() if entropy is not None else -log_probs.mean()
    losses = (policy_loss, value_loss, cost_value_loss, entropy_mean)
    loss = _total(losses, weights)
    with th.no_grad():
        record = _record(losses, loss, ratio, log_ratio, clip_range)
    return loss, record


def ppo_slopes(
    policy: CostActorCriticPolicy, batch: Batch, advantages: Tensor, clip_range: float, weights: Weights
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Return where to begin the backward pass, the gradients there, and what `RECORDED` names (7,).

    Where the actions are discrete it begins at logits and values, whose gradients are written out below: for a small
    network, a graph of single sums and products takes as long as the network itself. Elsewhere it begins at the loss.
    The arguments are those of `ppo_loss`.
    """
    if not policy.categorical:
        loss, record = ppo_loss(policy, batch, advantages, clip_range, weights)
        return [loss], [th.ones_like(loss)], record
    heads = policy.heads(batch.observations)
    with th.no_grad():
        logits, values, cost_values = heads
        log_policy = th.log_softmax(logits, dim=1)  # (B, A)
        chances, taken = log_policy.exp(), batch.actions[:, None]
        log_ratio = log_policy.gather(1, taken)[:, 0] - batch.log_probs
        ratio = th.exp(log_ratio)
        gain, capped = advantages * ratio, advantages * th.clamp(ratio, 1 - clip_range, 1 + clip_range)
        entropy = -(chances * log_policy).sum(dim=1)  # (B,)
        pull = th.where(gain <= capped, gain, 0.0)[:, None]  # (B, 1), of the logarithm of the action's probability
        slope = chances * (pull + weights.entropy * (log_policy + entropy[:, None]))
        slope.scatter_add_(1, taken, -pull)
        errors, cost_errors = values - batch.returns, cost_values - batch.cost_returns
        losses = (
            -th.min(gain, capped).mean(),
            errors.square().mean(),
            cost_errors.square().mean(dim=0).sum(),
            entropy.mean(),
        )
        record = _record(losses, _total(losses, weights), ratio, log_ratio, clip_range)
        count = len(ratio)
        slopes = [slope / count, errors * (2 * weights.value / count), cost_errors * (2 * weights.cost_value / count)]
    learned = [(head, slope) for head, slope in zip(heads, slopes, strict=True) if head.requires_grad]
    return [head for head, _ in learned], [slope for _, slope in learned], record


def _total(losses: tuple[Tensor, Tensor, Tensor, Tensor], weights: Weights) -> Tensor:
    policy_loss, value_loss, cost_value_loss, entropy = losses
    return policy_loss + weights.value * value_loss + weights.cost_value * cost_value_loss - weights.entropy * entropy


def _record(
    losses: tuple[Tensor, Tensor, Tensor, Tensor], loss: Tensor, ratio: Tensor, log_ratio: Tensor, clip_range: float
) -> Tensor:
    divergence = (ratio - 1 - log_ratio).mean()  # http://joschu.net/blog/kl-approx.html
    clip_fraction = ((ratio - 1).abs() > clip_range).float().mean()
    return th.stack([*losses, divergence, clip_fraction, loss])  # (7,), read once per rollout

"""Distillation: a policy and questions without labels go in, a student with one hidden layer comes out.

The student learns the teacher's action probabilities: KL(teacher || student) (Hinton et al., arXiv:1503.02531). What
the teacher decides depends on the features only through its own first layer, u = W x + b. So the student is a network
of one hidden layer on u, which together with the linear first layer is one hidden layer on the features; what the
teacher does not look at cannot mislead it. The teacher answers any state, so it is asked between the train rows as
well. The student of the best step on the validation rows is kept, and a temperature, fitted there (Guo et al.,
arXiv:1706.04599), lets its probabilities mean what the teacher's do; no decision changes by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch as th
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from agents.adam import AdamW
from agents.config import DistillConfig
from agents.divergence import check_layers, run_of
from agents.gate_policy import GatePolicy
from agents.layers import linear_layers
from envs.actions import Action
from envs.batch import OutcomeBatches, RowSampler

CALIBRATION_BINS = 15
_LOOKS = 20
"""How often the student is judged on the validation rows."""
_LARGEST_POOL = 100_000
"""Train rows that are drawn from, at most; mixtures of two make many more states of them."""
_ROWS_TO_START_FROM = 20_000
_ROWS_AT_ONCE = 4096
_LARGEST_LOG_TEMPERATURE = 3.0


@dataclass(frozen=True)
class Student:
    """What distillation gave; agreement and calibration are those on the validation rows."""

    policy: GatePolicy
    """The student, its temperature folded into its last layer."""
    step: int
    """Step that was kept."""
    agreement: float
    """Share of the rows on which student and teacher take the same action."""
    temperature: float
    """What the student's logits were divided by."""
    calibration_error_before: float
    """Distance of the student's use probability from the teacher's, before the temperature."""
    calibration_error: float
    """The same after it."""


def distil(
    teacher: GatePolicy,
    train: OutcomeBatches,
    validation: OutcomeBatches,
    config: DistillConfig,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Student:
    """Train one student; equal seeds give equal students.

    Args:
        teacher: what is imitated; its features, normaliser, actions and activation are the student's.
        train: questions to learn on, with the teacher's normaliser; their outcomes are not looked at.
        validation: questions to select and to calibrate on; their outcomes are not looked at.
        config: of the student.
        seed: of the student's first weights and of the order of the questions.
        progress: called after every step with the number of steps done.

    Raises:
        Diverged: training left the finite numbers.
    """
    known = _Teacher(teacher)
    generator = th.Generator().manual_seed(seed)
    pool = known.entry(train, RowSampler(len(train), seed).draw(min(len(train), _LARGEST_POOL)))  # [P, E]
    rows = RowSampler(len(pool), seed)
    network, centre = _start(known, pool[:_ROWS_TO_START_FROM], config.hidden, generator)
    optimiser = AdamW(network.parameters(), config.learning_rate)
    held_out = known.entry(validation, np.arange(len(validation)))  # [n, E]
    wanted = known.answer(held_out)  # [n, A]
    every = max(config.steps // _LOOKS, 1)
    best, kept, kept_step = _agreement(network, held_out, wanted), _copy(network), 0
    for step in range(1, config.steps + 1):
        states = _mixed(pool[rows.draw(config.batch_size)], centre, config.mix, generator)  # [B, E]
        loss = nn.functional.kl_div(
            network(states).log_softmax(dim=1), known.answer(states), log_target=True, reduction="batchmean"
        )
        optimiser.learning_rate = config.learning_rate * (1 + math.cos(math.pi * step / config.steps)) / 2
        network.zero_grad()
        loss.backward()
        optimiser.step()
        if step % every == 0 or step == config.steps:
            agreement = _agreement(network, held_out, wanted)
            if agreement >= best:  # among equals the latest, which has learned longest
                best, kept, kept_step = agreement, _copy(network), step
        if progress is not None:
            progress(step)
    network.load_state_dict(kept)
    with run_of(seed, "distill"):
        check_layers(linear_layers(network), config.steps)
    with th.no_grad():
        logits, chances = network(held_out).double().numpy(), wanted.double().exp().numpy()  # [n, A]
    temperature = fit_temperature(logits, chances)
    before, after = (
        calibration_error(1.0 - _softmax(logits / value)[:, Action.SKIP], 1.0 - chances[:, Action.SKIP])
        for value in (1.0, temperature)
    )
    return Student(_folded(kept, teacher, temperature), kept_step, best, temperature, before, after)


def calibration_error(chances: np.ndarray, wanted: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Return how far probabilities [n] are from the wanted ones [n], on average over bins of equal width.

    In every bin of `chances` the mean of what is said is compared with the mean of what is wanted. With outcomes 0 and
    1 as the wanted, this is the expected calibration error (Guo et al., arXiv:1706.04599, section 2).
    """
    bin_of = np.clip((chances * bins).astype(np.int64), 0, bins - 1)
    gaps = np.bincount(bin_of, weights=chances.astype(np.float64) - wanted, minlength=bins)
    return float(np.abs(gaps).sum() / len(chances))


def fit_temperature(logits: np.ndarray, chances: np.ndarray) -> float:
    """Return the temperature that brings softmax(logits / temperature) closest to probabilities, in cross-entropy.

    Args:
        logits: of the student, [n, A].
        chances: wanted probabilities, [n, A].
    """

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        top = scaled.max(axis=1, keepdims=True)
        log_total = top[:, 0] + np.log(np.exp(scaled - top).sum(axis=1))
        return float((log_total - (chances * scaled).sum(axis=1)).mean())

    bounds = (-_LARGEST_LOG_TEMPERATURE, _LARGEST_LOG_TEMPERATURE)
    return math.exp(minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)


class _Teacher:
    """A policy in two halves: features to entry u [n, E] (linear), entry to log-probabilities [n, A]."""

    def __init__(self, policy: GatePolicy) -> None:
        self.layers = [(th.from_numpy(weight), th.from_numpy(bias)) for weight, bias in policy.layers]
        self.activation: nn.Module = nn.ReLU() if policy.activation == "relu" else nn.Tanh()

    def entry(self, batches: OutcomeBatches, rows: np.ndarray) -> Tensor:
        """Return the entry of some rows, [m, E]; their features are read some rows at a time."""
        weight, bias = self.layers[0]
        entry = th.empty((len(rows), len(bias)))
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            piece = slice(first, first + _ROWS_AT_ONCE)
            states = np.concatenate(list(batches.observe(rows[piece]).values()), axis=1)  # [<= 4096, D]
            entry[piece] = nn.functional.linear(th.from_numpy(states), weight, bias)
        return entry

    def last_hidden(self, entry: Tensor) -> Tensor:
        """Return what goes into the last activation, [n, H]."""
        for weight, bias in self.layers[1:-1]:
            entry = nn.functional.linear(self.activation(entry), weight, bias)
        return entry

    def answer(self, entry: Tensor) -> Tensor:
        with th.no_grad():
            if len(self.layers) > 1:
                entry = nn.functional.linear(self.activation(self.last_hidden(entry)), *self.layers[-1])
            return entry.log_softmax(dim=1)


def _start(teacher: _Teacher, entry: Tensor, hidden: int, generator: th.Generator) -> tuple[nn.Sequential, Tensor]:
    """Return a network that begins close to the teacher, and the mean entry [E].

    Its first hidden units are the linear fit of the teacher's last hidden layer, with the teacher's last weights; the
    next are the teacher's first hidden layer, the rest random, both without a say in the beginning. A teacher of one
    hidden layer that is no wider is copied.
    """
    size, n_actions = entry.shape[1], len(teacher.layers[-1][1])
    centre, spread = entry.mean(dim=0), entry.std(dim=0, correction=0).clamp(min=1e-6)
    into = th.randn((hidden, size), generator=generator) / (math.sqrt(size) * spread)  # [H, E]
    shift, out, last = -into @ centre, th.zeros((n_actions, hidden)), th.zeros(n_actions)
    if len(teacher.layers) > 1:
        centred = th.cat([entry - centre, th.ones((len(entry), 1))], dim=1).double()
        wanted = teacher.last_hidden(entry)  # [m, H']
        # The normal equations with a little on the diagonal: entries may be collinear, or fewer rows than entries.
        gram = centred.T @ centred + 1e-6 * len(entry) * th.diag(th.cat([spread.double() ** 2, th.ones(1)]))
        fit = th.linalg.solve(gram, centred.T @ wanted.double()).T.float()  # [H', E + 1]
        first = min(len(fit), hidden)
        into[:first], shift[:first] = fit[:first, :-1], fit[:first, -1] - fit[:first, :-1] @ centre
        out[:, :first], last = teacher.layers[-1][0][:, :first], teacher.layers[-1][1]
        second = min(size, hidden - first)
        into[first : first + second], shift[first : first + second] = th.eye(size)[:second], 0.0
    network = nn.Sequential(nn.Linear(size, hidden), teacher.activation, nn.Linear(hidden, n_actions))
    network.load_state_dict({"0.weight": into, "0.bias": shift, "2.weight": out, "2.bias": last})
    return network, centre


def _mixed(entry: Tensor, centre: Tensor, mix: float, generator: th.Generator) -> Tensor:
    """Return states [B, E] to ask the teacher about: every row with some of another one.

    A point on the arc between two rows, not on the line: mean and covariance of the rows stay what they are.
    """
    if not mix:
        return entry
    angle = mix * math.pi / 4 * th.rand((len(entry), 1), generator=generator)
    others = entry[th.randperm(len(entry), generator=generator)]
    return centre + th.cos(angle) * (entry - centre) + th.sin(angle) * (others - centre)


def _agreement(network: nn.Sequential, states: Tensor, wanted: Tensor) -> float:
    with th.no_grad():
        return float((network(states).argmax(dim=1) == wanted.argmax(dim=1)).double().mean())


def _copy(network: nn.Sequential) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _folded(weights: dict[str, Tensor], teacher: GatePolicy, temperature: float) -> GatePolicy:
    """Return the student as a policy on features: the teacher's first layer and the temperature go into its layers."""
    into, shift, out, last = (value.double().numpy() for value in weights.values())
    weight, bias = (value.astype(np.float64) for value in teacher.layers[0])
    layers = [(into @ weight, into @ bias + shift), (out / temperature, last / temperature)]
    return GatePolicy(teacher.normaliser, layers, teacher.actions, teacher.activation)


def _softmax(logits: np.ndarray) -> np.ndarray:
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(chances / chances.sum(axis=1, keepdims=True))

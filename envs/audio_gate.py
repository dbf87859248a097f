"""The environment `safe_rl/AudioGate-v0`: one question, one decision, over a table or live on a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.actions import Action
from envs.config import RewardConfig
from envs.normaliser import CLIP, ObservationNormaliser
from envs.outcomes import OutcomeTable
from envs.reward import RewardTerms, cost_matrix
from envs.source import Outcome, OutcomeSource, TableSource, open_split
from supervised.errors import ConfigError


class AudioGateEnv(gymnasium.Env[dict[str, np.ndarray], int]):
    """One question per episode: answer with the base model alone, or pay for the audio.

    Action Space: `Discrete(A)`, the actions of the table: 0 SKIP, 1 USE.
    Observation Space: `Dict` of float32 `Box`es in [-10, 10]: those of question, image, audio_preview, confidence
        that the table has, normalised with the train split.
    Rewards: score - alpha * extra latency / unit - gamma * irrelevance.
    Cost: `info["cost"]`, float32 [K]: score lost on every retention set, scaled so that its mean is the drop.
    Starting State: a question drawn uniformly from the split, or the one of `options={"index": i}`.
    Episode End: terminated after one step, never truncated.

    Args:
        table: A folder or an opened table; None: the small table that ships.
        split: The split that questions are drawn from.
        alpha: Accuracy points that one latency unit of extra latency costs.
        gamma: Accuracy points that using audio on a retention question costs.
        token_weight: Accuracy points that one token unit of extra audio tokens costs.
        source: Questions from elsewhere (say, `LiveSource`) in place of `table`; needs `normaliser`.
        normaliser: The normalisation of a trained policy; None: that of the table's train split.
        render_mode: None or "ansi".

    Raises:
        TableError: the table cannot be opened.
        ConfigError: arguments that contradict each other or are out of range.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - gymnasium's form

    def __init__(
        self,
        table: OutcomeTable | Path | str | None = None,
        split: str = "train",
        alpha: float = RewardConfig.alpha,
        gamma: float = RewardConfig.gamma,
        token_weight: float = 0.0,
        source: OutcomeSource | None = None,
        normaliser: ObservationNormaliser | None = None,
        render_mode: str | None = None,
    ) -> None:
        if source is not None and table is not None:
            raise ConfigError("table and source are both given; give one of them.")
        if source is not None and normaliser is None:
            raise ConfigError("source needs a normaliser; give that of the policy, or fit one on a table.")
        if render_mode not in (None, "ansi"):
            raise ConfigError(f"render_mode must be None or 'ansi', got {render_mode!r}; use 'ansi'.")
        self.render_mode = render_mode
        self.reward_config = RewardConfig(alpha, gamma, token_weight)
        if source is None:
            rows = open_split(table, split)
            source = TableSource(rows)
            normaliser = normaliser or ObservationNormaliser.fit(rows.table.split("train"))
        assert normaliser is not None
        self.source = source
        self.normaliser = normaliser
        self.observation_space = observation_space(source.problem.widths, normaliser)  # type: ignore[assignment]
        self._choices = spaces.Discrete(len(source.problem.actions))
        self.action_space = self._choices  # type: ignore[assignment]
        self._index: int | None = None
        self._last: tuple[int, Outcome, float] | None = None

    def set_alpha(self, alpha: float) -> None:
        """Set the price of latency; the curriculum calls this."""
        self.reward_config = RewardConfig(alpha, self.reward_config.gamma, self.reward_config.token_weight)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Draw a question, or take the one of `options={"index": i}`."""
        super().reset(seed=seed)
        index = (options or {}).get("index")
        if index is None:
            index = int(self.np_random.integers(len(self.source)))
        elif not 0 <= index < len(self.source):
            raise ConfigError(f"options index must lie in 0 .. {len(self.source) - 1}, got {index}; choose another.")
        self._index = int(index)
        self._last = None
        return self._observation(), self._describe()

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Decide; the episode ends."""
        if self._index is None or self._last is not None:
            raise gymnasium.error.ResetNeeded("an episode is one step long; call reset() before step().")
        if not self._choices.contains(action):
            raise gymnasium.error.InvalidAction(f"action must be 0 .. {self._choices.n - 1}, got {action!r}.")
        action = int(action)
        chosen = self.source.outcome(self._index, action)
        skipped = chosen if action == Action.SKIP else self.source.outcome(self._index, Action.SKIP)
        reward, cost = self._value(action, chosen, skipped)
        self._last = (action, chosen, reward)
        info = self._describe() | {
            "cost": cost,
            "score": chosen.score,
            "latency_ms": chosen.latency_ms,
            "use": action != Action.SKIP,
            "prediction": chosen.prediction,
        }
        return self._observation(), reward, True, False, info

    def render(self) -> str | None:
        """Return the question, and what the last action gave, as text."""
        if self.render_mode is None or self._index is None:
            return None
        record = self.source.record(self._index)
        lines = [f"{record['id']}: {record['question']}"]
        if self._last is not None:
            action, outcome, reward = self._last
            lines.append(
                f"{self.source.problem.actions[action]} -> {outcome.prediction!r}, score {outcome.score:.2f}, "
                f"{outcome.latency_ms:.1f} ms, reward {reward:.3f}"
            )
        return "\n".join(lines)

    def _value(self, action: int, chosen: Outcome, skipped: Outcome) -> tuple[float, np.ndarray]:
        """Return reward and cost [K] through the formulas for whole tables, on a table of one row."""
        problem = self.source.problem
        assert self._index is not None
        score = np.full((1, len(problem.actions)), skipped.score, dtype=np.float32)
        latency = np.full((1, len(problem.actions)), skipped.latency_ms, dtype=np.float32)
        score[0, action], latency[0, action] = chosen.score, chosen.latency_ms
        member = np.array([self.source.retention_set(self._index)])
        terms = RewardTerms(
            score, latency, member, problem.latency_unit_ms, self.reward_config, problem.action_tokens
        ).matrix()
        return float(terms[0, action]), cost_matrix(score, member, problem.rates)[0, :, action].copy()

    def _observation(self) -> dict[str, np.ndarray]:
        assert self._index is not None
        return self.normaliser(self.source.observation(self._index))

    def _describe(self) -> dict[str, Any]:
        assert self._index is not None
        record = self.source.record(self._index)
        member = self.source.retention_set(self._index)
        return {
            "index": self._index,
            "id": str(record["id"]),
            "question": str(record["question"]),
            "type": str(record["type"]),
            "retention_set": self.source.problem.retention_sets[member] if member >= 0 else "",
        }


def observation_space(widths: dict[str, int], normaliser: ObservationNormaliser) -> spaces.Dict:
    """Return one Box in [-10, 10] per feature.

    Raises:
        ConfigError: the normaliser was fitted on other features.
    """
    if normaliser.widths != widths:
        raise ConfigError(
            f"the normaliser is for features {normaliser.widths}, the questions have {widths}; "
            "use the policy with the table it was trained on."
        )
    return spaces.Dict({name: spaces.Box(-CLIP, CLIP, (width,), np.float32) for name, width in widths.items()})

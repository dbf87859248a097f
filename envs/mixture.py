"""Rows at another share of audio questions than their split has: rows of both kinds go in, batches come out.

Rewards stay as they are: that audio questions count for more at first is the purpose. The constraint must not move: a
cost is weighted by how much rarer its kind of question is in the mixture than in the split (importance weights), so
that the mean cost of what is drawn is the drop on the whole split at every share, and the multiplier prices the same
harm alike all along.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.batch import RowSampler
from supervised.errors import ConfigError


class AudioMixture:
    """Shuffled epochs without replacement, of audio questions and of retention questions apart.

    Args:
        audio: Whether a row is an audio question, which belongs to no retention set, bool [n].
        seed: Seed of both shuffles.

    Raises:
        ConfigError: all rows are of one kind.
    """

    def __init__(self, audio: np.ndarray, seed: int | None = None) -> None:
        self.audio = audio
        self.kinds = {"audio": np.flatnonzero(audio), "retention": np.flatnonzero(~audio)}
        for name, rows in self.kinds.items():
            if len(rows) == 0:
                raise ConfigError(
                    f"the share of audio questions cannot change: the split has no {name} questions; "
                    "leave curriculum.audio_share_initial and curriculum.audio_share_final out."
                )
        self.samplers = {
            name: RowSampler(len(rows), None if seed is None else [seed, place])
            for place, (name, rows) in enumerate(self.kinds.items())
        }
        self._owed = 0.0  # audio questions not yet drawn: less than one

    def draw(self, count: int, share: float) -> np.ndarray:
        """Return the next rows, int64 [count], of which `share` are audio questions; what is rounded off is owed."""
        self._owed += share * count
        audio = min(int(self._owed), count)
        self._owed -= audio
        numbers = {"audio": audio, "retention": count - audio}
        return np.concatenate([self.kinds[name][self.samplers[name].draw(number)] for name, number in numbers.items()])

    def cost_weights(self, rows: np.ndarray, share: float) -> np.ndarray:
        """Return P(kind in the split) / P(kind at `share`) of some rows, float32 [m]."""
        natural = float(np.mean(self.audio))
        weights = np.divide([1 - natural, natural], [1 - share, share], where=[share < 1, share > 0], out=np.ones(2))
        return weights.astype(np.float32)[self.audio[rows].astype(np.int64)]

    def get_state(self) -> dict[str, Any]:
        """Return where both epochs stand, as JSON."""
        return {"owed": self._owed, **{name: sampler.get_state() for name, sampler in self.samplers.items()}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where `get_state` was called.

        Raises:
            CheckpointError: the state is of another table.
        """
        for name, sampler in self.samplers.items():
            sampler.set_state(state[name])
        self._owed = float(state["owed"])

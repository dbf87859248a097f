"""Questions answered on demand by the model itself: the same numbers as in the table, without a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.actions import Action
from envs.build import table_provenance
from envs.config import OutcomesConfig
from envs.cost import PROFILE, LatencyProfile
from envs.outcomes import OutcomeTable
from envs.passes import BasePass, Passes, UsePass
from envs.reward import retention_rates
from envs.source import DecisionProblem, Outcome
from supervised.data.sample import Sample
from supervised.errors import DataError, TableError

if TYPE_CHECKING:
    from supervised.encoders.features import AudioFeatures
    from supervised.safe_model import SafeModel


class LiveSource:
    """Runs the base when a question is shown, and the pass with audio only when USE is chosen.

    Args:
        model: Base, encoder and adapter.
        samples: The questions; each is read once here for its retention set.
        profile: Latencies, as stored with a table.
        config: As the table was built with.
        latency_unit_ms: Of the table.
        retention_sets: Names of the retention sets, in the table's order; None: those of the samples, as met.
        rates: P(retention set) of the split; None: that of the samples.
    """

    def __init__(
        self,
        model: SafeModel,
        samples: Sequence[Sample],
        profile: LatencyProfile,
        config: OutcomesConfig,
        latency_unit_ms: float,
        retention_sets: Sequence[str] | None = None,
        rates: np.ndarray | None = None,
    ) -> None:
        if len(samples) == 0:
            raise DataError("a live environment needs at least one question, got none; give some.")
        self.samples = samples
        self.passes = Passes(model, config, profile)
        names = [samples[index].retention_set for index in range(len(samples))]
        sets = list(retention_sets) if retention_sets is not None else list(dict.fromkeys(n for n in names if n))
        unknown = {name for name in names if name is not None} - set(sets)
        if unknown:
            raise DataError(f"retention sets {sorted(unknown)} are unknown; allowed: {', '.join(sets)}.")
        self._sets = np.array([-1 if name is None else sets.index(name) for name in names], dtype=np.int16)
        self._shown: tuple[int, BasePass] | None = None
        self._heard: tuple[int, AudioFeatures, dict[int, UsePass]] | None = None
        self.problem = DecisionProblem(
            self.passes.actions,
            {name: values.shape[1] for name, values in self._base(0).features.items()},
            tuple(sets),
            retention_rates(self._sets, len(sets)) if rates is None else rates,
            latency_unit_ms,
            self.passes.tokens,
        )

    @classmethod
    def like(cls, table: OutcomeTable, model: SafeModel, samples: Sequence[Sample]) -> LiveSource:
        """Answer `samples` as the build of `table` did: its configuration, profile, unit and retention sets.

        Raises:
            TableError: the table was built with another model, or does not tell how it was built.
        """
        if "config" not in table.provenance:
            raise TableError(f"the table in {table.directory} does not tell how it was built; give a LatencyProfile.")
        try:
            told = {"budgets": (), **table.provenance["config"]}
            config = OutcomesConfig(**told | {"budgets": tuple(told["budgets"])})
        except TypeError:  # provenance is free form in a table made elsewhere
            raise TableError(
                f"the table in {table.directory} was not built by this program; give a LatencyProfile and a config."
            ) from None
        table.require({"model": table_provenance(model, config, {})["model"]})
        profile = LatencyProfile.load(Path(table.directory) / PROFILE)
        return cls(model, samples, profile, config, table.latency_unit_ms, table.retention_sets)

    def __len__(self) -> int:
        return len(self.samples)

    def observation(self, index: int) -> dict[str, np.ndarray]:
        """Run the base on a question and return its features."""
        return {name: values[0].astype(np.float32) for name, values in self._base(index).features.items()}

    def outcome(self, index: int, action: int) -> Outcome:
        """Return what the base said, or run the pass with audio."""
        base = self._base(index)
        if action == Action.SKIP:
            return Outcome(float(base.score[0]), float(base.latency_ms[0]), base.answers[0])
        if self._heard is None or self._heard[0] != index:
            self._heard = index, self.passes.encode(base.samples), {}
        _, audio, uses = self._heard
        if action not in uses:
            uses[action] = self.passes.use(base, audio, action)
        use = uses[action]
        return Outcome(float(use.score[0]), float(use.latency_ms[0]), use.answers[0])

    def retention_set(self, index: int) -> int:
        """Return the index of the question's retention set, or -1."""
        return int(self._sets[index])

    def record(self, index: int) -> dict[str, Any]:
        """Return id, question, answers and type."""
        sample = self._base(index).samples[0]
        return {"id": sample.id, "question": sample.question, "answers": list(sample.answers), "type": sample.type}

    def _base(self, index: int) -> BasePass:
        """Return the base pass of a question; the last one is kept."""
        if self._shown is None or self._shown[0] != index:
            self._shown = index, self.passes.base([self.passes.load(self.samples[index])])
        return self._shown[1]

"""The evaluation of an adapter: a model and the questions of a split go in, scores and figures with intervals come out.

Gate 0 is the base, gate 1 base and adapter with all of the audio. Intervals are percentiles of 1,000 resamples of the
questions' groups; gain and drop are means of differences question by question, on the same resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.evaluation import RIGHT
from safe_rl.config import LEARNED, RunConfig
from supervised.differences import differences
from supervised.errors import TableError

if TYPE_CHECKING:
    from rich.table import Table

    from envs.config import OutcomesConfig
    from envs.outcomes import OutcomeTable
    from supervised.data.sample import Sample
    from supervised.safe_model import SafeModel


@dataclass(frozen=True)
class Outcomes:
    """The scores of n questions."""

    base: np.ndarray
    """float64 [n]: with the gate at 0."""
    heard: np.ndarray
    """float64 [n]: with the gate at 1."""
    retention_sets: list[str | None]
    types: list[str]
    groups: list[str]

    @property
    def retention(self) -> np.ndarray:
        """Return bool [n]: the question needs no audio."""
        return np.array([name is not None for name in self.retention_sets])


class Means:
    """Means with 95 % intervals, all on the same resamples of the groups."""

    def __init__(self, groups: Sequence[str], seed: int) -> None:
        from agents.metrics.resamples import Resamples

        self.resamples = Resamples(np.array(groups), seed=seed)

    def __call__(self, values: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
        """Return the mean of `values` [n] over the `chosen` ones, bool [n], as mean, low and high."""
        from agents.metrics.resamples import interval

        with np.errstate(invalid="ignore"):  # a resample without a chosen row has no mean
            means = self.resamples.sums(values * chosen) / self.resamples.sums(chosen.astype(np.float64))
        return interval(float(values[chosen].mean()), means)


def ask_all(model: SafeModel, samples: Sequence[Sample], batch_size: int, max_new_tokens: int) -> Outcomes:
    """Ask every question with and without its audio; only one batch is in memory at a time.

    Raises:
        DataError: a picture or a clip cannot be used.
    """
    from tqdm import tqdm

    from supervised.diagnostics.observing import answer_scores
    from supervised.diagnostics.questions import ask

    base, heard, asked = [], [], []
    with tqdm(total=len(samples), desc="evaluate", unit="question", disable=None) as bar:
        for start in range(0, len(samples), batch_size):
            batch = ask(model, [samples[i] for i in range(start, min(start + batch_size, len(samples)))])
            base.append(answer_scores(model, [batch], 0.0, max_new_tokens))
            heard.append(answer_scores(model, [batch], 1.0, max_new_tokens))
            asked += [(sample.retention_set, sample.type, sample.group or sample.id) for sample in batch.samples]
            bar.update(len(batch.samples))
    sets, types, groups = (list(column) for column in zip(*asked, strict=True))
    return Outcomes(np.concatenate(base), np.concatenate(heard), sets, types, groups)


def gate_zero(model: SafeModel, samples: Sequence[Sample], config: OutcomesConfig) -> dict[str, Any]:
    """Return whether gate 0 gives the plain base's logits and ids, bit for bit, on the first questions."""
    from envs.measure import gate_zero_is_exact

    count = min(config.exact_samples, len(samples))
    return {"bit_exact": gate_zero_is_exact(model, [samples[i] for i in range(count)], config), "questions": count}


def report(outcomes: Outcomes, seed: int) -> dict[str, Any]:
    """Return the figures of all questions, of both kinds, of every type and of every retention set."""
    means, retention = Means(outcomes.groups, seed), outcomes.retention
    types, sets = np.array(outcomes.types), np.array([name or "" for name in outcomes.retention_sets])
    return {
        "split": "test",
        "questions": len(retention),
        "all": _part(means, outcomes, np.ones(len(retention), dtype=bool)),
        "audio": _part(means, outcomes, ~retention),
        "retention": _part(means, outcomes, retention),
        "types": {name: _part(means, outcomes, types == name) for name in sorted(set(outcomes.types))},
        "retention_sets": {name: _part(means, outcomes, sets == name) for name in sorted(set(sets) - {""})},
    }


def _part(means: Means, outcomes: Outcomes, chosen: np.ndarray) -> dict[str, Any] | None:
    """Return the figures of the chosen questions: gain where audio may help, drop and harm where it must not hurt."""
    if not chosen.any():
        return None
    base, heard = outcomes.base, outcomes.heard
    figures: dict[str, Any] = {"questions": int(chosen.sum())}
    figures |= {"gate_0": means(base, chosen), "gate_1": means(heard, chosen), "gain": means(heard - base, chosen)}
    if outcomes.retention[chosen].all():
        figures |= {"drop": means(base - heard, chosen)}
        figures |= {"harm": means(((base > RIGHT) & (heard <= RIGHT)).astype(np.float64), chosen)}
    return figures


def policies_on_test(config: RunConfig, model: SafeModel) -> dict[str, Any] | None:
    """Return the figures of the run's policies, beside quick baselines, and of its students; None: there is none.

    Raises:
        TableError: their table was made with another base, encoder or adapter than `model` has, or does not tell.
    """
    from safe_rl.certifying import FAMILIES, check_test_rows, policies_of, table_of
    from safe_rl.training import finished

    run_dir = Path(config.run_dir)
    if not any(finished(place) for family in FAMILIES for place in (run_dir / family).glob("seed-*")):
        return None
    if config.table is None and not (run_dir / "table" / "table.json").is_file():
        return None
    from agents.gate_policy import load_policy
    from envs.outcomes import OutcomeTable
    from safe_rl.comparison import Judge

    table = OutcomeTable.open(table_of(config))
    _refuse_other_model(table, model)
    check_test_rows(table)
    judge, rows = Judge(table, config.reward), table.split("test").observation(slice(None))
    decisions = {
        family: np.stack([load_policy(folder).decide(rows) for folder in folders])
        for family, folders in policies_of(run_dir).items()
    }
    result: dict[str, Any] = {}
    if "policies" in decisions:
        result |= judge.compare(decisions["policies"], LEARNED[config.agent])
    if "distilled" in decisions:
        result["distilled"] = judge.figures(decisions["distilled"])
    return result


def _refuse_other_model(table: OutcomeTable, model: SafeModel) -> None:
    """Refuse a table whose outcomes are not those of `model`: its figures would stand beside another adapter's."""
    here = model.fingerprint()
    made = table.provenance.get("model")
    there = made if isinstance(made, dict) else {}
    parts = ("base", "encoder", "adapter")
    changes = differences({name: there.get(name, "unknown") for name in parts}, {name: here[name] for name in parts})
    if told := ", ".join(f"{name} {str(old)[:12]} there, {new[:12]} here" for name, old, new in changes):
        raise TableError(
            f"{table.directory} was made with another model ({told}); give the table of this adapter, or build it "
            "with `python -m safe_rl.build_outcomes` and train the policies on it."
        )


def table_of(figures: dict[str, Any]) -> Table:
    """Return one row per kind, retention set and type of question."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    exact = "to the bit" if figures["gate_zero"]["bit_exact"] else "NOT to the bit"
    title = f"Test split, {figures['questions']} questions; gate 0 is the base {exact}; 95 % intervals"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("questions", no_wrap=True)
    for heading in ("n", "gate 0 %", "gate 1 %", "gain, points", "harm %"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = {"all": figures["all"], "need audio": figures["audio"], "retention": figures["retention"]}
    rows |= {f"  set {name}": part for name, part in figures["retention_sets"].items()}
    rows |= {f"  {name or 'no type'}": part for name, part in figures["types"].items()}
    for name, part in rows.items():
        if part is not None:
            cells = [_cell(part.get(metric)) for metric in ("gate_0", "gate_1", "gain", "harm")]
            table.add_row(name, str(part["questions"]), *cells)
    return table


def _cell(interval: dict[str, float] | None) -> str:
    if interval is None:
        return "-"
    mean, low, high = (f"{100 * interval[key]:.1f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"

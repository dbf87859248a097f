"""The certificates of a run: its policies and a table go in, certificate files and figures on the test split come out.

The test split only reports: nothing is chosen by it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_rl.config import RunConfig
from safe_rl.decisions import write_decisions
from safe_rl.options import existing_folder, to_dict
from safe_rl.training import finished
from supervised.errors import ConfigError, TableError

if TYPE_CHECKING:
    import numpy as np

    from agents.certificates.certificate import Certificate
    from agents.certificates.certifier import Certifier
    from envs.batch import OutcomeBatches
    from envs.outcomes import OutcomeTable

FAMILIES = ("policies", "distilled")
"""Folders of a run that hold policies, each in seed-0, seed-1, ..."""


@dataclass(frozen=True)
class Certified:
    """The policies of one folder with their certificates."""

    certificates: dict[str, Certificate]
    """By the name of the policy's folder."""
    test: dict[str, dict[str, Any]]
    """Figures of every certified gate on the test rows."""
    figures: dict[str, dict[str, dict[str, float]]]
    """Test split, over all policies, with intervals: certified, as trained, never."""

    def as_json(self) -> dict[str, Any]:
        """Return the section of certify.json."""
        seeds = {
            name: {"certificate": certificate.as_json(), "test": self.test[name]}
            for name, certificate in self.certificates.items()
        }
        return {"seeds": seeds, "test": self.figures}


def policies_of(run_dir: Path) -> dict[str, list[Path]]:
    """Return the folders of the finished policies of a run, by family, in the order of their seeds.

    Raises:
        ConfigError: there is none.
    """
    found = {}
    for family in FAMILIES:
        folders = [place for place in (run_dir / family).glob("seed-*") if finished(place)]
        if folders:
            found[family] = sorted(folders, key=_seed)
    if "policies" not in found and "distilled" not in found:
        raise ConfigError(
            f"{run_dir} has no trained policies; train them first with `python -m safe_rl.train_policy "
            f"--run_dir {run_dir}`, or give another --run_dir."
        )
    return found


def _seed(folder: Path) -> int:
    number = folder.name.removeprefix("seed-")
    return int(number) if number.isdecimal() else -1


def table_of(config: RunConfig) -> Path:
    """Return the folder of the table that the configuration names, or of the run's own; nothing is built.

    Raises:
        ConfigError: it is not there.
    """
    if config.table is not None:
        return existing_folder(config.table, "table", "give the folder of the table that the policies learned from.")
    own = Path(config.run_dir) / "table"
    if not (own / "table.json").is_file():
        raise ConfigError(f"{config.run_dir} has no table of its own; give the table of its policies with --table.")
    return own


def other_reward(config: RunConfig, run_dir: Path) -> str | None:
    """Return one line if the policies were trained for another reward than the one that utility is computed by.

    That is allowed: neither what a certificate promises nor what a student imitates depends on the reward.
    """
    try:
        origin = json.loads((run_dir / "policies" / "made_from.json").read_text(encoding="utf-8"))
        trained_for = dict(origin["made_from"]["reward"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # policies that came from elsewhere
    here = to_dict(config.reward)
    different = {name: there for name, there in trained_for.items() if here.get(name) != there}
    if not different:
        return None
    options = " ".join(f"--reward.{name} {there}" for name, there in different.items())
    return (
        f"the policies were trained for another reward than the one that utility is computed and thresholds are chosen "
        f"by; what is certified holds all the same, but give {options} to choose by theirs."
    )


def keep_certificates(certifier: Certifier, certificates: dict[Path, Certificate], decisions: Path) -> Certified:
    """Write a certificate beside each policy, and judge the certified gates on the test rows.

    Args:
        certifier: of the run's table.
        certificates: by the folder of the policy; one family.
        decisions: the file that the certified decisions on the test rows are written to.
    """
    import numpy as np

    from agents.certificates.certificate import gate_actions, save_certificate
    from agents.certificates.certifier import probabilities_of
    from agents.evaluation import evaluate
    from agents.gate_policy import load_policy
    from envs.actions import Action
    from envs.batch import OutcomeBatches

    for folder, certificate in certificates.items():
        save_certificate(folder, certificate)
    policies = [load_policy(folder) for folder in certificates]
    rows = OutcomeBatches(certifier.table.split("test"), certifier.reward, policies[0].normaliser)
    chances = probabilities_of(policies, rows.split)  # S x [n, A]
    actions = np.stack(
        [gate_actions(chance, made.threshold) for chance, made in zip(chances, certificates.values(), strict=True)]
    )  # [S, n]
    figures = evaluate(
        {
            "certified": actions,
            "as_trained": np.stack([chance.argmax(axis=1) for chance in chances]),
            "never": np.zeros(len(rows), dtype=np.int64),
        },
        rows,
    )
    write_decisions(decisions, rows.split, actions, np.stack([1.0 - chance[:, Action.SKIP] for chance in chances]))
    test = {folder.name: figures_on_test(rows, own) for folder, own in zip(certificates, actions, strict=True)}
    by_name = {folder.name: certificate for folder, certificate in certificates.items()}
    return Certified(by_name, test, {name: dict(metrics) for name, metrics in figures.items()})


def figures_on_test(rows: OutcomeBatches, actions: np.ndarray) -> dict[str, Any]:
    """Return usage and utility of decisions [n], and harm and drop on each retention set, as the certificate counts."""
    import numpy as np

    from agents.certificates.certifier import carries_audio
    from envs.actions import Action

    split, index = rows.split, np.arange(len(rows))
    loss = split.score[:, Action.SKIP].astype(np.float64) - split.score[index, actions]
    carries = carries_audio(split)
    sets = {}
    for k, name in enumerate(rows.problem.retention_sets):
        own = loss[(split.retention_set == k) & carries]
        if len(own):
            harmed = int((own > 0).sum())
            sets[name] = {"n": len(own), "harmed": harmed, "harm": harmed / len(own), "drop": float(own.mean())}
    return {
        "usage": float((actions != Action.SKIP).mean()),
        "utility": float(rows.reward[index, actions].mean(dtype=np.float64)),
        "sets": sets,
    }


def check_test_rows(table: OutcomeTable) -> None:
    """Refuse a table without test rows.

    Raises:
        TableError: names what they are for.
    """
    if not table.splits["test"]:
        raise TableError(
            f"The table in {table.directory} has no test rows, which are needed to report on; give some rows the "
            f"split test."
        )


def shortage(name: str, certificate: Certificate) -> str | None:
    """Return one line that says why a policy ships as never-use and what would change it; None: it does not."""
    from agents.certificates.certificate import NEVER

    if certificate.threshold != NEVER:
        return None
    if certificate.wanted == NEVER:
        return f"{name} never uses audio: no threshold has a higher utility on the calibration rows."
    why = "no threshold can be certified" if certificate.thresholds_passed == 1 else "no certified threshold pays"
    event = "use of audio" if certificate.method == "usage" else "harm"
    told = []
    for found in certificate.sets:
        clean = f"{_more(found.needed, found.n)} without a single {event}"
        seen = f"{_more(found.wanted_needed, found.n)} at the {certificate.method} rate of the threshold that pays best"
        told.append(
            f"{found.name} has {found.n} calibration questions (one per group); enough would be {clean}, {seen} "
            f"({100 * found.wanted_observed:.2f} %, limit {100 * found.limit:g} %)"
        )
    return (
        f"{name} never uses audio, because {why} with {100 * certificate.confidence:g} % confidence: {'; '.join(told)}."
    )


def _more(needed: int | None, n: int) -> str:
    if needed is None:
        return "no number"
    return f"{needed - n} more" if needed > n else "these"

"""The students of a run: its policies and a table go in, small policies of the same format and their figures come out.

Students are finished one by one; what is finished is reused, and a student of another policy is never mixed in. The
test split only reports: nothing is chosen by it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_rl.artefact import FILE, claim, refuse_stranger
from safe_rl.config import RunConfig
from safe_rl.determinism import prepare
from safe_rl.options import to_dict
from safe_rl.training import finished
from supervised.errors import CheckpointError, ConfigError, TableError
from supervised.files import sha256_file

if TYPE_CHECKING:
    import numpy as np

    from agents.gate_policy import GatePolicy
    from envs.outcomes import OutcomeTable

AGREEMENT = 0.98
"""Share of the test rows on which a student should decide like its teacher."""
UTILITY_GAP = 0.005
"""Utility that it may lose at most: half a point."""


def teachers_of(run_dir: Path) -> dict[int, Path]:
    """Return the folders of the finished policies of a run by seed, in order.

    Raises:
        ConfigError: there is none.
    """
    found = {
        int(number): place
        for place in (run_dir / "policies").glob("seed-*")
        if (number := place.name.removeprefix("seed-")).isdecimal() and finished(place)
    }
    if not found:
        raise ConfigError(
            f"{run_dir} has no trained policies; train them first with `python -m safe_rl.train_policy "
            f"--run_dir {run_dir}`, or give another --run_dir."
        )
    return dict(sorted(found.items()))


def claim_students(config: RunConfig, table: OutcomeTable) -> Path:
    """Open the folder of a run's students and return it; policies may be added at any time.

    Raises:
        ConfigError: the students there were distilled with other settings, or the policies were trained on another
            table.
    """
    run_dir = Path(config.run_dir)
    origin: dict[str, Any] = {"table_sha256": table.fingerprint}
    if (run_dir / "policies" / FILE).is_file():
        refuse_stranger(run_dir / "policies", origin, ConfigError, remedy="give the table of the run with --table DIR")
    settings = {name: value for name, value in to_dict(config.distill).items() if name != "onnx"}
    place = run_dir / "distilled"
    claim(place, origin | {"distill": settings}, ConfigError, remedy=f"delete {place} to distil again")
    return place


def student_of(
    table: OutcomeTable,
    config: RunConfig,
    seed: int,
    teacher: Path,
    place: Path,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Distil the student of one policy into `place`, unless it is there, and return what is known about it.

    Raises:
        CheckpointError: the policy learned from another table, or the student there is that of another policy.
    """
    from agents.distillation import distil
    from agents.gate_policy import TENSORS, load_policy, provenance_of, save_policy
    from envs.batch import OutcomeBatches

    policy, source = load_policy(teacher), sha256_file(teacher / TENSORS)
    if provenance_of(teacher).get("table_sha256", table.fingerprint) != table.fingerprint:
        raise CheckpointError(
            f"The policy at {teacher} learned from another table than {table.directory}; give the table of the run "
            f"with --table."
        )
    if not finished(place):
        prepare(seed, threads=1)  # the network is so small that a second thread would only wait
        train, validation = (
            OutcomeBatches(table.split(name), config.reward, policy.normaliser) for name in ("train", "validation")
        )
        student = distil(policy, train, validation, config.distill, seed, progress)
        told = {name: value for name, value in vars(student).items() if name != "policy"}
        told = {"seed": seed, "table_sha256": table.fingerprint, "teacher_sha256": source, "validation": told}
        save_policy(place, student.policy, told)
    load_policy(place)  # whole, and readable by this version
    told = provenance_of(place)
    if told.get("teacher_sha256") != source:
        raise CheckpointError(
            f"The student at {place} was distilled from another policy than {teacher}; delete {place.parent} to "
            f"distil again."
        )
    return told


def export(place: Path) -> float:
    """Write the student's gate.onnx; return how far its probabilities are from NumPy's at most, on random questions.

    Raises:
        ConfigError: the extra [export] is not installed.
    """
    import numpy as np

    from agents.gate_policy import load_policy
    from agents.onnx_export import GATE, OnnxGate, export_onnx

    policy = load_policy(place)
    export_onnx(place / GATE, policy)  # again if it is there: it must be that of this very student
    rng = np.random.default_rng(0)
    normaliser = policy.normaliser
    rows = {
        name: (mean + 3 * normaliser.std[name] * rng.standard_normal((256, len(mean)))).astype(np.float32)
        for name, mean in normaliser.mean.items()
    }
    return float(np.abs(OnnxGate(place / GATE).probabilities(rows) - policy.probabilities(rows)).max())


def certify_students(table: OutcomeTable, config: RunConfig, places: list[Path]) -> list[str]:
    """Certify every student by the present settings, as `certify` does.

    Returns:
        Warnings: that it cannot be done, or whose certificate of other settings was replaced.
    """
    from agents.certificates.certificate import Certificate, load_certificate, save_certificate
    from agents.certificates.certifier import Certifier

    limits = config.certify.limits(len(table.retention_sets), config.lagrangian)
    try:
        certifier = Certifier(table, config.certify, limits, config.reward)
    except TableError as error:
        return [f"the students are not certified: {error}"]
    warnings = []
    # All of them before the first is written, so that a run never holds certificates of two promises.
    for place, certificate in certifier.certify_all(places).items():
        before: Certificate | None = None
        with suppress(CheckpointError):  # none yet, or of another policy
            before = load_certificate(place)
        if before == certificate:
            continue  # the file stays as it is
        save_certificate(place, certificate)
        if before is not None:
            warnings.append(
                f"{place.name}: the student had a certificate of other settings (certify, reward or "
                f"lagrangian.limit); it was certified anew by those of this command."
            )
    return warnings


def judge(table: OutcomeTable, config: RunConfig, pairs: dict[int, tuple[Path, Path]]) -> dict[str, Any]:
    """Return what students are worth beside their teachers on the test rows.

    Args:
        table: its test rows judge.
        config: alpha and gamma of utility.
        pairs: folders of teacher and student by seed.

    Returns:
        `seeds`: agreement, utility of both and its difference, and latency, one entry per seed. `agreement`: mean.
        `policies`: all metrics of teachers and students over all seeds. `utility_gained`: student minus teacher.
    """
    import numpy as np

    from agents.certificates.certifier import probabilities_of
    from agents.evaluation import Evaluation
    from agents.gate_latency import decision_latency
    from agents.gate_policy import load_policy
    from agents.metrics.calibration import Calibration
    from agents.metrics.pairing import paired
    from envs.batch import OutcomeBatches

    policies = {seed: tuple(load_policy(folder) for folder in pair) for seed, pair in pairs.items()}
    rows = OutcomeBatches(table.split("test"), config.reward, policies[min(pairs)][0].normaliser)
    evaluation = Evaluation(rows)
    calibration = Calibration(rows, evaluation.resamples)
    families = zip(*policies.values(), strict=True)
    chances = np.array([probabilities_of(family, rows.split) for family in families])  # [2, S, n, A]
    actions = chances.argmax(axis=3)  # [2, S, n]
    some = rows.split.observation(slice(0, 1024))
    seeds = []
    for number, (seed, pair) in enumerate(policies.items()):
        both = actions[:, number]  # [2, n]
        teacher, student = (evaluation.metrics(own) for own in both)
        seeds.append(
            {
                "seed": seed,
                "agreement": float((both[0] == both[1]).mean()),
                "utility": {"teacher": teacher["utility"], "student": student["utility"]},
                "utility_gained": paired(evaluation, both[1][None], both[0][None])["utility"],
                "latency_us": decision_latency(pair[1], _side_by_side(pair[1], some)),
            }
        )
    figures = {
        name: {
            **evaluation.metrics(own),
            **calibration.of_use(np.clip(1.0 - chance[..., 0], 0, 1), 1 + chance[..., 1:].argmax(axis=-1)),
        }
        for name, own, chance in zip(("teacher", "student"), actions, chances, strict=True)
    }
    return {
        "seeds": seeds,
        "agreement": float((actions[0] == actions[1]).mean()),
        "utility_gained": paired(evaluation, actions[1], actions[0])["utility"],
        "policies": figures,
    }


def _side_by_side(policy: GatePolicy, features: dict[str, np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.concatenate([features[name] for name in policy.normaliser.widths], axis=1)


def shortfalls(seeds: list[dict[str, Any]]) -> list[str]:
    """Return one warning for every student that falls short of its teacher by more than it should."""
    told = []
    for entry in seeds:
        short = []
        if entry["agreement"] < AGREEMENT:
            short.append(
                f"decides like it on {100 * entry['agreement']:.1f} % of the test rows, not {100 * AGREEMENT:g} %"
            )
        lost = -entry["utility_gained"]["mean"]
        if lost > UTILITY_GAP:
            short.append(f"has {100 * lost:.2f} points less utility, more than {100 * UTILITY_GAP:g}")
        if short:
            told.append(
                f"seed {entry['seed']}: the student falls short of its teacher: it {' and '.join(short)}; give a "
                f"larger --distill.hidden or --distill.steps, or ship the teacher."
            )
    return told

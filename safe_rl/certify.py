"""Certify the policies of a run: choose thresholds on the calibration split whose harm is within the limit, with proof.

python -m safe_rl.certify
python -m safe_rl.certify --run_dir runs/mine --table path/to/table --certify.limit 0.01
python -m safe_rl.certify --config runs/mine/config.yaml --certify.method usage
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from safe_rl.command import Advice, run
from safe_rl.config import RunConfig

if TYPE_CHECKING:
    from agents.certificates.certificate import Certificate
    from envs.outcomes import OutcomeTable
    from safe_rl.certifying import Certified

LIMITED = {"harm": "questions harmed", "usage": "questions with audio", "drop": "net drop"}
"""Method -> what the limit holds for."""
TITLES = {"policies": "trained policies", "distilled": "distilled students"}


def main(argv: list[str] | None = None) -> int:
    """Run `python -m safe_rl.certify`; return the exit code."""
    return run(
        certify,
        RunConfig,
        argv,
        name="certify",
        description=__doc__,
        folder=lambda config: config.run_dir,
        advice=Advice(again="the same command starts again", memory=None),
    )


def certify(config: RunConfig) -> None:
    """Write a certificate beside every policy of the run, and what the certified gates do on the test split."""
    from safe_rl.certifying import check_test_rows, keep_certificates, other_reward, policies_of, table_of
    from safe_rl.run_folder import RunFolder
    from safe_rl.training import divided_groups
    from supervised.files import write_json

    run_dir = Path(config.run_dir)
    families = policies_of(run_dir)
    place = table_of(config)
    from agents.certificates.certifier import Certifier
    from envs.outcomes import OutcomeTable

    table = OutcomeTable.open(place)
    limits = config.certify.limits(len(table.retention_sets), config.lagrangian)
    certifier = Certifier(table, config.certify, limits, config.reward)
    check_test_rows(table)
    # All of them before the first is written, so that a run never holds certificates of two promises.
    certificates = {family: certifier.certify_all(folders) for family, folders in families.items()}
    with RunFolder(run_dir) as folder:
        folder.begin(config, "certify", list(range(len(families.get("policies", ())))))
        folder.note(table=table.fingerprint)
        certified = {
            family: keep_certificates(certifier, made, _decisions(run_dir, family))
            for family, made in certificates.items()
        }
        write_json(run_dir / "certify.json", _summary(config, table, certified))
        folder.finish()
    for family, result in certified.items():
        _tell(TITLES[family], result)
    for warning in filter(None, [divided_groups(table), other_reward(config, run_dir), _gate_zero(table)]):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"Certificates: certificate.json beside each policy; figures: {run_dir / 'certify.json'}")


def _decisions(run_dir: Path, family: str) -> Path:
    return (run_dir if family == "policies" else run_dir / family) / "certified_decisions.jsonl"


def _summary(config: RunConfig, table: OutcomeTable, certified: dict[str, Certified]) -> dict[str, object]:
    """Return what certify.json holds."""
    limits = config.certify.limits(len(table.retention_sets), config.lagrangian)
    return {
        "method": config.certify.method,
        "confidence": round(1 - config.certify.delta, 12),
        "limits": dict(zip(table.retention_sets, limits, strict=True)),
        "alpha": config.reward.alpha,
        "gamma": config.reward.gamma,
        "table_sha256": table.fingerprint,
        "calibration_questions": table.splits["calibration"],
        "test_questions": table.splits["test"],
        **{family: result.as_json() for family, result in certified.items()},
    }


def _gate_zero(table: OutcomeTable) -> str | None:
    if table.provenance.get("gate_zero_bit_exact") is False:
        return "with gate 0 this model is not the base to the bit, so certificate 0 does not hold; do not ship it."
    return None


def _tell(title: str, result: Certified) -> None:
    """Print the certificates, the figures on the test split, and why a policy never uses audio."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from safe_rl.certifying import shortage
    from safe_rl.report import print_table, show

    first = next(iter(result.certificates.values()))
    told = f"{100 * first.confidence:g} % confidence for each, {LIMITED[first.method]} on retention questions"
    table = Table(title=f"Certificates of {title}: {told}", title_justify="left", box=SIMPLE_HEAD)
    for heading in (
        "policy",
        "threshold",
        "set",
        "limit %",
        "asked",
        "events",
        "bound %",
        "usage %",
        "utility",
        "never's",
    ):
        table.add_column(heading, justify="left" if heading in ("policy", "set") else "right", no_wrap=True)
    for name, certificate in result.certificates.items():
        for cells in _rows(name, certificate):
            table.add_row(*cells)
    print_table(table)
    count = len(result.certificates)
    show(result.figures, f"Test split (only reported, nothing is chosen by it), {count} {title}, 95 % intervals")
    for name, certificate in result.certificates.items():
        if line := shortage(name, certificate):
            print(line)


def _rows(name: str, certificate: Certificate) -> list[list[str]]:
    """Return one line of the table per retention set; usage and utility are those on the calibration rows."""
    from agents.certificates.certificate import NEVER

    threshold = "never" if certificate.threshold == NEVER else f"{certificate.threshold:.4f}"
    figures = [f"{100 * certificate.usage:.1f}", f"{certificate.utility:.4f}", f"{certificate.utility_never:.4f}"]
    return [
        [
            *((name, threshold) if first else ("", "")),
            found.name,
            f"{100 * found.limit:g}",
            str(found.n),
            str(found.k),
            f"{100 * found.bound:.3f}",
            *(figures if first else ("", "", "")),
        ]
        for first, found in zip([True] + [False] * len(certificate.sets), certificate.sets, strict=False)
    ]


if __name__ == "__main__":
    sys.exit(main())

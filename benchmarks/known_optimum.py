"""How close the agents come to the best constrained policy, on tables for which that policy is known.

    python benchmarks/known_optimum.py [--kinds plain mixed] [--tables 3] [--seeds 5] [--agents ppo exact]
    python benchmarks/known_optimum.py --certify 100 [--method harm] [--limit 0.02]

Every table is drawn from a problem of cells with known means, see `envs.known_optimum`; its best policy comes from a
linear program. Decisions on the test rows are judged in expectation under the true means: share of the best possible
gain over never using audio, and the true drop against the limit. A lookup table of the train rows' means per cell,
with the linear program solved on them, is the reference: it is told the cells, the agents must find them.

With --certify an exact agent learns on every table, in haste, and is certified; what counts is the true rate of the
certified gate. Harm counts every question that audio turns from right to wrong. Base and audio answers are independent
coin tosses here, so harm is far above the drop, and a limit of 0.003 on it would certify nothing but never: the default
is 0.02.
Prints a table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from agents.certificates.certificate import gate_actions
from agents.certificates.certifier import Certifier
from agents.config import AgentConfig, CertifyConfig, ExactConfig, SmoothingConfig
from agents.gate_policy import save_policy
from agents.outcome_model import OutcomeModel
from agents.train import train_agent
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.known_optimum import KnownProblem, KnownTable, random_problem, write_known_table

Agent = Literal["ppo", "exact"]
ROWS = {"train": 24_000, "validation": 12_000, "calibration": 12_000, "test": 8_000}
ENOUGH = 5_000
"""Retention rows of the smallest set, over train and validation, from which on the limit must hold."""
TOLERANCE = 0.003
REWARD = RewardConfig()
HASTE = AgentConfig(agent="exact", exact=ExactConfig(steps=300, judgements=6), smoothing=SmoothingConfig(trees=10))
"""The agent that is certified: a certificate must hold whatever the policy, so a hasty one does."""


@dataclass(frozen=True)
class Kind:
    """One member of the family."""

    name: str
    cells: int = 40
    constraints: int = 1
    retention: float = 0.5
    mixed: float = 0.3
    noise: float = 0.0
    useless: int = 32

    def problem(self, seed: int) -> KnownProblem:
        """Draw a problem of this kind."""
        return random_problem(seed, self.cells, self.constraints, self.retention, self.mixed, self.noise)


KINDS = (
    Kind("plain"),
    Kind("three constraints", constraints=3),
    Kind("mixed cells", mixed=0.9),
    Kind("rare retention", retention=0.06),
    Kind("useless features", useless=250),
    Kind("heavy noise", noise=0.5),
    Kind("many cells", cells=120),
)


@dataclass(frozen=True)
class Outcome:
    """One agent on one table."""

    kind: str
    table: int
    who: str
    seed: int
    optimal_gain: float
    share: float
    """Of the best possible gain over never."""
    overshoot: float
    """Worst true drop minus its limit."""
    retention_rows: int
    """Of the smallest set, over train and validation."""
    seconds: float

    @property
    def over(self) -> bool:
        """Whether a drop is above its limit by more than what is tolerated."""
        return self.overshoot > TOLERANCE


def write(directory: Path, kind: Kind, number: int) -> KnownTable:
    """Draw one table of a kind."""
    return write_known_table(directory, kind.problem(number), ROWS, number, useless=kind.useless)


def compare(
    known: KnownTable, kind: Kind, number: int, agents: list[Agent], seeds: int, config: AgentConfig
) -> list[Outcome]:
    """Train every agent with every seed, and judge it and the lookup table."""
    limits = np.asarray(config.lagrangian.limits(known.problem.n_sets))
    best = known.problem.optimum(limits, REWARD)
    train, validation, test = (known.table.split(name) for name in ("train", "validation", "test"))
    sets = np.concatenate([train.retention_set, validation.retention_set])
    rows = int(np.bincount(sets[sets >= 0], minlength=known.problem.n_sets).min())

    def judge(who: str, seed: int, probabilities: np.ndarray, seconds: float) -> Outcome:
        utility, drop = known.judge("test", probabilities, REWARD)
        gain = best.utility - best.never
        return Outcome(
            kind.name,
            number,
            who,
            seed,
            gain,
            (utility - best.never) / gain,
            float((drop - limits).max()),
            rows,
            seconds,
        )

    found = [judge("lookup", 0, lookup(known, limits)[known.cells[test.rows]], 0.0)]
    expects = bool(agents and config.smoothing.trees)
    model = OutcomeModel(OutcomeBatches(train, REWARD), config.smoothing) if expects else None
    for agent in agents:
        for seed in range(seeds):
            start = time.perf_counter()
            trained = train_agent(
                train,
                validation,
                replace(config, agent=agent),
                seed,
                outcome_model=model,
            )
            seconds = time.perf_counter() - start
            actions = trained.policy.decide(test.observation(slice(None)))
            found.append(judge(agent, seed, np.eye(len(known.table.actions))[actions], seconds))
    return found


def lookup(known: KnownTable, limits: np.ndarray) -> np.ndarray:
    """Return the policy [C, A] that is best under the train rows' means per cell and kind."""
    train = known.table.split("train")
    problem = known.problem
    cells, kinds, _ = problem.score.shape
    kind = np.where(train.retention_set >= 0, train.retention_set, kinds - 1)  # audio is the last
    place = known.cells[train.rows] * kinds + kind
    count = np.bincount(place, minlength=cells * kinds)
    sums = np.stack([np.bincount(place, column, cells * kinds) for column in train.score.T], axis=1)
    score = (sums / np.maximum(count, 1)[:, None]).reshape(problem.score.shape)
    count = count.reshape(cells, kinds)
    of_kind = np.where(count.sum(axis=1, keepdims=True) > 0, count / np.maximum(count.sum(axis=1, keepdims=True), 1), 0)
    of_kind[count.sum(axis=1) == 0, -1] = 1.0  # a cell that no row shows weighs nothing
    return KnownProblem(count.sum(axis=1) / count.sum(), of_kind, score).optimum(limits, REWARD).policy


@dataclass(frozen=True)
class Certified:
    """One certified gate."""

    kind: str
    table: int
    limit: float
    usage: float
    """Of the test rows."""
    rate: float
    """Its worst true rate over the retention sets: what the method limits."""
    harm: float
    drop: float

    @property
    def kept(self) -> bool:
        """Whether the true rate is within the limit."""
        return self.rate <= self.limit


def certify(known: KnownTable, kind: Kind, number: int, config: AgentConfig, promise: CertifyConfig) -> Certified:
    """Train the exact agent, certify it on the calibration rows, and work out what its gate truly does."""
    train, validation, test = (known.table.split(name) for name in ("train", "validation", "test"))
    policy = train_agent(train, validation, config, number).policy
    limits = promise.limits(known.problem.n_sets, config.lagrangian)
    with tempfile.TemporaryDirectory() as folder:
        save_policy(folder, policy, {"table_sha256": known.table.fingerprint})
        certificate = Certifier(known.table, promise, limits, REWARD).certify(folder)
    opened = gate_actions(policy.probabilities(test.observation(slice(None))), certificate.threshold) != 0
    problem, cells = known.problem, known.cells[test.rows]
    count = np.bincount(cells, minlength=len(problem.cell))
    share = np.bincount(cells, opened, len(count)) / np.maximum(count, 1)  # of a cell's questions with audio
    weight = problem.cell[:, None] * problem.kind[:, :-1] / problem.rates  # [C, K], P(cell | set)
    skip, use = problem.score[:, :-1, 0], problem.score[:, :-1, 1]
    rates = {
        "usage": share @ weight,
        "harm": share @ (weight * skip * (1 - use)),
        "drop": share @ (weight * (skip - use)),
    }  # [K] each
    return Certified(
        kind.name,
        number,
        float(limits[0]),
        float(opened.mean()),
        float(rates[promise.method].max()),
        float(rates["harm"].max()),
        float(rates["drop"].max()),
    )


def report(found: list[Outcome]) -> dict[str, float]:
    """Print one line for every kind and agent, and return the figures of the last line."""
    print(
        f"{'kind':20}{'who':8}{'optimal gain':>13}{'share':>8}{'worst':>8}{'over':>9}{'worst':>9}{'> 0.003':>9}{'s':>7}"
    )
    for kind in dict.fromkeys(outcome.kind for outcome in found):
        for who in dict.fromkeys(outcome.who for outcome in found):
            some = [outcome for outcome in found if (outcome.kind, outcome.who) == (kind, who)]
            shares = mean_shares(some)
            few = any(outcome.retention_rows < ENOUGH for outcome in some)
            overshoot = [outcome.overshoot for outcome in some]
            print(
                f"{kind:20}{who:8}{np.mean([outcome.optimal_gain for outcome in some]):13.4f}{np.mean(shares):8.3f}"
                f"{min(shares):8.3f}{np.mean(overshoot):+9.4f}{max(overshoot):+9.4f}"
                f"{np.mean([outcome.over for outcome in some]):9.0%}{np.median([o.seconds for o in some]):7.1f}"
                + (f"  fewest retention rows {min(outcome.retention_rows for outcome in some)}" if few else "")
            )
    print("share: of the best possible gain over never, mean over seeds per table; over: worst drop minus its limit")
    figures: dict[str, float] = {}
    for who in dict.fromkeys(outcome.who for outcome in found):
        some = [outcome for outcome in found if outcome.who == who]
        enough = [outcome for outcome in some if outcome.retention_rows >= ENOUGH]
        figures[f"share_{who}"] = round(float(np.mean(mean_shares(some))), 4)
        figures[f"worst_share_{who}"] = round(min(mean_shares(some)), 4)
        figures[f"worst_overshoot_{who}"] = round(max((outcome.overshoot for outcome in enough), default=0.0), 5)
        figures[f"over_{who}"] = round(float(np.mean([outcome.over for outcome in enough])) if enough else 0.0, 4)
    return figures


def mean_shares(found: list[Outcome]) -> list[float]:
    """Return the mean share of every table over its seeds."""
    tables = dict.fromkeys((outcome.kind, outcome.table) for outcome in found)
    return [float(np.mean([o.share for o in found if (o.kind, o.table) == table])) for table in tables]


def report_certified(found: list[Certified], promise: CertifyConfig) -> dict[str, float]:
    """Print one line for every kind, and return the figures of the last line."""
    print(f"method {promise.method}, limit {found[0].limit:g}, delta {promise.delta:g}")
    print(f"{'kind':20}{'tables':>7}{'kept':>8}{'worst':>9}{'opened':>8}{'usage':>8}{'harm':>9}{'drop':>9}")
    for kind in dict.fromkeys(gate.kind for gate in found):
        some = [gate for gate in found if gate.kind == kind]
        print(
            f"{kind:20}{len(some):7}{np.mean([gate.kept for gate in some]):8.0%}{max(g.rate for g in some):9.4f}"
            f"{np.mean([gate.usage > 0 for gate in some]):8.0%}{np.mean([gate.usage for gate in some]):8.3f}"
            f"{np.mean([gate.harm for gate in some]):9.4f}{np.mean([gate.drop for gate in some]):+9.4f}"
        )
    print("kept: true rate within the limit; opened: gates that use audio at all; usage, harm, drop: true means")
    return {
        "tables": len(found),
        "kept": round(float(np.mean([gate.kept for gate in found])), 4),
        "worst_rate": round(max(gate.rate for gate in found), 5),
        "opened": round(float(np.mean([gate.usage > 0 for gate in found])), 4),
        "usage": round(float(np.mean([gate.usage for gate in found])), 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [kind.name for kind in KINDS]
    parser.add_argument("--kinds", nargs="+", default=names, help=f"some of {names}; a first word is enough")
    parser.add_argument("--tables", type=int, default=3, help="tables of every kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first table")
    parser.add_argument("--seeds", type=int, default=5, help="runs of every agent on every table")
    parser.add_argument(
        "--agents", nargs="*", default=["ppo", "exact"], choices=["ppo", "exact"], help="none: the lookup table alone"
    )
    parser.add_argument("--certify", type=int, default=0, help="certify so many tables, the kinds in turn, instead")
    parser.add_argument("--method", default="harm", choices=["harm", "usage", "drop"])
    parser.add_argument("--limit", type=float, default=0.02, help="on what the method certifies")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--results", type=Path, help="a file for every single run, as JSON")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if any(kind.name.startswith(name) for name in options.kinds)]
    if not kinds:
        parser.error(f"--kinds must be some of {names}, got {options.kinds}")
    torch.set_num_threads(options.threads)
    runs: list[Outcome] = []
    gates: list[Certified] = []
    promise = CertifyConfig(method=cast(Literal["harm", "usage", "drop"], options.method), limit=options.limit)
    pairs = [(kind, options.first + number) for number in range(options.tables) for kind in kinds]
    if options.certify:
        pairs = [(kinds[i % len(kinds)], options.first + i // len(kinds)) for i in range(options.certify)]
    for kind, number in pairs:
        with tempfile.TemporaryDirectory() as folder:
            known = write(Path(folder) / "table", kind, number)
            if options.certify:
                gates.append(certify(known, kind, number, HASTE, promise))
            else:
                runs += compare(known, kind, number, options.agents, options.seeds, AgentConfig())
    if options.results is not None:
        options.results.write_text(json.dumps([asdict(run) for run in runs or gates], indent=1), encoding="utf-8")
    print(json.dumps(report_certified(gates, promise) if gates else report(runs)))


if __name__ == "__main__":
    main()

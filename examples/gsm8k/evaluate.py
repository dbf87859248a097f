"""How well gates rank GSM8K problems for the strong model: APGR over folds, ours against the usual ones.

    python examples/gsm8k/evaluate.py --responses two_arm_responses.csv [--folds 5] [--seeds 3] [--alpha 0.9]

Every fold's table is made, both agents are trained on it, and the baselines are fitted on its train rows. What is
judged is the order in which each would hand the test questions to the strong model. Prints mean and 95 % interval over
folds (Student's t; the folds share train rows, so it is a little too narrow) and the mean over folds of CPT(50) and
CPT(80): the share of strong calls that recovers 50 and 80 % of the gap between the two models.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from make_table import Responses, make_table, read_responses, split_codes

from agents.config import AgentConfig, CurriculumConfig, ExactConfig, PPOConfig, SmoothingConfig
from agents.learned_baselines import LogisticRegression, NearestNeighbours, SupervisedMLP
from agents.metrics.resamples import Resamples
from agents.metrics.routing import Routing
from agents.train import train_agent
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.outcomes import OutcomeTable
from supervised.errors import SafeError

METRICS = ("apgr", "cpt50", "cpt80")


def agents(reward: RewardConfig) -> list[AgentConfig]:
    """Return PPO and the exact agent, set for some hundred noisy rows.

    Leaves of as many rows as a large table affords would blur the little that the text tells, so there is no forest;
    the entropy bonus is larger and training shorter. Chosen by APGR on the validation rows.
    """
    few = SmoothingConfig(trees=0)
    ppo, curriculum = PPOConfig(entropy_coefficient=0.1), CurriculumConfig(steps=6_000)
    exact = ExactConfig(entropy_coefficient=0.1, steps=200)
    return [
        AgentConfig(agent="ppo", reward=reward, smoothing=few, ppo=ppo, curriculum=curriculum, total_timesteps=30_000),
        AgentConfig(agent="exact", reward=reward, smoothing=few, exact=exact),
    ]


def rankings(table: OutcomeTable, alpha: float, seeds: int) -> dict[str, np.ndarray]:
    """Return by name how soon each gate hands a test question to the strong model, [S, n]; the higher, the sooner.

    Args:
        table: of one fold.
        alpha: price of latency that agents and baselines learn for.
        seeds: of every agent.
    """
    reward = RewardConfig(alpha=alpha)
    train, validation, test = (table.split(name) for name in ("train", "validation", "test"))
    rows = OutcomeBatches(train, reward)
    judged = OutcomeBatches(test, reward, rows.normaliser)
    found = {"random": np.zeros((1, len(test))), "oracle": (test.score[:, 1] - test.score[:, 0])[None]}
    for baseline in (LogisticRegression(strength=0.01), NearestNeighbours(50), SupervisedMLP()):
        found[type(baseline).__name__] = baseline.fit(rows).scores(judged).T  # [1, n]: one paying action
    observation = test.observation(slice(None))
    for config in agents(reward):
        policies = [train_agent(train, validation, config, seed).policy for seed in range(seeds)]
        found[f"agent {config.agent}"] = np.stack([policy.use_probability(observation) for policy in policies])
    return found


def evaluate(responses: Responses, folds: int, seeds: int, alpha: float) -> dict[str, dict[str, list[float]]]:
    """Return gate -> metric -> value on every fold; NaN where a gate never gets so far."""
    found: dict[str, dict[str, list[float]]] = {}
    for fold in range(folds):
        with tempfile.TemporaryDirectory() as folder:
            make_table(responses, Path(folder), split_codes(len(responses), folds, fold), {"fold": fold})
            table = OutcomeTable.open(folder)
            test = table.split("test")
            routing = Routing(OutcomeBatches(test, RewardConfig()), Resamples(test.group, 2))
            for name, scores in rankings(table, alpha, seeds).items():
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "All-NaN slice")  # of resamples, which are not used
                    metrics = routing.metrics(scores, np.ones(len(test), dtype=np.int64))
                for metric in METRICS:
                    value = metrics[metric]
                    values = found.setdefault(name, {}).setdefault(metric, [])
                    values.append(value["mean"] if value is not None else float("nan"))
    return found


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return mean, low and high of Student's 95 % interval of independent values."""
    from scipy.stats import t

    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) / np.sqrt(len(values))
    reach = float(t.ppf(0.975, len(values) - 1)) * spread
    return mean, mean - reach, mean + reach


def main(argv: list[str] | None = None) -> int:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=Path, required=True, help="two_arm_responses.csv")
    parser.add_argument("--folds", type=int, default=5, help="parts that the rows are dealt into")
    parser.add_argument("--seeds", type=int, default=3, help="agents on every fold")
    parser.add_argument(
        "--alpha", type=float, default=0.9, help="price of latency; an average strong call costs a quarter"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # the networks are so small that a second thread would only wait
    try:
        responses = read_responses(options.responses)
        found = evaluate(responses, options.folds, options.seeds, options.alpha)
    except (SafeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    weak, strong = responses.correct.T
    rates = (weak.mean(), strong.mean(), (weak | strong).mean(), (strong & ~weak).mean(), (weak & ~strong).mean())
    print(
        "{} questions: weak {:.3f}, strong {:.3f}, oracle {:.3f}, benefit {:.3f}, harm {:.3f}".format(
            len(responses), *rates
        )
    )
    print(f"{'gate':<20}{'APGR':>8}{'95 % interval':>20}{'CPT(50)':>9}{'CPT(80)':>9}")
    summary = {}
    for name, metrics in found.items():
        mean, low, high = interval(metrics["apgr"])
        summary[name] = {"apgr": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}
        shares = "".join(f"{np.mean(metrics[metric]):>9.3f}" for metric in METRICS[1:])
        print(f"{name:<20}{mean:>8.3f}{f'[{low:.3f}, {high:.3f}]':>20}{shares}")
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())

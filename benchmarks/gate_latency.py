"""How long one decision takes: the NumPy gate beside a torch reference and onnxruntime, one thread, in the same run.

    python benchmarks/gate_latency.py [--policy runs/demo/distilled/seed-0] [--calls 2000]

A decision is the probability of use for raw features: normalisation, network, softmax. Without --policy a student of
128 hidden units over 300 random features is measured, and a policy of 64-64; onnxruntime takes part where it is
installed.
Prints a table and, as its last line, one JSON object with the NumPy figures of the student (or of the policy given).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from torch import nn

from agents.gate_latency import BATCH, decision_latency, microseconds
from agents.gate_policy import GatePolicy, load_policy
from agents.onnx_export import GATE, OnnxGate, export_onnx
from envs.normaliser import CLIP, ObservationNormaliser
from supervised.errors import ConfigError

WIDTHS = {"question": 128, "image": 128, "audio_preview": 36, "confidence": 8}  # 300 in all


class TorchGate(nn.Module):
    """The same policy as a torch module: what the gate would be without the NumPy runtime."""

    def __init__(self, policy: GatePolicy) -> None:
        super().__init__()
        self.mean, self.std = (
            nn.Parameter(torch.from_numpy(np.concatenate([values[name] for name in policy.normaliser.widths])))
            for values in (policy.normaliser.mean, policy.normaliser.std)
        )
        modules: list[nn.Module] = []
        for weight, bias in policy.layers:
            linear = nn.Linear(weight.shape[1], weight.shape[0])
            linear.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
            modules += [linear, nn.ReLU() if policy.activation == "relu" else nn.Tanh()]
        self.network = nn.Sequential(*modules[:-1])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the probability of use [n] for raw features [n, D]."""
        return 1.0 - self.network(((rows - self.mean) / self.std).clamp(-CLIP, CLIP)).softmax(dim=1)[:, 0]


def random_policy(hidden: tuple[int, ...], activation: str) -> GatePolicy:
    """Return a policy of random weights over 300 features."""
    rng = np.random.default_rng(0)
    normaliser = ObservationNormaliser(
        {name: rng.normal(size=width) for name, width in WIDTHS.items()},
        {name: 0.5 + rng.random(width) for name, width in WIDTHS.items()},
    )
    sizes = [sum(WIDTHS.values()), *hidden, 2]
    layers = [(rng.normal(size=(out, into)) / np.sqrt(into), np.zeros(out)) for into, out in pairwise(sizes)]
    return GatePolicy(normaliser, layers, ("skip", "use"), activation)


def measure(policy: GatePolicy, calls: int) -> dict[str, dict[str, float]]:
    """Return the microseconds of every runtime, one row and per row of 1,024."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(BATCH, policy.width)).astype(np.float32)
    found = {"NumPy": decision_latency(policy, rows, calls)}
    gate, tensor = TorchGate(policy).eval(), torch.from_numpy(rows)
    with torch.inference_mode():
        found["torch"] = _both(lambda: gate(tensor[:1]), lambda: gate(tensor), calls)
    edges = np.cumsum(list(policy.normaliser.widths.values()))[:-1]
    batch = dict(zip(policy.normaliser.widths, np.split(rows, edges, axis=1), strict=True))
    batch = {name: np.ascontiguousarray(values) for name, values in batch.items()}
    one = {name: values[:1] for name, values in batch.items()}
    try:
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(Path(folder) / GATE, policy)
            session = OnnxGate(Path(folder) / GATE)
        found["onnxruntime"] = _both(lambda: session.probabilities(one), lambda: session.probabilities(batch), calls)
    except ConfigError as error:
        print(f"onnxruntime is left out: {error}")
    return found


def _both(one: Callable[[], object], many: Callable[[], object], calls: int) -> dict[str, float]:
    return {"one_row_us": microseconds(one, calls), "row_us_1024": microseconds(many, max(calls // 20, 5)) / BATCH}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, help="folder of a policy or student; none: random ones of 300 features")
    parser.add_argument("--calls", type=int, default=2000, help="timed calls with one row; medians are reported")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.policy is not None:
        policies = {str(options.policy): load_policy(options.policy)}
    else:
        policies = {
            "300-128-2, relu": random_policy((128,), "relu"),
            "300-64-64-2, tanh": random_policy((64, 64), "tanh"),
        }
    print(f"{'microseconds, one thread, median':<34}{'runtime':<14}{'one row':>9}{'row of 1,024':>14}")
    figures = []
    for name, policy in policies.items():
        for runtime, taken in measure(policy, options.calls).items():
            print(f"{name[-33:]:<34}{runtime:<14}{taken['one_row_us']:>9.1f}{taken['row_us_1024']:>14.2f}")
            figures.append(taken)
    print(json.dumps({key: round(value, 2) for key, value in figures[0].items()}))


if __name__ == "__main__":
    main()

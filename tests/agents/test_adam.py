"""AdamW without the compiler: the same numbers as torch's class, and nothing heavy loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from agents.adam import AdamW


@pytest.mark.parametrize(("kind", "weight_decay"), [("AdamW", 0.0), ("AdamW", 0.1), ("Adam", 0.0)])
def test_every_step_is_that_of_torch_to_the_bit(kind: str, weight_decay: float) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    optimizer = AdamW(ours.parameters(), 0.01, weight_decay)
    reference = getattr(torch.optim, kind)(theirs.parameters(), 0.01, weight_decay=weight_decay, fused=True)
    for rate in (0.01, 0.01, 0.005):
        inputs = torch.randn(4, 5)
        optimizer.learning_rate = reference.param_groups[0]["lr"] = rate
        for network in (ours, theirs):
            network.zero_grad()
            network(inputs).square().sum().backward()
        optimizer.step()
        reference.step()
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value)


def test_a_step_by_hand() -> None:
    # Adam's first step is the learning rate in the direction of the gradient; decay takes 0.1 * 0.5 of 2 before it.
    parameter = nn.Parameter(torch.tensor([2.0]))
    optimizer = AdamW([parameter], learning_rate=0.1, weight_decay=0.5)
    parameter.grad = torch.tensor([3.0])
    optimizer.step()
    assert parameter.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1, abs=1e-6)


def test_torchs_compiler_is_not_loaded() -> None:
    code = (
        "import sys, torch; from torch import nn; from agents.adam import AdamW\n"
        "p = nn.Parameter(torch.ones(2)); p.grad = torch.ones(2); AdamW([p], 0.1).step()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

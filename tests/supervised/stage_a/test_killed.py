"""Stage A, killed by SIGKILL at moments that nobody chose: it goes on to the bits of the run that was not killed.

Moments are passes of the base, updates, and whatever happens to files in the run's folder, so that a run is also killed
while it writes a checkpoint, the log or the Fisher information. They are numbered in the run that is not killed, and
drawn with a seed: one of each stretch of the run, and another one for the run that went on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PARTS = (1, 3)
"""`accumulate`."""
TRIALS = 5
SEED = 5
TRAIN = (
    f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[2] / 'helpers')!r})\n"
    + """
import json
import os
import random
import signal
import sys
import traceback
from itertools import count
from pathlib import Path

import torch
from tiny_runs import questions
from torch.optim.optimizer import register_optimizer_step_post_hook

from supervised.config import FusionConfig, ModelConfig
from supervised.safe_model import SafeModel
from supervised.stage_a.config import AudioCurriculumConfig, GuardConfig, LossConfig, StageAConfig
from supervised.stage_a.training import train_stage_a

base, encoder, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
accumulations, trials, seed = json.loads(sys.argv[4])
torch.set_num_threads(1)
TOUCHES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def attach():
    torch.manual_seed(0)
    return SafeModel.attach(ModelConfig(base=base, encoder=encoder, fusion=FusionConfig(dropout=0.2)))


def train(folder, accumulate, dies_at):
    numbers, last = count(1), 0

    def moment(*_):
        nonlocal last
        last = next(numbers)
        if last == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def touched(event, arguments):
        if event in TOUCHES and str(arguments[0]).startswith(str(folder)):
            moment()

    config = StageAConfig(
        steps=12, batch_size=6, accumulate=accumulate, warmup_steps=2, gate_warmup_steps=2, eval_every=4,
        eval_samples=6, checkpoint_every=3, phases=(0.25, 0.4, 0.35), budgets=(4, 8),
        loss=LossConfig(feature=0.5, fisher=10.0, weights="adaptive"),
        curriculum=AudioCurriculumConfig(shares=(0.5, 1.0)), guard=GuardConfig(max_drop=1.0, null_space=0.5),
    )
    model = attach()
    model.base.register_forward_pre_hook(moment)
    register_optimizer_step_post_hook(moment)
    sys.addaudithook(touched)
    train_stage_a(model, questions(16, 0), questions(8, 1), config, folder, True, progress=False, tracker="none")
    return last


def apart(folder, accumulate, dies_at=0):
    # Forked, so that everything is imported once; the file of the count stands beside the folder.
    pid = os.fork()
    if pid == 0:
        try:
            Path(f"{folder}.moments").write_text(str(train(folder, accumulate, dies_at)))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


attach()  # what is imported on the way
draw, told = random.Random(seed), {}
for accumulate in accumulations:
    whole = out / f"whole-{accumulate}"
    told[whole.name] = [apart(whole, accumulate)]
    moments = int(Path(f"{whole}.moments").read_text())
    for trial in range(trials):
        first = draw.randint(trial * moments // trials + 1, (trial + 1) * moments // trials)
        second = draw.randint(1, moments - first + 1)
        folder = out / f"killed-{accumulate}-{trial}"
        told[folder.name] = [apart(folder, accumulate, dies_at) for dies_at in (first, second, 0)]
(out / "told.json").write_text(json.dumps(told))
"""
)


@pytest.fixture(scope="module")
def runs(tiny_base_dir: Path, tiny_encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every run, whole or killed twice."""
    out = tmp_path_factory.mktemp("runs")
    words = (tiny_base_dir, tiny_encoder_dir, out, json.dumps([PARTS, TRIALS, SEED]))
    ended = subprocess.run(
        [sys.executable, "-c", TRAIN, *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads((out / "told.json").read_text())
    assert len(told) == len(PARTS) * (TRIALS + 1)
    for name, codes in told.items():
        whole = name.startswith("whole")
        assert codes == ([0] if whole else [-signal.SIGKILL, -signal.SIGKILL, 0]), (name, ended.stderr)
    return out


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(TRIALS))
@pytest.mark.parametrize("accumulate", PARTS)
def test_a_run_that_was_killed_twice_ends_with_the_bits_of_one_that_was_not(
    runs: Path, accumulate: int, trial: int
) -> None:
    whole, killed = runs / f"whole-{accumulate}", runs / f"killed-{accumulate}-{trial}"
    state = "checkpoint-00000012/state.safetensors"  # the last step's values and moments; `adapter` has the best ones
    files = [path.relative_to(whole) for path in [*(whole / "adapter").iterdir(), *whole.glob("fisher-*")]]
    assert len([name for name in files if name.suffix == ".safetensors"]) == 3  # adapter, and two phases' information
    names: list[Path | str] = [*files, "metrics.jsonl", state]
    for name in names:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", PARTS)
def test_the_runs_that_were_killed_had_everything_switched_on(runs: Path, accumulate: int) -> None:
    told = lines(runs / f"whole-{accumulate}")
    train = [line for line in told if line["kind"] == "train"]
    assert [round(line["step"]) for line in train] == list(range(1, 13))
    assert all(line["feature_loss"] > 0 and line["distill_loss"] > 0 for line in train)
    assert [line["step"] for line in train if "fisher_loss" in line] == list(range(4, 13))
    assert {line["budget"] for line in train} == {4.0, 8.0}
    assert {line["stage"] for line in told if line["kind"] == "evaluation"} == {1, 2}

"""Stage A by two processes that `accelerate launch` started on the CPU, against one process alone."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

Launch = Callable[..., subprocess.CompletedProcess[str]]

CONFIGS = Path(__file__).parents[3] / "configs" / "accelerate"
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="deepspeed is not installed; pip install 'safe-rl-audio[deepspeed]'"
)

TRAIN = (
    f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[2] / 'helpers')!r})\n"
    + """
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tiny_runs import questions
from torch.optim.optimizer import register_optimizer_step_post_hook

from supervised.config import ModelConfig
from supervised.data.sample import Sample, Waveform
from supervised.processes import Processes
from supervised.safe_model import SafeModel
from supervised.sharding import attach_sharded, sharding_is_wanted
from supervised.stage_a import evaluation
from supervised.stage_a.config import AudioCurriculumConfig, GuardConfig, LossConfig, StageAConfig
from supervised.stage_a.training import train_stage_a

base, encoder, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
dies_at, accumulate = int(sys.argv[4]), int(sys.argv[5])
torch.set_num_threads(1)
evaluation.BATCH = 4  # of nine questions, one of two processes has five and asks twice

config = StageAConfig(
    steps=10, batch_size=6, accumulate=accumulate, warmup_steps=2, gate_warmup_steps=2, eval_every=5, eval_samples=9,
    checkpoint_every=3, phases=(0.2, 0.5, 0.3), loss=LossConfig(feature=0.5, fisher=10.0),
    curriculum=AudioCurriculumConfig(shares=(0.5, 1.0)), guard=GuardConfig(max_drop=1.0),
)
if dies_at:
    steps = iter(range(1, 100))

    def die(*_):
        if next(steps) == dies_at:
            raise SystemExit("power cut")

    register_optimizer_step_post_hook(die)
torch.manual_seed(0)
attach = attach_sharded if sharding_is_wanted() else SafeModel.attach
model = attach(ModelConfig(base=base, encoder=encoder))
train_stage_a(model, questions(20, 0), questions(12, 1), config, out, resume=True, progress=False)
Processes.current().close()
"""
)


@pytest.fixture(scope="module")
def train(
    launch: Launch, tiny_base_dir: Path, tiny_encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Train in a folder with so many processes; `dies_at`: all of them die after that many steps."""
    script = tmp_path_factory.mktemp("script") / "train.py"
    script.write_text(textwrap.dedent(TRAIN))

    def run(
        folder: Path, processes: int, dies_at: int = 0, accumulate: int = 1, config: str = "cpu"
    ) -> subprocess.CompletedProcess[str]:
        words = (script, tiny_base_dir, tiny_encoder_dir, folder, dies_at, accumulate)
        return launch(*words, processes=processes, config=CONFIGS / f"{config}.yaml")

    return run


@pytest.fixture(scope="module")
def alone(train: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one process that nobody interrupted."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    ended = train(folder, processes=1)
    assert ended.returncode == 0, ended.stderr
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def check_equal(folder: Path, expected: Path) -> None:
    """The figures of every step, and the adapter, are those of the other run but for the order of sums."""
    found, known = lines(folder), lines(expected)
    assert [(line["kind"], line["step"]) for line in found] == [(line["kind"], line["step"]) for line in known]
    for here, there in zip(found, known, strict=True):
        assert here.keys() == there.keys()
        for name in there.keys() - {"kind"}:
            assert here[name] == pytest.approx(there[name], rel=1e-5, abs=1e-5), (there["step"], name)
    adapter, other = (load_file(next((path / "adapter").glob("*.safetensors"))) for path in (folder, expected))
    for name, value in other.items():
        assert float((adapter[name] - value).abs().max()) < 1e-4, name


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "accumulate"), [(2, 1), (1, 3), (2, 2)])
def test_more_processes_and_parts_train_as_one_process_with_the_whole_batch(
    train: Callable[..., subprocess.CompletedProcess[str]],
    alone: Path,
    tmp_path: Path,
    processes: int,
    accumulate: int,
) -> None:
    ended = train(tmp_path / "run", processes, accumulate=accumulate)
    assert ended.returncode == 0, ended.stderr
    check_equal(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["fsdp", pytest.param("deepspeed", marks=needs_deepspeed)])
def test_processes_with_a_share_of_the_base_train_as_one_with_the_whole(
    train: Callable[..., subprocess.CompletedProcess[str]], alone: Path, tmp_path: Path, config: str
) -> None:
    # Three of six questions each: one part has two, the other one, and one of the six parts no retention question.
    ended = train(tmp_path / "run", 2, accumulate=2, config=config)
    assert ended.returncode == 0, ended.stderr
    check_equal(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_that_died_goes_on_with_another_number_of_processes(
    train: Callable[..., subprocess.CompletedProcess[str]], alone: Path, tmp_path: Path, first: int, then: int
) -> None:
    died = train(tmp_path / "run", first, dies_at=8)
    assert died.returncode != 0
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-00000006"]
    ended = train(tmp_path / "run", then)
    assert ended.returncode == 0, ended.stderr
    check_equal(tmp_path / "run", alone)

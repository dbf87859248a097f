"""Interrupted at any moment, a run goes on bit for bit; it never goes on as another run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import CONFIG, interrupted, lines, questions, run, traces
from torch.optim.optimizer import register_optimizer_step_post_hook

from supervised.config import ModelConfig
from supervised.errors import CheckpointError
from supervised.safe_model import SafeModel
from supervised.stage_a.checkpoint import checkpoints
from supervised.stage_a.training import StageAResult, train_stage_a


@contextmanager
def failing(model: SafeModel, call: int, error: type[BaseException]) -> Iterator[None]:
    """Let the base raise `error` on its n-th call, as a user or a machine might at that moment."""
    calls = iter(range(1, 1_000_000))

    def count(*_: Any) -> None:
        if next(calls) == call:
            raise error

    handle = model.base.register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Whole:
    """A run that nobody interrupted."""

    result: StageAResult
    adapter: dict[str, bytes]
    metrics: bytes
    begins: list[int]
    """The base's calls so far when each step began, and at the end."""

    @property
    def traces(self) -> tuple[dict[str, bytes], bytes]:
        return self.adapter, self.metrics


@pytest.fixture(scope="module")
def whole(tiny_base_dir: Path, tiny_encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    torch.manual_seed(0)
    model = SafeModel.attach(ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir)))
    folder = tmp_path_factory.mktemp("whole")
    calls, begins = 0, []

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if torch.is_grad_enabled():  # only a step's own pass has a gradient
            begins.append(calls)

    handle = model.base.register_forward_pre_hook(count)
    result = run(model, folder)
    handle.remove()
    assert len(begins) == 7
    adapter, metrics = traces(folder)
    return Whole(result, adapter, metrics, [*begins, calls])


def test_every_file_that_is_promised_is_there(attach: Callable[[], SafeModel], tmp_path: Path, whole: Whole) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = attach()
    result = run(model, tmp_path)
    assert (result.steps, result.stopped_early, result.adapter) == (7, False, tmp_path / "adapter")
    assert [(line["kind"], line["step"]) for line in lines(tmp_path)] == [
        *(("train", step) for step in (1, 2, 3)),
        ("evaluation", 3),
        *(("train", step) for step in (4, 5, 6)),
        ("evaluation", 6),
        ("train", 7),
        ("evaluation", 7),
    ]
    assert [round(line["gate"], 3) for line in lines(tmp_path) if line["kind"] == "train"] == [0.333, 0.667, *[1.0] * 5]
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000007"]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/grad_norm")] == list(range(1, 8))
    assert events.Tags()["scalars"].count("evaluation/drop") == 1
    # The saved adapter is the one in the model, and an equal run leaves equal files.
    loaded = SafeModel.from_pretrained(result.adapter)
    assert loaded.fingerprint()["adapter"] == model.fingerprint()["adapter"]
    assert traces(tmp_path) == whole.traces
    assert f"| validation, drop | {result.drop:.6g} |" in (result.adapter / "README.md").read_text(encoding="utf-8")


# Before the first step, within steps, and between a step and the next one, where it is evaluated: after step 6, which
# is then saved twice, before and after its evaluation.
@pytest.mark.parametrize(
    ("step", "after"), [(0, -8), (0, -1), (0, 0), (1, 0), (3, -2), (4, 0), (6, -8), (6, -1), (6, 0), (7, -3)]
)
def test_an_interrupted_run_goes_on_bit_for_bit_wherever_it_was(
    attach: Callable[[], SafeModel], tmp_path: Path, whole: Whole, step: int, after: int
) -> None:
    model = attach()
    with (
        failing(model, whole.begins[step] + after, KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt, match=r"was stopped at step \d of 7"),
    ):
        run(model, tmp_path)
    result = run(attach(), tmp_path, resume=True)
    assert traces(tmp_path) == whole.traces
    assert replace(result, adapter=whole.result.adapter) == whole.result


def test_an_interruption_between_two_steps_loses_nothing_and_says_so(
    attach: Callable[[], SafeModel], tmp_path: Path, whole: Whole
) -> None:
    model = attach()
    config = replace(CONFIG, checkpoint_every=100, eval_every=100)
    with failing(model, whole.begins[2], KeyboardInterrupt), pytest.raises(KeyboardInterrupt) as caught:
        run(model, tmp_path, config)
    [kept] = checkpoints(tmp_path)
    step = int(kept.name.removeprefix("checkpoint-"))
    assert step > 0
    assert str(caught.value) == (
        f"Stage A was stopped at step {step} of 7; {tmp_path} keeps step {step} (0 steps are lost); "
        "go on with --resume."
    )


def test_an_interruption_within_an_update_goes_back_to_the_checkpoint(
    attach: Callable[[], SafeModel], tmp_path: Path, whole: Whole
) -> None:
    updates = iter(range(1, 100))

    def interrupt(*_: Any) -> None:
        if next(updates) == 6:  # the adapter has moved, the progress has not
            raise KeyboardInterrupt

    handle = register_optimizer_step_post_hook(interrupt)
    try:
        with pytest.raises(
            KeyboardInterrupt, match=r"at step 5 of 7; .* keeps step 4 \(1 steps are lost\); go on with"
        ):
            run(attach(), tmp_path)
    finally:
        handle.remove()
    run(attach(), tmp_path, resume=True)
    assert traces(tmp_path) == whole.traces


def test_a_crash_leaves_the_last_checkpoint_and_no_doubled_line(
    attach: Callable[[], SafeModel], tmp_path: Path, whole: Whole
) -> None:
    model = attach()

    def crash(*_: Any) -> None:
        if (tmp_path / "metrics.jsonl").exists() and len(lines(tmp_path)) == 6:
            raise RuntimeError("power cut")

    handle = model.base.register_forward_pre_hook(crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run(model, tmp_path)
    handle.remove()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "ki')  # cut within a line
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000004"]
    run(attach(), tmp_path, resume=True)
    assert traces(tmp_path) == whole.traces


def test_resuming_a_finished_run_returns_its_result_without_reading_the_data(
    attach: Callable[[], SafeModel], tmp_path: Path
) -> None:
    result = run(attach(), tmp_path)
    model = attach()
    assert train_stage_a(model, [], [], CONFIG, tmp_path, resume=True, progress=False) == result
    assert model.fingerprint()["adapter"] == SafeModel.from_pretrained(result.adapter).fingerprint()["adapter"]


def test_a_folder_with_a_checkpoint_is_not_overwritten_without_resume(
    attach: Callable[[], SafeModel], tmp_path: Path
) -> None:
    run(attach(), tmp_path, replace(CONFIG, steps=1))
    with pytest.raises(CheckpointError, match=r"holds an earlier run \(checkpoint-00000001\); go on with --resume"):
        run(attach(), tmp_path, replace(CONFIG, steps=1))


def test_another_configuration_is_refused_by_name_but_checkpoints_may_be_rarer(
    attach: Callable[[], SafeModel], tmp_path: Path
) -> None:
    interrupted(attach, tmp_path)
    with pytest.raises(CheckpointError, match=r"of another run: stage_a\.batch_size is 2, was 4; give the same values"):
        run(attach(), tmp_path, replace(CONFIG, batch_size=2), resume=True)
    run(attach(), tmp_path, replace(CONFIG, checkpoint_every=50), resume=True)


def test_other_data_are_refused_by_name(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    interrupted(attach, tmp_path)
    other = questions(12, 0)
    other[3] = replace(other[3], answers=("green",))
    with pytest.raises(CheckpointError, match=r"of another run: data\.train\.sha256 is \w+, was \w+"):
        train_stage_a(attach(), other, questions(10, 1), CONFIG, tmp_path, resume=True, progress=False)
    with pytest.raises(CheckpointError, match=r"data\.train\.questions is 11, was 12; data\.train\.sha256"):
        train_stage_a(attach(), other[:11], questions(10, 1), CONFIG, tmp_path, resume=True, progress=False)


def test_another_model_is_refused_by_name(
    attach: Callable[[], SafeModel], tiny_base_dir: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    interrupted(attach, tmp_path)
    config = ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir))
    other = SafeModel.attach(replace(config, projector=replace(config.projector, tokens=4)))
    with pytest.raises(CheckpointError, match=r"model\.config\.projector\.tokens is 4, was 8"):
        run(other, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("state.safetensors", b"x", r"is damaged \(the SHA-256 of its tensors differs\); delete"),
        ("progress.json", b"{", r"is not a whole checkpoint \(JSONDecodeError: .*\); delete"),
        ("progress.json", b"{}", r"is not a whole checkpoint \(KeyError: 'format'\); delete"),
        ("progress.json", b'{"format": "x", "version": 9}', "is 'x' version 9; this program reads 'safe-rl-stage-a'"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    attach: Callable[[], SafeModel], tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    interrupted(attach, tmp_path)
    (checkpoints(tmp_path)[-1] / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        run(attach(), tmp_path, resume=True)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    attach: Callable[[], SafeModel], tmp_path: Path
) -> None:
    (tmp_path / ".checkpoint-00000004.new").touch()  # a file where the folder should go
    with pytest.raises(OSError, match=r"checkpoint-00000004\.new"):
        run(attach(), tmp_path)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000002"]


def test_a_run_with_budgets_goes_on_bit_for_bit_and_not_with_others(
    attach: Callable[[], SafeModel], tmp_path: Path
) -> None:
    config = replace(CONFIG, budgets=(2, 4, 8))
    run(attach(), tmp_path / "whole", config)
    interrupted(attach, tmp_path / "parts", config)
    with pytest.raises(CheckpointError, match=r"stage_a\.budgets\.?.* is"):
        run(attach(), tmp_path / "parts", replace(config, budgets=(2, 4)), resume=True)
    run(attach(), tmp_path / "parts", config, resume=True)
    assert traces(tmp_path / "parts") == traces(tmp_path / "whole")

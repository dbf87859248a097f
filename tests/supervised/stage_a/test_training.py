from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

from supervised.config import ModelConfig
from supervised.data.sample import Sample, Waveform
from supervised.errors import CheckpointError, ConfigError, DataError, ModelError
from supervised.safe_model import SafeModel
from supervised.stage_a.checkpoint import checkpoints
from supervised.stage_a.config import GuardConfig, LossConfig, StageAConfig
from supervised.stage_a.examples import Examples
from supervised.stage_a.schedule import budget_at, gate_at, parameter_groups, rate_factor
from supervised.stage_a.training import StageAResult, train_stage_a

CONFIG = StageAConfig(
    steps=7,
    batch_size=4,
    warmup_steps=2,
    gate_warmup_steps=3,
    eval_every=3,
    eval_samples=6,
    checkpoint_every=2,
    guard=GuardConfig(max_drop=1.0, patience=9),
)
TONES = {"dog": 300.0, "rain": 2500.0}


def questions(count: int, seed: int, retention: bool = True) -> list[Sample]:
    """Every second question needs the sound, the others carry it for nothing; lengths of prompts differ."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        name = str(rng.choice(list(TONES)))
        time = np.arange(int(rng.uniform(0.5, 1.5) * 16_000)) / 16_000
        sound = Waveform((0.5 * np.sin(2 * np.pi * TONES[name] * time)).astype(np.float32), 16_000)
        picture = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        if retention and i % 2:
            samples.append(Sample(f"v{i}", "what colour is the object ?", ("red",), picture, sound, "scenes-vl"))
        else:
            samples.append(Sample(f"a{i}", "which sound can you hear ?", (name,), picture, sound))
    return samples


@pytest.fixture
def attach(tiny_base_dir: Path, tiny_encoder_dir: Path) -> Callable[[], SafeModel]:
    def make() -> SafeModel:
        torch.manual_seed(0)
        return SafeModel.attach(ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir)))

    return make


def run(model: SafeModel, folder: Path, config: StageAConfig = CONFIG, resume: bool = False) -> StageAResult:
    return train_stage_a(model, questions(12, 0), questions(10, 1), config, folder, resume, progress=False)


def traces(folder: Path) -> tuple[dict[str, bytes], bytes]:
    adapter = {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}
    return adapter, (folder / "metrics.jsonl").read_bytes()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


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
    return Whole(result, *traces(folder), [*begins, calls])


@pytest.mark.slow
def test_the_adapter_learns_and_the_base_does_not_change(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    model = attach()
    before = {name: value.clone() for name, value in model.base.state_dict().items()}
    config = replace(
        CONFIG,
        steps=60,
        batch_size=12,
        projector_lr=0.02,
        fusion_lr=0.02,
        gate_lr=0.02,
        marker_lr=0.02,
        eval_every=60,
        loss=LossConfig(distill=0),
    )
    result = run(model, tmp_path, config)
    train = [line for line in lines(tmp_path) if line["kind"] == "train"]
    assert train[-1]["task_loss"] < 0.5 * train[0]["task_loss"]
    assert result.audio_accuracy >= result.base_audio_accuracy
    assert all(torch.equal(value, before[name]) for name, value in model.base.state_dict().items())
    assert all(parameter.grad is None for parameter in model.base.parameters())


@pytest.mark.slow
def test_distillation_holds_the_model_near_its_base(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    def last(weight: float) -> float:
        config = replace(
            CONFIG,
            steps=40,
            batch_size=12,
            fusion_lr=0.01,
            gate_lr=0.01,
            projector_lr=0.01,
            eval_every=99,
            loss=LossConfig(distill=weight),
        )
        run(attach(), tmp_path / str(weight), replace(config, loss=LossConfig(distill=weight)))
        train = [line["distill_loss"] for line in lines(tmp_path / str(weight)) if line["kind"] == "train"]
        return float(np.mean(train[-5:]))

    assert last(5.0) < 0.5 * last(1e-9)


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


def interrupted(attach: Callable[[], SafeModel], folder: Path, config: StageAConfig = CONFIG) -> None:
    """Leave a run that was interrupted in its fifth step."""
    model, steps = attach(), iter(range(1, 100))

    def count(*_: Any) -> None:
        if torch.is_grad_enabled() and next(steps) == 5:
            raise KeyboardInterrupt

    handle = model.base.register_forward_pre_hook(count)
    with pytest.raises(KeyboardInterrupt, match=r"at step 4 of 7"):
        run(model, folder, config)
    handle.remove()


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


def test_patience_ends_a_run_that_gets_no_better(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    still = replace(CONFIG, projector_lr=1e-12, fusion_lr=1e-12, gate_lr=1e-12, marker_lr=1e-12, eval_every=1)
    still = replace(still, guard=GuardConfig(max_drop=1.0, patience=2))
    result = run(attach(), tmp_path, still)
    # The gate's warm-up takes 3 steps; patience counts evaluations from the third on.
    assert (result.stopped_early, result.steps, result.best_step) == (True, 4, 1)


def test_a_run_that_diverges_says_what_to_lower(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    wild = replace(CONFIG, projector_lr=1e30, fusion_lr=1e30, warmup_steps=0, eval_every=100)
    with pytest.raises(
        ModelError, match=r"Stage A diverged at step \d \(gradient norm \w+\); lower stage_a\.fusion_lr"
    ):
        run(attach(), tmp_path, wild)


def test_missing_kinds_of_questions_are_refused_with_a_remedy(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    everything, only_audio = questions(4, 0), questions(4, 0, retention=False)
    only_retention = [sample for sample in everything if sample.retention_set]
    silent = [replace(sample, audio=None) for sample in everything]
    for i, (train, validation, message) in enumerate(
        [
            (
                only_audio,
                everything,
                r"no training question needs no audio .*; add some, or set stage_a\.loss\.distill",
            ),
            (
                only_retention,
                everything,
                r"no training question needs audio and has a clip; .* stage_a\.loss\.task to 0",
            ),
            (silent, everything, "no training question needs audio and has a clip"),
            (everything, silent, "no validation question has audio"),
        ]
    ):
        with pytest.raises(DataError, match=message):
            train_stage_a(attach(), train, validation, CONFIG, tmp_path / str(i), progress=False)


def test_every_trained_parameter_stands_in_one_group_and_only_matrices_decay(attach: Callable[[], SafeModel]) -> None:
    adapter = attach().adapter
    config = replace(CONFIG, projector_lr=1.0, fusion_lr=2.0, gate_lr=4.0, marker_lr=3.0, weight_decay=0.5)
    of = {
        id(parameter): (group["peak_lr"], group["weight_decay"])
        for group in parameter_groups(adapter, config)
        for parameter in group["params"]
    }
    named = {name: of.get(id(parameter)) for name, parameter in adapter.named_parameters() if parameter.requires_grad}
    assert None not in named.values()
    assert sum(len(group["params"]) for group in parameter_groups(adapter, config)) == len(named) == len(of)
    assert named["markers"] == (3.0, 0.0)
    assert named["fusion.residual_scale"] == (4.0, 0.0)
    assert named["projector.expand.weight"] == (1.0, 0.5)
    assert named["projector.expand.bias"] == (1.0, 0.0)
    assert named["fusion.query.down.weight"] == (2.0, 0.5)


def test_the_gate_is_never_zero_and_the_rates_rise_then_fall() -> None:
    config = StageAConfig(steps=100, warmup_steps=10, gate_warmup_steps=40)
    gates = [gate_at(step, config) for step in range(100)]
    rates = [rate_factor(step, config) for step in range(100)]
    assert gates[0] == 1 / 40
    assert gates[39:] == [1.0] * 61
    assert rates[9] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert gate_at(0, StageAConfig(gate_warmup_steps=0)) == rate_factor(0, StageAConfig(warmup_steps=0)) == 1.0


def test_each_budget_comes_once_in_a_turn() -> None:
    config = StageAConfig(budgets=(2, 4, 8))
    drawn = [budget_at(step, config) for step in range(60)]
    assert all(sorted(drawn[first : first + 3]) == [2, 4, 8] for first in range(0, 60, 3))  # type: ignore[type-var]
    assert len({tuple(drawn[first : first + 3]) for first in range(0, 60, 3)}) > 3
    assert drawn != [budget_at(step, replace(config, seed=1)) for step in range(60)]
    assert budget_at(0, StageAConfig()) is None


def test_only_the_tokens_of_the_budgets_are_trained(attach: Callable[[], SafeModel], tmp_path: Path) -> None:
    model = attach()
    before = model.adapter.projector.queries.detach().clone()
    result = run(model, tmp_path, replace(CONFIG, budgets=(2, 4), weight_decay=0.0))
    saved = SafeModel.from_pretrained(result.adapter).adapter.projector.queries
    assert not torch.equal(saved[:2], before[:2])
    assert not torch.equal(saved[2:4], before[2:4])
    assert torch.equal(saved[4:], before[4:])


def test_figures_with_budgets_are_their_mean_accuracy_and_their_worst_retention(
    attach: Callable[[], SafeModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int | None] = []
    model = attach()
    generate = model.generate

    def listen(inputs: Any, audio: Any = None, **options: Any) -> Any:
        heard.append(options["budget"])
        return generate(inputs, audio, **options)

    monkeypatch.setattr(model, "generate", listen)
    result = run(model, tmp_path, replace(CONFIG, budgets=(2, 8)))
    assert heard == [None, *[2, 8] * 3]  # the base, then three evaluations
    figures = [line for line in lines(tmp_path) if line["kind"] == "evaluation"]
    for line in figures:
        assert line["audio_accuracy"] == (line["audio_accuracy_2"] + line["audio_accuracy_8"]) / 2
        assert line["retention_score"] == min(line["retention_score_2"], line["retention_score_8"])
        assert line["drop"] == result.base_retention_score - line["retention_score"]
    drawn = [line["budget"] for line in lines(tmp_path) if line["kind"] == "train"]
    assert drawn == [budget_at(step, replace(CONFIG, budgets=(2, 8))) for step in range(7)]


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


def test_a_budget_above_the_adapters_tokens_is_refused_before_anything_is_read(
    attach: Callable[[], SafeModel], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"stage_a\.budgets has a budget of 16 audio tokens, but .* is 8"):
        run(attach(), tmp_path, replace(CONFIG, budgets=(4, 16)))


def prepared(model: SafeModel, samples: list[Sample]) -> Examples:
    return Examples(model, samples, range(len(samples)), lambda _: None)

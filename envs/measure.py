"""Measuring a model: the latency profile of this machine, and whether gate 0 is the plain base, bit for bit."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.config import OutcomesConfig
from envs.cost import LatencyProfile
from envs.passes import Passes
from envs.preview import mel_preview
from supervised.data.media import read_waveform
from supervised.data.sample import Sample, Waveform
from supervised.errors import DataError

if TYPE_CHECKING:
    from supervised.safe_model import SafeModel

_WARM_UP = 2
_TURNS = 5
_LONG_ANSWER = 5


def measure(model: SafeModel, samples: Sequence[Sample], config: OutcomesConfig) -> LatencyProfile:
    """Measure the latency profile at batch size 1: medians of `config.latency_repeats` warm runs.

    Args:
        model: The model, on the device that it will serve on.
        samples: A few questions; the shortest and longest prompts and clips among them are timed.
        config: Its `latency_repeats`, `preview_bands` and `budgets` count.

    Raises:
        DataError: there is no sample to measure with.
    """
    if not samples:
        raise DataError("the latency profile needs at least one question, got none; give some train questions.")
    passes = Passes(model, config, LatencyProfile.free())
    loaded = [passes.load(sample) for sample in samples]
    clips = sorted((s.audio for s in loaded if isinstance(s.audio, Waveform)), key=lambda clip: clip.seconds)
    prompts = sorted(loaded, key=lambda sample: int(model.inputs([sample])["attention_mask"].sum()))
    repeats = config.latency_repeats
    audio: dict[str, float] = dict.fromkeys(
        ("decode_ms", "decode_ms_per_s", "preview_ms", "encoder_ms", "encoder_ms_per_s"), 0.0
    )
    if clips:
        audio = _audio(model, clips[0], clips[-1], config)
    long = next((sample for sample in reversed(prompts) if sample.audio is not None), prompts[-1])
    return LatencyProfile(
        **audio,
        **(timed := _model(passes, prompts[0], long, repeats)),
        gate_ms=_gate(repeats),
        machine=f"{platform.machine()} {platform.system()}, {_processor()}",
        budget_ms=_budgets(passes, long, timed["fusion_ms"], repeats),
    )


def gate_zero_is_exact(model: SafeModel, samples: Sequence[Sample], config: OutcomesConfig) -> bool:
    """Tell whether gate 0 (with audio at hand) and no audio give the plain base's logits and ids, bit for bit.

    Floats are compared by their integer view. The plain base is called directly, with the picture's pixels.
    """
    import torch

    passes = Passes(model, config, LatencyProfile.free())
    for first in range(0, len(samples), config.batch_size):
        batch = [passes.load(sample) for sample in samples[first : first + config.batch_size]]
        inputs = model.inputs(batch)
        plain = model.base.generate(
            **inputs,
            do_sample=False,
            num_beams=1,  # as `SafeModel.generate`, whatever the base's own settings say
            max_new_tokens=config.max_new_tokens,
            return_dict_in_generate=True,
            output_logits=True,
        )
        closed = model.generate(inputs, audio=passes.encode(batch), gate=0.0, max_new_tokens=config.max_new_tokens)
        images = model.encode_images(inputs)
        skipped = model.generate(inputs, images=images, max_new_tokens=config.max_new_tokens)
        for output in (closed, skipped):
            if not torch.equal(output.sequences, plain.sequences) or len(output.logits) != len(plain.logits):
                return False
            pairs = zip(output.logits, plain.logits, strict=True)
            if not all(torch.equal(_bits(ours), _bits(theirs)) for ours, theirs in pairs):
                return False
    return True


def _bits(values: Any) -> Any:
    import torch

    return values.contiguous().view({4: torch.int32, 2: torch.int16, 8: torch.int64}[values.element_size()])


def _audio(model: SafeModel, short: Waveform, long: Waveform, config: OutcomesConfig) -> dict[str, float]:
    """Time decoding (from a FLAC file, as clips are stored), preview and encoder on two clips of other length."""
    import soundfile

    repeats = config.latency_repeats
    seconds = (short.seconds, long.seconds)
    decode = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.flac"
        for clip in (short, long):
            loud = np.maximum(np.abs(clip.samples).max(), 1e-3)  # a file of zeros is refused by the reader
            audible = np.where(clip.samples == 0, 1e-3, clip.samples / loud).astype(np.float32)
            soundfile.write(path, audible, clip.rate)
            decode.append(_median(lambda clip=clip: read_waveform(path, clip.rate), repeats))  # type: ignore[misc]
    encode = [_median(lambda clip=clip: model.encoder([clip]), repeats) for clip in (short, long)]  # type: ignore[misc]
    decode_ms, decode_ms_per_s = _line(seconds, decode)
    encoder_ms, encoder_ms_per_s = _line(seconds, encode)
    return {
        "decode_ms": decode_ms,
        "decode_ms_per_s": decode_ms_per_s,
        "preview_ms": _median(lambda: mel_preview(long, config.preview_bands), repeats),
        "encoder_ms": encoder_ms,
        "encoder_ms_per_s": encoder_ms_per_s,
    }


def _model(passes: Passes, short: Sample, long: Sample, repeats: int) -> dict[str, float]:
    """Time base pass, second pass, fusion and answer tokens; the slope comes from two prompts of other length."""
    model = passes.model
    lengths, times = [], []
    for sample in (short, long):
        inputs = model.inputs([sample])
        lengths.append(float(inputs["attention_mask"].sum()))
        times.append(_median(lambda inputs=inputs: model.generate(inputs, max_new_tokens=1), repeats))  # type: ignore[misc]
    images = model.encode_images(inputs)
    second = _median(lambda: model.generate(inputs, images=images, max_new_tokens=1), repeats)
    fusion = 0.0
    if long.audio is not None:
        audio = passes.encode([long])
        fused = _median(lambda: model.generate(inputs, audio=audio, images=images, max_new_tokens=1), repeats)
        fusion = max(fused - second, 0.0)
        base = passes.base([long])
        if base.prefix is not None:  # then USE reads the question only
            kept = _median(lambda: model.generate(inputs, audio=audio, prefix=base.prefix, max_new_tokens=1), repeats)
            second = max(kept - fusion, 0.0)
    answer = _median(
        lambda: model.base.generate(
            **inputs, do_sample=False, min_new_tokens=_LONG_ANSWER, max_new_tokens=_LONG_ANSWER
        ),
        repeats,
    )
    _, slope = _line((lengths[0], lengths[1]), times)
    return {
        "base_ms": times[1],
        "second_ms": min(second, times[1]),
        "fusion_ms": fusion,
        "prompt_token_ms": slope,
        "prompt_tokens": lengths[1],
        "answer_token_ms": max(answer - times[1], 0.0) / (_LONG_ANSWER - 1),
    }


def _budgets(passes: Passes, sample: Sample, fusion_ms: float, repeats: int) -> dict[str, float]:
    """Return what projector and fusion take with each token budget.

    Tokens cost microseconds, a pass milliseconds: only the adapter is timed, in turns, and its differences are added to
    `fusion_ms`. More tokens never cost less; noise that says so is averaged away (isotonic regression).
    """
    import torch
    from scipy.optimize import isotonic_regression

    model, budgets = passes.model, passes.config.budgets
    if not budgets or sample.audio is None:
        return {}
    inputs, audio = model.inputs([sample]), passes.encode([sample]).to(model.device)
    hears = inputs["attention_mask"].bool()
    choices = sorted({*budgets, model.config.projector.tokens})
    times = np.empty((_TURNS * repeats, len(choices)))
    with torch.no_grad():
        hidden = model.base.get_input_embeddings()(inputs["input_ids"])
        for turn in times:
            for place, budget in enumerate(choices):
                start = time.perf_counter()
                model.adapter(hidden, audio, 1.0, hears, budget).sum().item()  # a number: the device has finished
                turn[place] = (time.perf_counter() - start) * 1e3
    medians = isotonic_regression(np.median(times, axis=0)).x
    less = dict(zip(choices, medians - medians[-1], strict=True))  # than all tokens take
    return {str(budget): max(fusion_ms + float(less[budget]), 0.0) for budget in budgets}


def _gate(repeats: int) -> float:
    """Time a policy of the usual size (two hidden layers of 64) on one observation."""
    import torch

    layers = (
        torch.nn.Linear(256, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, 2),
    )
    network, state = torch.nn.Sequential(*layers), torch.zeros(1, 256)

    def decide() -> None:
        with torch.no_grad():
            network(state).argmax(dim=1).item()

    return _median(decide, repeats)


def _median(call: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call in ms, after warm-up calls that do not count."""
    times = []
    for number in range(repeats + _WARM_UP):
        start = time.perf_counter()
        call()
        if number >= _WARM_UP:
            times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times))


def _line(at: tuple[float, float], times: Sequence[float]) -> tuple[float, float]:
    """Return offset and slope >= 0 of the line through two points; one mean where noise hides the slope."""
    width = at[1] - at[0]
    slope = max((times[1] - times[0]) / width, 0.0) if width > 0 else 0.0
    offset = times[1] - slope * at[1] if slope else float(np.mean(times))
    return max(offset, 0.0), slope


def _processor() -> str:
    import torch

    return f"{platform.processor() or 'unknown processor'}, {torch.get_num_threads()} threads"

"""A scene as a sound: every source synthesised (or taken from a recording), mixed over background noise.

A voice takes a generator, a length and returns float32 samples at `RATE`; it varies in pitch, pace and colour, so
that no two clips of a class are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from supervised.data.sample import Waveform
from supervised.demo.world import Scene

RATE = 16_000
"""Samples per second of every clip of SoundScenes."""
LEVEL = 0.05
"""Root mean square of a source while it sounds."""
QUIET = 0.0015
"""Root mean square of the background of a scene without sources."""


class SoundBank(Protocol):
    """Where the sound of one source comes from."""

    def draw(self, kind: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
        """Return float32 [n] at `RATE`, n = seconds * RATE, any loudness."""
        ...


class Synthesiser:
    """Sounds made from oscillators and noise."""

    def draw(self, kind: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
        """Return one variant of the class's sound."""
        return _VOICES[kind](rng, round(seconds * RATE))


def render_sound(scene: Scene, bank: SoundBank) -> Waveform:
    """Return the scene's clip at `RATE`; the same scene and bank give the same samples."""
    rng = np.random.default_rng([scene.seed, 2])
    voices = [bank.draw(kind, scene.seconds, rng) for kind in sorted(scene.sources)]
    return mix(voices, round(scene.seconds * RATE), scene.snr_db, rng)


def mix(voices: Sequence[np.ndarray], length: int, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Bring every voice to `LEVEL` (give or take 3 dB), add coloured noise at `snr_db`, keep within [-1, 1]."""
    noise = _noise(rng, length, tilt=rng.uniform(-1.0, 0.0))
    level = LEVEL * 10 ** (-snr_db / 20) if voices else QUIET
    clip = noise * (level / _rms(noise))
    for voice in voices:
        clip += voice * (LEVEL * 10 ** (rng.uniform(-3, 3) / 20) / _active_rms(voice))
    return Waveform((clip / max(1.0, np.abs(clip).max())).astype(np.float32), RATE)


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples)))) + 1e-9


def _active_rms(samples: np.ndarray) -> float:
    """Loudness of the loudest fifth: a bark in silence and steady rain then sound equally loud."""
    frames = samples[: len(samples) // 400 * 400].reshape(-1, 400)
    power = np.sort(np.mean(np.square(frames), axis=1))
    return float(np.sqrt(power[-max(1, len(power) // 5) :].mean())) + 1e-9


def _noise(rng: np.random.Generator, length: int, low: float = 20, high: float = 8000, tilt: float = 0.0) -> np.ndarray:
    """Noise between `low` and `high` Hz whose power falls as frequency ** tilt."""
    size = 1 << (length - 1).bit_length()  # a power of two keeps the transform fast at every length
    frequency = np.fft.rfftfreq(size, 1 / RATE)
    shape = np.where((frequency >= low) & (frequency <= high), np.maximum(frequency, 20.0) ** (tilt / 2), 0.0)
    phase = rng.standard_normal(2 * len(shape), dtype=np.float32).view(np.complex64)
    return np.fft.irfft(phase * shape.astype(np.float32), size)[:length].astype(np.float32)


def _tone(pitch: np.ndarray, partials: Sequence[float]) -> np.ndarray:
    """A harmonic tone along a pitch contour in Hz; `partials` are the amplitudes of the harmonics."""
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    # sin(k x) = 2 cos(x) sin((k - 1) x) - sin((k - 2) x): one sine for all harmonics.
    twice_cosine, before, harmonic = 2 * np.cos(phase), np.zeros_like(phase), np.sin(phase)
    tone = partials[0] * harmonic
    for amplitude in partials[1:]:
        before, harmonic = harmonic, twice_cosine * harmonic - before
        tone += amplitude * harmonic
    return tone.astype(np.float32)


def _ramp(length: int, attack: float = 0.1, release: float = 0.3) -> np.ndarray:
    """An envelope that rises over the share `attack` and falls over the share `release`."""
    t = np.linspace(0, 1, max(length, 2))[:length]
    return np.minimum(1, np.minimum(t / attack, (1 - t) / release)).astype(np.float32)


def _decay(length: int, seconds: float) -> np.ndarray:
    return np.exp(-np.arange(length) / (seconds * RATE)).astype(np.float32)


def _place(length: int, events: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    """Add every event at its time in seconds; what lies outside is cut."""
    out = np.zeros(length, np.float32)
    for time, event in events:
        start = int(time * RATE)
        if 0 <= start < length:
            out[start : start + len(event)] += event[: length - start]
    return out


def _repeat(
    rng: np.random.Generator, length: int, gap: tuple[float, float], event: Callable[[], np.ndarray]
) -> np.ndarray:
    """Events with silences drawn from `gap` (seconds); the first starts within half a second."""
    time, events = rng.uniform(0, 0.5), []
    while time * RATE < length:
        sound = event()
        events.append((time, sound))
        time += len(sound) / RATE + rng.uniform(*gap)
    return _place(length, events)


def _dog(rng: np.random.Generator, length: int) -> np.ndarray:
    pitch, rough = rng.uniform(250, 700), rng.uniform(0.2, 0.6)

    def bark() -> np.ndarray:
        n = int(RATE * rng.uniform(0.12, 0.3))
        sweep = pitch * (1 + 0.5 * np.sin(np.linspace(0.3, np.pi, n)))
        return (_tone(sweep, (1, 0.8, 0.6, 0.4, 0.3)) + rough * _hiss(rng, n, 300, 4000)) * _ramp(n, 0.08, 0.6)

    return _repeat(rng, length, (0.15, 0.9), bark)


def _rain(rng: np.random.Generator, length: int) -> np.ndarray:
    bed = _unit(_noise(rng, length, rng.uniform(300, 1200), 8000, rng.uniform(-0.5, 0.3)))
    return bed + 0.5 * _drops(rng, length, rate=rng.uniform(30, 90), low=1500, high=6000, seconds=0.003)


def _waves(rng: np.random.Generator, length: int) -> np.ndarray:
    t = np.arange(length) / RATE
    swell = 0.25 + 0.75 * np.sin(np.pi * (t * rng.uniform(0.15, 0.4) + rng.random())) ** 2
    return (_unit(_noise(rng, length, 40, rng.uniform(1500, 4000), -1.0)) * swell).astype(np.float32)


def _baby(rng: np.random.Generator, length: int) -> np.ndarray:
    pitch = rng.uniform(350, 550)

    def cry() -> np.ndarray:
        n = int(RATE * rng.uniform(0.5, 1.3))
        t = np.linspace(0, 1, n)
        contour = pitch * (1 + 0.35 * np.sin(np.pi * t)) * (1 + 0.03 * np.sin(2 * np.pi * rng.uniform(5, 8) * t))
        return _tone(contour, (1, 0.7, 0.9, 0.6, 0.3, 0.2)) * _ramp(n, 0.15, 0.3)

    return _repeat(rng, length, (0.1, 0.5), cry)


def _clock(rng: np.random.Generator, length: int) -> np.ndarray:
    period, ring = rng.uniform(0.25, 1.0), rng.uniform(1800, 5000)
    n = int(RATE * 0.05)

    def tick(pitch: float) -> np.ndarray:
        return _tone(np.full(n, pitch), (1, 0.4)) * _decay(n, rng.uniform(0.003, 0.01))

    times = np.arange(rng.uniform(0, period), length / RATE, period)
    return _place(length, [(time, tick(ring * (1.0, 0.85)[i % 2])) for i, time in enumerate(times)])


def _sneeze(rng: np.random.Generator, length: int) -> np.ndarray:
    def sneeze() -> np.ndarray:
        inhale = _hiss(rng, int(RATE * rng.uniform(0.2, 0.4)), 800, 4000)
        burst = _hiss(rng, int(RATE * rng.uniform(0.25, 0.5)), 500, 7500)
        pitch = np.linspace(rng.uniform(350, 600), 200, len(burst))
        burst = (burst + 0.6 * _tone(pitch, (1, 0.6, 0.4))) * _ramp(len(burst), 0.03, 0.8)
        return np.concatenate([0.15 * inhale * np.linspace(0, 1, len(inhale), dtype=np.float32), burst])

    return _repeat(rng, length, (1.2, 3.0), sneeze)


def _helicopter(rng: np.random.Generator, length: int) -> np.ndarray:
    t = np.arange(length) / RATE
    beat = np.maximum(0, np.sin(2 * np.pi * rng.uniform(9, 18) * t)) ** rng.uniform(2, 6)
    rotor = _unit(_noise(rng, length, 30, rng.uniform(400, 1200), -1.0)) * (0.2 + beat)
    return (rotor + 0.1 * _tone(np.full(length, rng.uniform(200, 500)), (1, 0.5))).astype(np.float32)


def _chainsaw(rng: np.random.Generator, length: int) -> np.ndarray:
    t = np.arange(length) / RATE
    revs = rng.uniform(80, 180) * (1 + 0.25 * np.sin(2 * np.pi * rng.uniform(0.2, 1.0) * t + rng.uniform(0, 6)))
    motor = _tone(revs, [1 / k**0.5 for k in range(1, 25)])
    return _unit(motor) + 0.4 * _unit(_noise(rng, length, 1500, 7000))


def _rooster(rng: np.random.Generator, length: int) -> np.ndarray:
    pitch = rng.uniform(450, 800)
    contour = np.array([0.8, 1.0, 0.85, 1.3, 1.25, 1.5, 1.45, 1.3, 0.9])

    def crow() -> np.ndarray:
        n = int(RATE * rng.uniform(1.0, 1.8))
        sweep = pitch * np.interp(np.linspace(0, 8, n), np.arange(9), contour)
        gate = np.where(np.abs(np.linspace(0, 8, n) - 1.6) < 0.2, 0.1, 1.0)  # the break after the first call
        return (_tone(sweep, (0.6, 1, 0.8, 0.5, 0.3)) * _ramp(n, 0.05, 0.25) * gate).astype(np.float32)

    return _repeat(rng, length, (0.5, 2.0), crow)


def _fire(rng: np.random.Generator, length: int) -> np.ndarray:
    bed = _unit(_noise(rng, length, 40, rng.uniform(400, 1000), -1.0))
    crackles = _drops(rng, length, rate=rng.uniform(6, 20), low=1000, high=8000, seconds=0.006)
    return 0.15 * bed + crackles


def _drops(rng: np.random.Generator, length: int, rate: float, low: float, high: float, seconds: float) -> np.ndarray:
    """Short clicks at random times, `rate` per second, each a burst of band-passed noise with its own loudness."""
    impulses = np.zeros(length, np.float32)
    times = rng.integers(0, length, rng.poisson(rate * length / RATE) + 1)
    impulses[times] = rng.exponential(1.0, len(times))
    n = int(RATE * seconds * 8)
    burst = _hiss(rng, n, low, high) * _decay(n, seconds)
    size = 1 << (length + n - 1).bit_length()
    return np.fft.irfft(np.fft.rfft(impulses, size) * np.fft.rfft(burst, size), size)[:length].astype(np.float32)


def _hiss(rng: np.random.Generator, length: int, low: float, high: float) -> np.ndarray:
    return _unit(_noise(rng, length, low, high))


def _unit(samples: np.ndarray) -> np.ndarray:
    return samples / _rms(samples)


_VOICES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "dog": _dog,
    "rain": _rain,
    "waves": _waves,
    "baby": _baby,
    "clock": _clock,
    "sneeze": _sneeze,
    "helicopter": _helicopter,
    "chainsaw": _chainsaw,
    "rooster": _rooster,
    "fire": _fire,
}

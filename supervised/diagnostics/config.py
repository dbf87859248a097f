"""Configuration of evaluation and diagnostics: plain frozen values, no heavy import, each refusing nonsense itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from supervised.errors import ConfigError


@dataclass(frozen=True)
class MonitorConfig:
    """Limits of the monitors; each compares one figure, measured on retention questions with the gate at 1."""

    drop: float = 0.05
    """Largest drop with the questions' own irrelevant audio, as a fraction: 0.05 is 5 points."""
    kl: float = 0.3
    """Largest mean KL divergence from the base at the answer position, in nats."""
    cka: float = 0.8
    """Smallest linear CKA with the base, of any layer, at the answer position."""
    residual_ratio: float = 0.4
    """Largest mean of ||delta|| / ||x|| over the positions that hear."""

    audio_mass: float = 0.95
    """Largest mean share of attention on audio tokens; the rest is on the markers."""
    audio_level: float = -6.0
    """Largest mean level of the clips, in dB relative to full scale (root mean square)."""

    def __post_init__(self) -> None:
        for name in ("drop", "kl", "residual_ratio"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(
                    f"evaluate.monitors.{name} must be at least 0 and finite, got {getattr(self, name)}; use e.g. 0.5."
                )
        for name in ("cka", "audio_mass"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"evaluate.monitors.{name} must lie in [0, 1], got {getattr(self, name)}; use e.g. 0.9."
                )
        if not -120 <= self.audio_level <= 0:
            raise ConfigError(
                f"evaluate.monitors.audio_level must lie in [-120, 0] dB, got {self.audio_level}; use e.g. -6."
            )


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation of a trained adapter on the test split, and its diagnostics."""

    questions: int = 512
    """Test questions that the diagnostics look at, drawn at random; the evaluation itself asks all of them."""
    gates: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
    """Gates of the sweep, rising from 0 to 1."""
    positions: int = 1024
    """Prompt positions at most that CKA compares."""
    seed: int = 0
    """Seed of the drawn questions and positions, and of the bootstrap."""
    monitors: MonitorConfig = field(default_factory=MonitorConfig)

    def __post_init__(self) -> None:
        for name, least in (("questions", 8), ("positions", 8), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"evaluate.{name} must be at least {least}, got {getattr(self, name)}; use e.g. 64.")
        gates = list(self.gates)
        if len(gates) < 2 or gates != sorted(set(gates)) or (gates[0], gates[-1]) != (0, 1):
            raise ConfigError(
                f"evaluate.gates must rise from 0 to 1, got {gates}; use e.g. [0, 0.05, 0.1, 0.2, 0.5, 1]."
            )

"""What an action costs in milliseconds: a profile measured once per machine, from which latency is computed.

A sample's latency follows from its clip length and token counts alone, so it is the same in every run on one profile.
Two modes: `cascade` (base pass first, its confidence is part of the state, USE pays a second pass) and `router`
(the decision comes first; USE replaces the plain pass by one with audio).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from envs.actions import Action
from supervised.errors import TableError
from supervised.files import write_json

PROFILE = "latency.json"
"""Name of the profile's file in the folder of a table."""
PREVIEW_SECONDS = 1.0


@dataclass(frozen=True)
class LatencyProfile:
    """Medians of warm runs at batch size 1, in milliseconds."""

    decode_ms: float
    """Opening a clip."""
    decode_ms_per_s: float
    """Decoding one second of it."""
    preview_ms: float
    """Preview features, the clip's first second decoded."""
    encoder_ms: float
    """Audio encoder, the part that does not depend on the clip's length."""
    encoder_ms_per_s: float
    """Audio encoder, per second of clip."""
    fusion_ms: float
    """Projector and fusion."""
    base_ms: float
    """Base pass up to the first token, picture included."""
    second_ms: float
    """The same with the picture's features at hand."""
    prompt_token_ms: float
    """What a prompt token more adds to either."""
    prompt_tokens: float
    """Prompt length at which `base_ms` and `second_ms` hold."""
    answer_token_ms: float
    """Every token of the answer after the first."""
    gate_ms: float
    """The decision itself."""
    machine: str = ""
    """Where it was measured."""
    budget_ms: Mapping[str, float] = field(default_factory=dict)
    """Projector and fusion with each token budget; `fusion_ms` holds for any other, and for all tokens."""

    def latency_ms(
        self,
        seconds: float | None,
        prompt_tokens: int,
        new_tokens: Sequence[int],
        action: int,
        mode: str = "cascade",
        preview: str = "mel",
        budget: int | None = None,
    ) -> float:
        """Return the end-to-end latency of one action on one question.

        Args:
            seconds: Length of the clip; None: there is none, and USE is the bypass.
            prompt_tokens: Length of the prompt.
            new_tokens: Answer tokens of every action up to `action`.
            action: SKIP, or USE with any budget.
            mode: cascade or router.
            preview: mel or clap; a clap preview pays the encoder before the decision.
            budget: Audio tokens of the action; None: all of them.
        """
        prompt = self.prompt_token_ms * (prompt_tokens - self.prompt_tokens)
        plain = max(self.base_ms + prompt, 0.0) + self.answer_token_ms * max(new_tokens[Action.SKIP] - 1, 0)
        glance, listening = self._audio_ms(seconds, preview)
        total = glance + self.gate_ms
        if action == Action.SKIP or seconds is None:
            return total + plain
        first = self.second_ms if mode == "cascade" else self.base_ms
        hearing = max(first + prompt, 0.0) + self.answer_token_ms * max(new_tokens[action] - 1, 0)
        fusion = self.budget_ms.get(str(budget), self.fusion_ms)
        return total + (plain if mode == "cascade" else 0.0) + listening + fusion + hearing

    def _audio_ms(self, seconds: float | None, preview: str) -> tuple[float, float]:
        """Return what the clip costs before the decision, and what USE adds (decoding the rest, encoding)."""
        if seconds is None:
            return 0.0, 0.0
        glanced = seconds if preview == "clap" else min(seconds, PREVIEW_SECONDS)
        encoding = self.encoder_ms + self.encoder_ms_per_s * seconds
        before = self.decode_ms + self.decode_ms_per_s * glanced
        if preview == "clap":
            return before + encoding, 0.0
        return before + self.preview_ms, self.decode_ms_per_s * (seconds - glanced) + encoding

    @classmethod
    def free(cls) -> LatencyProfile:
        """Return the profile of a machine that takes no time, for what is done before latencies are known."""
        return cls(**dict.fromkeys(_NUMBERS, 0.0), machine="", budget_ms={})

    def save(self, path: Path | str) -> None:
        """Write the profile as JSON."""
        write_json(path, self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return the profile as plain values; without budgets they are not mentioned."""
        return {name: value for name, value in asdict(self).items() if name != "budget_ms" or value}

    @classmethod
    def load(cls, path: Path | str) -> LatencyProfile:
        """Read a profile.

        Raises:
            TableError: the file is missing or damaged.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
            names = {*_NUMBERS, "machine"}
            if not isinstance(value, dict) or set(value) - {"budget_ms"} != names:
                raise ValueError("its entries must be " + ", ".join(sorted(names)))
            numbers = {name: float(value[name]) for name in _NUMBERS}
            budgets = {str(int(name)): float(number) for name, number in dict(value.get("budget_ms", {})).items()}
            if not all(math.isfinite(number) and number >= 0 for number in [*numbers.values(), *budgets.values()]):
                raise ValueError("its numbers must be finite and >= 0")
        except (OSError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise TableError(
                f"latency profile {path} cannot be used ({reason}); delete it to measure again."
            ) from error
        return cls(**numbers, machine=str(value["machine"]), budget_ms=budgets)


_NUMBERS = tuple(entry.name for entry in fields(LatencyProfile) if entry.name not in ("machine", "budget_ms"))

"""SoundScenes, a small audio-visual world made on the spot, and the tiny pretrained models that know it."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
BASE = WEIGHTS / "base"
"""The demo's vision-language model, a `LlavaForConditionalGeneration` with its processor."""
ENCODER = WEIGHTS / "encoder"
"""The demo's audio encoder, a `ClapModel` with its feature extractor and tokenizer."""

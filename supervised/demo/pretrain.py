"""Make the demo's pretrained models from nothing: the tiny LLaVA, the tiny CLAP and the figures that they reach."""

from __future__ import annotations

from pathlib import Path

from supervised.demo.config import PretrainConfig
from supervised.demo.figures import Figures, measure
from supervised.demo.pretrain_base import pretrain_base
from supervised.demo.pretrain_encoder import pretrain_encoder
from supervised.demo.steps import Progress
from supervised.files import write_json


def pretrain(config: PretrainConfig, out_dir: Path, progress: Progress) -> Figures:
    """Train both models into `out_dir`/base and `out_dir`/encoder; write and return `out_dir`/figures.json."""
    pretrain_base(config.base, out_dir / "base", progress)
    pretrain_encoder(config.encoder, config.recordings, out_dir / "encoder", progress)
    progress("measuring on unseen scenes")
    figures = measure(out_dir, config.recordings, config.figure_questions, config.figure_clips)
    write_json(out_dir / "figures.json", figures)
    return figures

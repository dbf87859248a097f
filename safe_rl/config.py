"""Configuration of a run: one dataclass that every command of the pipeline reads; one YAML is one complete run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from agents.config import (
    CertifyConfig,
    CurriculumConfig,
    DistillConfig,
    ExactConfig,
    LagrangianConfig,
    PPOConfig,
    SmoothingConfig,
)
from envs.config import LARGEST_PRICE, OutcomesConfig, RewardConfig
from safe_rl.tuning.config import TuneConfig
from supervised.config import BridgeConfig, DataConfig, ModelConfig, check_choice
from supervised.demo.config import PretrainConfig
from supervised.diagnostics.config import EvaluateConfig
from supervised.errors import ConfigError
from supervised.stage_a.config import StageAConfig

LEARNED = {"ppo": "ppo_lagrangian", "exact": "exact_gradient"}
"""Agent -> name of its policies in the figures of a run."""


@dataclass(frozen=True)
class ParetoConfig:
    """The sweep over the price of latency that `pareto` draws."""

    alphas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)
    """Final alphas, one point of the curve each."""
    seeds: int = 3
    """Policies per alpha, with seeds 0, 1, ..."""
    workers: int = 2
    """Policies that train at once, each in a process and on a core of its own."""

    def __post_init__(self) -> None:
        if not self.alphas or any(alpha < 0 or not math.isfinite(alpha) for alpha in self.alphas):
            raise ConfigError(f"pareto.alphas must be numbers >= 0, got {list(self.alphas)}; use e.g. [0, 0.6, 2].")
        if max(self.alphas) > LARGEST_PRICE:
            raise ConfigError(
                f"pareto.alphas must be at most {LARGEST_PRICE:g}, got {max(self.alphas):g}; use e.g. [0, 0.6, 2]."
            )
        if len({f"{alpha:g}" for alpha in self.alphas}) < len(self.alphas):  # as the folders are named
            raise ConfigError(
                f"pareto.alphas must differ in six digits, got {list(self.alphas)}; leave the repeated ones out."
            )
        for name in ("seeds", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"pareto.{name} must be at least 1, got {getattr(self, name)}; use e.g. 2.")


@dataclass(frozen=True)
class RunConfig:
    """A complete run: what it learns from, how, and where its results go."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    stage_a: StageAConfig = field(default_factory=StageAConfig)
    outcomes: OutcomesConfig = field(default_factory=OutcomesConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    agent: Literal["ppo", "exact"] = "ppo"
    """Who learns: PPO under a Lagrangian, or the exact gradient of the expected reward under the same."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    exact: ExactConfig = field(default_factory=ExactConfig)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    lagrangian: LagrangianConfig = field(default_factory=LagrangianConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    pareto: ParetoConfig = field(default_factory=ParetoConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    certify: CertifyConfig = field(default_factory=CertifyConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    total_timesteps: int = 100_000
    """Questions that each policy is trained on, with repetition."""
    seeds: int = 5
    """Policies to train, with seeds 0, 1, ...; figures are means over them."""
    run_dir: str = "runs/demo"
    """Folder of the run; what is missing in it is built, what is there is reused."""
    table: str | None = None
    """Outcome table to learn from (format v1); null: that of the run, built when it is missing."""
    threads: int = 1
    """CPU threads of the model's passes; the demo's model is so small that more would wait for each other."""
    tracker: Literal["none", "tensorboard", "wandb"] = "tensorboard"
    """Where figures go beside metrics.jsonl; wandb: Weights & Biases, an extra package."""
    resume: bool = False
    """Go on with the run in run_dir, also with more seeds than it had."""

    def __post_init__(self) -> None:
        for name, example in (("total_timesteps", 100_000), ("seeds", 5), ("threads", 2)):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}; use e.g. {example}.")
        check_choice("tracker", self.tracker, ("none", "tensorboard", "wandb"))
        for name in ("run_dir", "table"):
            if getattr(self, name) == "":
                raise ConfigError(f"{name} is empty; give the path of a folder or leave it out.")


@dataclass(frozen=True)
class TuneRun(RunConfig):
    """A run, and which of the trials of its study to build again."""

    trial: int | None = None
    """Number of a trial to train again and compare with what is stored; null: run the study."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trial is not None and self.trial < 0:
            raise ConfigError(f"trial must be the number of a trial, got {self.trial}; leave it out to run the study.")


@dataclass(frozen=True)
class DescribeRun(RunConfig):
    """A run, and how its model is described."""

    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True)
class EvaluateRun(RunConfig):
    """A run, and how closely to look at its adapter."""

    diagnostics: bool = False
    """Also look inside: gate sweep, delta logits, CKA, attention, residual, alignment, monitors under stress."""


@dataclass(frozen=True)
class PretrainDemoConfig:
    """The making of the demo's tiny models."""

    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    out_dir: str = "runs/pretrain_demo"
    """Folder that the weights and their figures are written to."""

    def __post_init__(self) -> None:
        if not self.out_dir:
            raise ConfigError("out_dir is empty; give the path of a folder or leave it out.")


@dataclass(frozen=True)
class BridgeRun:
    """The making of a base from a language model and a vision encoder."""

    language_model: str = "microsoft/DialoGPT-small"
    """Causal language model: a folder, or a Hugging Face id."""
    vision_model: str = "openai/clip-vit-base-patch32"
    """CLIP or another vision transformer: a folder, or a Hugging Face id."""
    language_revision: str | None = None
    """Commit of the language model on the Hugging Face hub; None: the newest."""
    vision_revision: str | None = None
    """Commit of the vision encoder on the Hugging Face hub; None: the newest."""
    data: DataConfig = field(default_factory=DataConfig)
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    device: str = "cpu"
    """Where it is trained: cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """CPU threads of the model's passes."""
    run_dir: str = "runs/bridge"
    """Folder that the assembled base, the checkpoints and the trained base are written to."""
    resume: bool = False
    """Go on with the run in run_dir."""

    def __post_init__(self) -> None:
        for name in ("language_model", "vision_model"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; give a folder or a Hugging Face id, or leave it out.")
        if not self.run_dir:
            raise ConfigError("run_dir is empty; give the path of a folder or leave it out.")
        if self.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {self.threads}; use e.g. 2.")


FILES = {
    "train_bridge": (BridgeRun, "the making of a base", "configs/bases/small.yaml"),
    "pretrain_demo": (PretrainDemoConfig, "the making of the demo's models", None),
    "train_policy": (RunConfig, "a whole run", "configs/demo.yaml"),
}
"""Command -> keys of its YAML files, what they describe, and one that ships; `train_policy` and all that read a run."""

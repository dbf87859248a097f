"""Configuration of data, model and Stage A: plain frozen values, no heavy import, each refusing nonsense itself."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from supervised.errors import ConfigError


@dataclass(frozen=True)
class PreprocessConfig:
    """What is done to pictures and clips before a model gets them. Augmentation is for Stage A's questions only."""

    frames: int = 1
    """Frames of a video file that stand side by side in a question's picture: 1 to 3."""
    peak: bool = False
    """Scale every clip so that its largest sample is 1 (peak normalisation), in every split."""
    silence: bool = False
    """Every clip is silence of its length, in every split: the control that separates audio from further training."""
    gain_db: float = 0.0
    """Augmentation: louder or softer by up to so many decibels; 0: not at all."""
    noise_snr_db: float | None = None
    """Augmentation: white noise at this signal-to-noise ratio or up to 20 dB above it, in decibels; None: no noise."""
    shift_seconds: float = 0.0
    """Augmentation: rotate a clip by up to so many seconds either way; 0: not at all."""
    mask_seconds: float = 0.0
    """Augmentation: silence one stretch of up to so many seconds, at most half a clip; 0: none."""
    seed: int = 0
    """Seed of the augmentation, together with the epoch and the question's id."""

    def __post_init__(self) -> None:
        if self.frames not in (1, 2, 3):
            raise ConfigError(f"data.preprocess.frames must be 1, 2 or 3, got {self.frames}; use e.g. 1.")
        if self.seed < 0:
            raise ConfigError(f"data.preprocess.seed must not be below 0, got {self.seed}; use e.g. 0.")
        for name, most in (("gain_db", 40), ("shift_seconds", 600), ("mask_seconds", 600)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(
                    f"data.preprocess.{name} must lie between 0 and {most}, got {getattr(self, name)}; "
                    "use 0 to leave it out."
                )
        if self.noise_snr_db is not None and not -20 <= self.noise_snr_db <= 100:
            raise ConfigError(
                f"data.preprocess.noise_snr_db must lie between -20 and 100, got {self.noise_snr_db}; use e.g. 20, or "
                "null for no noise."
            )

    @property
    def augments(self) -> bool:
        """Whether clips of the adapter split are changed at random."""
        return self.gain_db > 0 or self.noise_snr_db is not None or self.shift_seconds > 0 or self.mask_seconds > 0


@dataclass(frozen=True)
class DataConfig:
    """Where questions come from: SoundScenes (synthetic or with real recordings), or a manifest."""

    manifest: str | None = None
    """JSONL manifest with all splits; None: SoundScenes is generated on the spot."""
    recordings: str | None = None
    """Folder of real recordings in the ESC-10 or ESC-50 layout for SoundScenes; None: its synthesiser."""
    test_fold: int = 5
    """Recordings: the fold of `test`; that of `calibration` is the one before it, in a circle; the rest is learned."""
    hold_out: int = 0
    """Manifest: retention questions that no training sees, nor others of their groups; they join `validation`."""
    on_error: Literal["stop", "skip"] = "stop"
    """A missing or damaged picture or clip: stop, or in Stage A leave the question out, or take its like, and count."""
    adapter: int = 6000
    """SoundScenes: questions that Stage A learns from."""
    train: int = 12000
    """SoundScenes: questions that the policy learns from."""
    validation: int = 4000
    """SoundScenes: questions for early stopping, thresholds and the retention buffer."""
    calibration: int = 8000
    """SoundScenes: questions kept for certificates."""
    test: int = 4000
    """SoundScenes: questions for the final figures."""
    retention_share: float = 0.55
    """SoundScenes: share of vl questions, which need no audio."""
    seed: int = 0
    """Seed of the generator."""
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)

    def __post_init__(self) -> None:
        if self.manifest is not None and self.recordings is not None:
            raise ConfigError("data.manifest and data.recordings are both given; give one of them.")
        if self.test_fold not in range(1, 6):
            raise ConfigError(f"data.test_fold must be one of the folds 1 to 5, got {self.test_fold}; use e.g. 5.")
        if self.test_fold != 5 and self.recordings is None:
            raise ConfigError(
                f"data.test_fold is {self.test_fold}, but only recordings have folds; "
                "give their folder as data.recordings, or leave data.test_fold at 5."
            )
        if self.hold_out < 0:
            raise ConfigError(f"data.hold_out must not be below 0, got {self.hold_out}; use e.g. 10000, or 0 for none.")
        check_choice("data.on_error", self.on_error, ("stop", "skip"))
        for name in ("adapter", "train", "validation", "calibration", "test"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} must be at least 1, got {getattr(self, name)}; use e.g. 2000.")
        if self.seed < 0:
            raise ConfigError(f"data.seed must not be below 0, got {self.seed}; use e.g. 0.")
        if not 0 < self.retention_share < 1:
            raise ConfigError(
                f"data.retention_share must lie between 0 and 1 (exclusive), got {self.retention_share}; use e.g. 0.55."
            )


def check_choice(name: str, given: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not among the `allowed` ones.

    Raises:
        ConfigError: names the setting `name`.
    """
    if given not in allowed:
        raise ConfigError(
            f"{name} must be {', '.join(allowed[:-1])} or {allowed[-1]}, got {given}; use e.g. {allowed[0]}."
        )


def check_whole(name: str, given: object) -> None:
    """Refuse what is no whole number, a text or True among others.

    Raises:
        ConfigError: names the setting `name`.
    """
    if not isinstance(given, int) or isinstance(given, bool):
        raise ConfigError(f"{name} must be a whole number, got {given!r}; use e.g. 4.")


def check_list(name: str, given: object, example: str) -> None:
    """Refuse what is no list, a text among others.

    Raises:
        ConfigError: names the setting `name`.
    """
    if not isinstance(given, (list, tuple)):
        raise ConfigError(f"{name} must be a list, got {given!r}; use e.g. {example}, or [].")


def check_budgets(name: str, budgets: tuple[int, ...]) -> None:
    """Refuse token budgets that do not rise from 1 or more.

    Raises:
        ConfigError: names the setting `name`.
    """
    if any(budget < 1 for budget in budgets) or list(budgets) != sorted(set(budgets)):
        raise ConfigError(f"{name} must be rising numbers >= 1, got {list(budgets)}; use e.g. [4, 8], or [] for none.")


@dataclass(frozen=True)
class ProjectorConfig:
    """From the audio encoder's tokens to a few tokens of the base's width."""

    kind: Literal["mlp", "adaptive", "resampler"] = "mlp"
    """mlp: k tokens; adaptive: up to k, as many as a clip needs; resampler: k latents that read the frames."""
    tokens: int = 8
    """Audio tokens a clip is told in: 4, 8, 12 or 16; at most, and any number up to 32, for adaptive."""
    layers: int = 2
    """Linear layers of the MLP, or cross-attention blocks of the resampler: 1 to 4."""
    hidden: int | None = None
    """Width of the MLP's hidden layers; None: the base's width."""
    bottleneck: int = 128
    """Width that the resampler works in."""
    heads: int = 4
    """Attention heads of the resampler; must divide its bottleneck."""

    def __post_init__(self) -> None:
        check_choice("projector.kind", self.kind, ("mlp", "adaptive", "resampler"))
        for name in ("tokens", "layers", "bottleneck", "heads", *(() if self.hidden is None else ("hidden",))):
            check_whole(f"projector.{name}", getattr(self, name))
        if self.kind == "adaptive":
            if not 1 <= self.tokens <= 32:
                raise ConfigError(f"projector.tokens must be 1 to 32 for adaptive, got {self.tokens}; use e.g. 32.")
        elif self.tokens not in (4, 8, 12, 16):
            raise ConfigError(f"projector.tokens must be 4, 8, 12 or 16, got {self.tokens}; use e.g. 8.")
        if not 1 <= self.layers <= 4:
            raise ConfigError(f"projector.layers must be 1 to 4, got {self.layers}; use e.g. 2.")
        if self.hidden is not None and self.hidden < 1:
            raise ConfigError(f"projector.hidden must be at least 1, got {self.hidden}; use e.g. 512, or leave it out.")
        if self.hidden is not None and (self.kind == "resampler" or self.layers == 1):
            where = "the resampler" if self.kind == "resampler" else "an MLP of one layer"
            raise ConfigError(f"projector.hidden is {self.hidden}, but {where} has no hidden layer; leave it out.")
        if self.kind == "resampler" and self.bottleneck == 1:
            raise ConfigError(
                "projector.bottleneck must be at least 2, got 1, and one normalised channel is always 0; use e.g. 128."
            )
        if self.heads < 1 or self.bottleneck < 1 or self.bottleneck % self.heads:
            raise ConfigError(
                f"projector.heads must divide projector.bottleneck, got {self.heads} and {self.bottleneck}; "
                "use e.g. 4 and 128."
            )

    def require(self, name: str, budgets: tuple[int, ...]) -> None:
        """Refuse token budgets that ask for more tokens than there are, or for a fixed number from the adaptive kind.

        Raises:
            ConfigError: names the setting `name`.
        """
        if budgets and self.kind == "adaptive":
            raise ConfigError(
                f"{name} is {list(budgets)}, but the adaptive projector chooses the number of tokens of each clip; "
                "leave the budgets out, or use model.projector.kind mlp or resampler."
            )
        if budgets and max(budgets) > self.tokens:
            raise ConfigError(
                f"{name} has a budget of {max(budgets)} audio tokens, but model.projector.tokens is {self.tokens}; "
                f"use budgets up to {self.tokens}, or an adapter with more tokens (at most 16)."
            )


def _check_layers(layers: tuple[int, ...]) -> None:
    """Refuse layers of the fusion that are no rising whole numbers."""
    check_list("fusion.layers", layers, "[0, 8, 16]")
    for layer in layers:
        check_whole("fusion.layers", layer)
    if any(layer < 0 for layer in layers) or list(layers) != sorted(set(layers)):
        raise ConfigError(
            f"fusion.layers must be rising numbers >= 0, got {list(layers)}; "
            "use e.g. [0, 8, 16], or [] for the merged embeddings."
        )


@dataclass(frozen=True)
class FusionConfig:
    """Cross-attention from the prompt's embeddings to the audio tokens."""

    kind: Literal["lora", "cross_attention", "block", "gated"] = "gated"
    """lora; cross_attention: all projections trained; block: with a feed-forward; gated: lora, a gate per question."""
    layers: tuple[int, ...] = ()
    """Layers of the text stack whose input hears, the first is 0, e.g. [0, 8, 16]; []: only the merged embeddings."""
    heads: int = 4
    """Attention heads; must divide the base's embedding width."""
    query_norm: bool = True
    """LayerNorm on the query; without it the embeddings are only divided by the base's embedding RMS."""
    residual_scale: float = 0.05
    """Size of the residual at first, in units of the base's embedding RMS (with layers: of the position's own RMS)."""
    residual: Literal["fixed", "learned", "per_layer"] = "learned"
    """Size of the residual: fixed as it is, learned (one for all layers), or learned for each layer on its own."""
    lora_rank: int = 8
    """Rank of the LoRA matrices on the query and value projections (lora and gated)."""
    lora_alpha: float = 16
    """LoRA's scale is alpha / rank."""
    rms_match: bool = True
    """Cap what a position takes over at the size of the base's own states; false: no cap (an ablation)."""
    dropout: float = 0.0
    """Share of the residual's numbers that are dropped in training; 0: none."""
    scope: Literal["prompt", "suffix"] = "prompt"
    """Positions that hear: prompt, all but the answer; suffix, those after the last picture (its cache can be kept)."""
    injection: Literal["residual", "tokens"] = "residual"
    """How audio enters: residual, by fusion; tokens, as words after the picture, without fusion (a baseline)."""

    def __post_init__(self) -> None:
        check_choice("fusion.kind", self.kind, ("lora", "cross_attention", "block", "gated"))
        check_choice("fusion.residual", self.residual, ("learned", "per_layer", "fixed"))
        _check_layers(self.layers)
        for name in ("heads", "lora_rank"):
            check_whole(f"fusion.{name}", getattr(self, name))
            if getattr(self, name) < 1:
                raise ConfigError(f"fusion.{name} must be at least 1, got {getattr(self, name)}; use e.g. 4.")
        for name in ("residual_scale", "lora_alpha"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):  # at 0 the rest of the adapter would have no gradient
                raise ConfigError(f"fusion.{name} must be above 0 and finite, got {value}; use e.g. 0.05.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"fusion.dropout must be at least 0 and below 1, got {self.dropout}; use e.g. 0.1.")
        check_choice("fusion.scope", self.scope, ("prompt", "suffix"))
        if self.injection not in ("residual", "tokens"):
            raise ConfigError(f"fusion.injection must be residual or tokens, got {self.injection}; use e.g. residual.")
        if self.injection == "tokens":
            _check_no_fusion(self)

    @property
    def low_rank(self) -> bool:
        """Whether queries and values are learned as LoRA."""
        return self.kind in ("lora", "gated")


FUSING = tuple(each.name for each in fields(FusionConfig) if each.name not in ("scope", "injection"))
"""Settings of the fusion that inserted tokens have no use for; `scope` does not hurt them."""


def _check_no_fusion(config: FusionConfig) -> None:
    """Refuse settings of the fusion beside inserted tokens, which pass none; where they may enter is no matter."""
    given = {each.name: (getattr(config, each.name), each.default) for each in fields(config) if each.name in FUSING}
    given["layers"] = (list(config.layers), [])
    set_in_vain = [f"fusion.{name} is {value}" for name, (value, default) in given.items() if value != default]
    if set_in_vain:
        raise ConfigError(
            f"{', '.join(set_in_vain)}, but inserted tokens pass no fusion; leave it at its default, or use "
            "fusion.injection residual."
        )


@dataclass(frozen=True)
class ModelConfig:
    """A frozen base, a frozen audio encoder and the adapter between them."""

    base: str = "demo"
    """Vision-language model: a folder, a Hugging Face id, or demo (ships with the package)."""
    base_revision: str | None = None
    """Commit of the base on the Hugging Face hub; None: the newest."""
    trust_remote_code: bool = False
    """Run Python code that lies beside the base. WARNING: it can do all that you can; read it, and pin its commit."""
    prompt: str | None = None
    """Plain prompt with {} for the question; None: the base's chat template, or "Question: {} Answer:" without one."""
    encoder: str = "demo"
    """Audio encoder, CLAP or Whisper: a folder, a Hugging Face id, a .pt file of LAION, or demo (in the package)."""
    encoder_revision: str | None = None
    """Commit of the encoder on the Hugging Face hub; None: the newest."""
    more_encoders: tuple[str, ...] = ()
    """Encoders that hear beside the first, e.g. [openai/whisper-small], or id@commit; their tokens are joined."""
    feature_cache: str | None = None
    """Folder that keeps what the encoders heard, for later runs; None: nothing is kept."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numbers that the base computes in; auto: those of its checkpoint. The adapter always computes in float32."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, ..."""
    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)

    def __post_init__(self) -> None:
        for name in ("base", "encoder"):
            if not getattr(self, name):
                raise ConfigError(f"model.{name} is empty; give a folder, a Hugging Face id, or demo.")
        check_list("model.more_encoders", self.more_encoders, "[openai/whisper-small]")
        if self.trust_remote_code not in (True, False):  # a text would count as yes
            raise ConfigError(
                f"model.trust_remote_code must be true or false, got {self.trust_remote_code!r}; use e.g. false."
            )
        for source in self.more_encoders:
            if not source:
                raise ConfigError("model.more_encoders has an empty name; give folders or Hugging Face ids, or [].")
        if self.feature_cache == "":
            raise ConfigError("model.feature_cache is empty; give a folder, or leave it out.")
        if self.prompt is not None and self.prompt.count("{}") != 1:
            raise ConfigError(
                f"model.prompt must contain {{}} once, for the question, got {self.prompt!r}; "
                'use e.g. "Question: {} Answer:", or leave it out.'
            )
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"model.dtype must be auto, float32 or bfloat16, got {self.dtype}; use e.g. auto.")


@dataclass(frozen=True)
class BridgeConfig:
    """Training of the projector of an assembled base, the only part of it that has never seen a picture."""

    steps: int = 2000
    """Optimiser steps."""
    batch_size: int = 16
    """Questions per step."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decay of the projector's matrices."""
    warmup_steps: int = 60
    """Steps in which the learning rate rises from 0; afterwards it follows a cosine to 0."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    checkpoint_every: int = 200
    """Steps between two checkpoints; the only value that may change when a run goes on."""
    seed: int = 0
    """Seed of the projector, of the new embeddings and of the order of the questions."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"bridge.{name} must be at least 1, got {getattr(self, name)}; use e.g. 100.")
        for name in ("warmup_steps", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"bridge.{name} must not be below 0, got {getattr(self, name)}; use e.g. 0.")
        for name in ("lr", "clip_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(
                    f"bridge.{name} must be above 0 and finite, got {getattr(self, name)}; use e.g. 1e-3."
                )
        if not 0 <= self.weight_decay < float("inf"):
            raise ConfigError(
                f"bridge.weight_decay must be at least 0 and finite, got {self.weight_decay}; use e.g. 0."
            )

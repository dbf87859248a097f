"""Both passes of the model over a batch of questions: features, answers, scores and latencies of every action.

The table build and the live source run this same code, so that they agree. The picture's features are computed once
and shared; USE pays for the audio and for a second pass over the same prompt, or over the question alone where the
picture's key-value cache can be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.actions import Action, action_names, action_tokens
from envs.config import OutcomesConfig
from envs.cost import LatencyProfile
from envs.features import (
    answer_lengths,
    as_stored,
    confidence_features,
    image_features,
    question_features,
)
from envs.preview import mel_preview
from supervised.answers import score_sample
from supervised.data.media import read_image, read_waveform
from supervised.data.sample import Sample, Waveform
from supervised.errors import DataError

if TYPE_CHECKING:
    from supervised.encoders.features import AudioFeatures
    from supervised.prefix import Prefix
    from supervised.safe_model import SafeModel


@dataclass
class BasePass:
    """What the plain base says to a batch, and what a decision may read."""

    samples: list[Sample]
    """With their media in memory."""
    inputs: Any
    images: Any
    features: dict[str, np.ndarray]
    """In the type they are stored in, [B, D] each."""
    answers: list[str]
    score: np.ndarray
    """float32 [B]."""
    prompt_tokens: np.ndarray
    """int64 [B]."""
    new_tokens: np.ndarray
    """int64 [B]."""
    latency_ms: np.ndarray
    """float32 [B]."""
    prefix: Prefix | None = None
    """The pictures' key-value cache for the passes with audio; None: these read the whole prompts."""


@dataclass
class UsePass:
    """What base and adapter say to the same batch, under one of the paying actions."""

    answers: list[str]
    score: np.ndarray
    latency_ms: np.ndarray


class Passes:
    """Runs a model over batches of samples under one configuration and one latency profile.

    Raises:
        ConfigError: a budget asks for more audio tokens than the adapter makes.
    """

    def __init__(self, model: SafeModel, config: OutcomesConfig, profile: LatencyProfile) -> None:
        self.model, self.config, self.profile = model, config, profile
        self.rate: int = model.encoder.rate
        # A router decides before the base pass, so that nothing of that pass can be kept.
        self.keeps_prefix = config.cost_mode == "cascade" and model.prefix_obstacle is None
        model.config.projector.require("outcomes.budgets", config.budgets)
        self.actions = action_names(config.budgets)
        self.tokens = action_tokens(config.budgets, model.config.projector.tokens)

    def load(self, sample: Sample, clips: dict[object, tuple[object, Waveform]] | None = None) -> Sample:
        """Return the sample with its picture and clip in memory, the clip at the encoder's rate.

        Args:
            sample: Any sample.
            clips: Clips read before: path or object id -> (the source, kept alive for its id, and the clip).

        Raises:
            DataError: the picture or the clip cannot be read, or the question cannot be asked; the message names the
                sample.
        """
        from supervised.prompts import write_prompt

        try:
            image = None if sample.image is None else read_image(sample.image)
            audio = None
            if sample.audio is not None:
                key = sample.audio if not isinstance(sample.audio, Waveform) else id(sample.audio)
                known = (clips or {}).get(key)
                audio = known[1] if known else read_waveform(sample.audio, self.rate)
                if clips is not None:
                    clips[key] = (sample.audio, audio)
        except DataError as error:
            raise DataError(f"sample {sample.id!r}: {error}") from error
        loaded = replace(sample, image=image, audio=audio)
        write_prompt(self.model.processor, loaded, self.model.config.prompt)  # before it is one of a batch
        return loaded

    def encode(self, samples: Sequence[Sample], known: dict[int, AudioFeatures] | None = None) -> AudioFeatures:
        """Return the audio features of loaded samples; a clip object that is met again is not encoded again."""
        known = {} if known is None else known
        new = {id(sample.audio): sample.audio for sample in samples if id(sample.audio) not in known}
        if new:
            features = self.model.encode_audio(list(new.values()))
            known.update((key, features.rows([row])) for row, key in enumerate(new))
        rows = [known[id(sample.audio)] for sample in samples]
        return rows[0].concatenate(rows)

    def base(self, samples: Sequence[Sample], audio: AudioFeatures | None = None) -> BasePass:
        """Run the plain base over loaded samples.

        Args:
            samples: The batch, of one prompt length where it matters to avoid padding.
            audio: Needed for `preview: clap` only.
        """
        from supervised.base import forced_start
        from supervised.diagnostics.observing import states_of

        config = self.config
        inputs = self.model.inputs(samples)
        images = self.model.encode_images(inputs)
        output = self.model.generate(
            inputs, images=images, max_new_tokens=config.max_new_tokens, output_hidden_states=True
        )
        answers = self.model.decode(output, inputs)
        tokens = self._tokens(output, inputs)  # [B, T]
        lengths = answer_lengths(tokens, self._end_ids())
        states = states_of(output)  # of the prompt, wherever it is read
        hidden = states[-1]  # [B, L, D]
        router = config.cost_mode == "router"
        features = {
            "question": question_features(self.model, inputs, None if router else hidden),
            "image": image_features(
                self.model,
                inputs,
                getattr(images, "pooler_output", None),
                states[0] if router else hidden,  # before the first layer: no pass is needed for it
                [sample.image is not None for sample in samples],
            ),
            "audio_preview": self._previews(samples, audio),
        }
        if not router:
            # A first token that the settings put before every answer was not chosen, so nothing is sure of it.
            given = int(len(output.logits) > 1 and forced_start(self.model.base) is not None)
            features["confidence"] = confidence_features(output.logits[given:], tokens[:, given:], lengths - given)
        prompt = inputs["attention_mask"].sum(dim=1).cpu().numpy()
        return BasePass(
            samples=list(samples),
            inputs=inputs,
            images=images,
            features={name: as_stored(values, config.feature_dtype) for name, values in features.items()},
            answers=answers,
            score=_scores(answers, samples),
            prompt_tokens=prompt,
            new_tokens=lengths,
            latency_ms=self._latency(samples, prompt, [lengths], Action.SKIP),
            prefix=self.model.keep_prefix(inputs, output) if self.keeps_prefix else None,
        )

    def uses(self, base: BasePass, audio: AudioFeatures) -> list[UsePass]:
        """Run every paying action over the batch of a base pass; the clips are projected once for all of them."""
        if self.config.budgets:
            audio = self.model.project(audio)
        return [self.use(base, audio, action) for action in range(Action.USE, len(self.actions))]

    def use(self, base: BasePass, audio: AudioFeatures, action: int = Action.USE) -> UsePass:
        """Run base and adapter over the batch of a base pass, with the picture's features or its cache of that pass.

        Args:
            base: The base pass.
            audio: What the encoder heard.
            action: USE, or USE with another token budget.
        """
        budget = self.tokens[action] if self.config.budgets else None
        output = self.model.generate(
            base.inputs,
            audio=audio,
            images=base.images,
            max_new_tokens=self.config.max_new_tokens,
            budget=budget,
            prefix=base.prefix,
        )
        answers = self.model.decode(output, base.inputs)
        lengths = answer_lengths(self._tokens(output, base.inputs), self._end_ids())
        return UsePass(
            answers,
            _scores(answers, base.samples),
            self._latency(base.samples, base.prompt_tokens, [base.new_tokens, lengths], Action.USE, budget),
        )

    @property
    def _bands(self) -> int:
        return self.config.preview_bands

    def _previews(self, samples: Sequence[Sample], audio: AudioFeatures | None) -> np.ndarray:
        if self.config.preview == "mel":
            return np.stack([mel_preview(_clip(sample), self._bands) for sample in samples])
        audio = self.encode(samples) if audio is None else audio
        return np.asarray(audio.embedding.float().cpu().numpy(), dtype=np.float32)

    def _latency(
        self,
        samples: Sequence[Sample],
        prompt: np.ndarray,
        new_tokens: Sequence[np.ndarray],
        action: Action,
        budget: int | None = None,
    ) -> np.ndarray:
        values = []
        for row, sample in enumerate(samples):
            clip = _clip(sample)
            values.append(
                self.profile.latency_ms(
                    None if clip is None else clip.seconds,
                    int(prompt[row]),
                    [int(tokens[row]) for tokens in new_tokens],
                    action,
                    self.config.cost_mode,
                    self.config.preview,
                    budget,
                )
            )
        return np.array(values, dtype=np.float32)

    def _tokens(self, output: Any, inputs: Any) -> Any:
        """Return what was said, int64 [B, T], without the prompt."""
        from supervised.base import has_encoder
        from supervised.prompts import answer_tokens

        return answer_tokens(output.sequences, inputs, has_encoder(self.model.base))

    def _end_ids(self) -> list[int]:
        from supervised.base import end_ids

        return end_ids(self.model.base)


def _clip(sample: Sample) -> Waveform | None:
    assert sample.audio is None or isinstance(sample.audio, Waveform)  # `load` has read it
    return sample.audio


def _scores(answers: Sequence[str], samples: Sequence[Sample]) -> np.ndarray:
    return np.array([score_sample(a, sample) for a, sample in zip(answers, samples, strict=True)], dtype=np.float32)

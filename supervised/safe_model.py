"""A frozen vision-language model that can hear: questions, pictures and clips in, answers out.

    model = SafeModel.attach(ModelConfig())
    inputs = model.inputs(samples)                                # prompts and pictures
    audio = model.encode_audio([sample.audio for sample in samples])
    images = model.encode_images(inputs)                          # once for both passes
    plain = model.generate(inputs, images=images)                 # exactly the base
    heard = model.generate(inputs, audio, images=images)          # the base with audio
    answers = model.decode(heard, inputs)

With `fusion.scope` suffix the pass with audio need not read the picture again:

    prefix = model.keep_prefix(inputs, plain)
    heard = model.generate(inputs, audio, prefix=prefix)

Without audio, or with the gate at 0, nothing of ours runs. One call per thread at a time; several threads may share
a model. Bases that keep state on their modules between prefill and decoding (Qwen's rope_deltas) serve one call after
the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from supervised.adapter import Adapter
from supervised.adapter_files import Fit
from supervised.base import has_encoder, one_at_a_time, refuse_compiled, resolve_stack, weights_sha256
from supervised.call import Asked, Call, Calls
from supervised.config import ModelConfig
from supervised.data.media import read_waveform
from supervised.data.sample import Sample, Waveform
from supervised.encoders.cache import FeatureCache
from supervised.encoders.features import AudioEncoder, AudioFeatures
from supervised.errors import DataError, ModelError
from supervised.hub import push_adapter
from supervised.obstacles import prefix_obstacle
from supervised.parts import load_parts, new_adapter
from supervised.prefix import Prefix, keep_prefix
from supervised.pretrained import read_saved, write_saved
from supervised.prompts import read_answers, write_inputs


class SafeModel:
    """Base, processor, audio encoder and adapter; only the adapter can be trained."""

    def __init__(
        self, base: Any, processor: Any, encoder: AudioEncoder, adapter: Adapter, config: ModelConfig, fit: Fit
    ) -> None:
        """Join parts that fit each other; use `attach` or `from_pretrained`."""
        self.base = base
        self.processor = processor
        self.encoder = encoder
        self.adapter = adapter.eval()  # training mode, with its dropout, is for a training step alone
        self.config = config
        self.fit = fit
        self.stack = resolve_stack(base)
        refuse_compiled(base)
        self._cache = None if config.feature_cache is None else FeatureCache(config.feature_cache)
        self._calls = Calls(base, config.fusion)

    @classmethod
    def attach(cls, config: ModelConfig) -> SafeModel:
        """Load base and encoder and put a new adapter between them.

        Raises:
            ModelError: one of them cannot be loaded, or audio cannot enter this base.
        """
        base, processor, encoder, fit = load_parts(config)
        return cls(base, processor, encoder, new_adapter(config, fit, base), config, fit)

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        base: str | None = None,
        encoder: str | None = None,
        device: str | None = None,
        more_encoders: Sequence[str] | None = None,
        feature_cache: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        base_revision: str | None = None,
    ) -> SafeModel:
        """Load a saved adapter with the base and the encoder that it names.

        Args:
            folder: written by `save_pretrained`, or owner/name on the Hugging Face hub.
            base: where the base lies now, at its newest revision; None: where it was, at the revision that it had.
            encoder: where the encoder lies now, likewise.
            device: where the model runs now; None: where it did.
            more_encoders: where the further encoders lie now; None: where they were.
            feature_cache: folder that keeps what the encoders heard; None: nothing is kept.
            revision: commit of the adapter on the hub; None: the newest.
            trust_remote_code: run Python code that lies beside `base`, which must be given: no adapter can ask for it.
            base_revision: commit of `base` on the hub; None: as said above, with trust_remote_code the newest.

        Raises:
            CheckpointError: the adapter is missing, damaged or of another version, or cannot be downloaded.
            ConfigError: a revision for a folder, or trust_remote_code without a base.
            ModelError: base or encoder are not those the adapter was trained on.
        """
        places = (base, encoder, more_encoders, device, feature_cache)
        return cls(*read_saved(folder, revision, *places, trust_remote_code, base_revision))

    def save_pretrained(
        self, folder: Path | str, metrics: Mapping[str, Any] | Path | str | None = None, licence: str | None = None
    ) -> None:
        """Write the adapter, its configuration, the identity of base and encoder, not their weights, and a model card.

        Args:
            folder: where to; an adapter that it holds is replaced.
            metrics: what the card says of the adapter: figures by name, or the path of a run's metrics.json; None: it
                says that nothing was measured.
            licence: of the adapter, as the hub calls it, e.g. apache-2.0; None: the card says that none was chosen.

        Raises:
            CheckpointError: a weight is NaN or infinite; such an adapter could not be loaded again.
            DataError: `metrics` is a file that cannot be read.
        """
        write_saved(folder, self.adapter, self.config, self.fit, metrics, licence)

    def push_to_hub(
        self,
        repository: str,
        metrics: Mapping[str, Any] | Path | str | None = None,
        licence: str | None = None,
        private: bool = True,
    ) -> str:
        """Upload what `save_pretrained` writes to owner/name on the Hugging Face hub; return the commit.

        Raises:
            CheckpointError: a weight is NaN or infinite, or the hub refuses the upload or cannot be reached.
            ConfigError: `repository` is not of the form owner/name.
            DataError: `metrics` is a file that cannot be read.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, metrics, licence)
            return push_adapter(folder, repository, private)

    @property
    def device(self) -> torch.device:
        """Where the base runs."""
        return torch.device(self.base.device)

    def fingerprint(self) -> dict[str, Any]:
        """Return hashes of base, encoder and adapter, and the configuration: what decides about every answer."""
        return {
            "base": self.fit.base_sha256,
            "encoder": self.fit.encoder_sha256,
            "adapter": weights_sha256(self.adapter),
            "config": {
                name: value
                for name, value in asdict(self.config).items()
                if name != "feature_cache" and (value or name != "trust_remote_code")  # not trusted: as ever
            },
        }

    def inputs(self, samples: Sequence[Sample]) -> Any:
        """Return left-padded prompts (B, L) and pictures, as the base takes them: one turn of image and question.

        Raises:
            DataError: no sample, an unreadable picture, a question that contains a special token of the base, or
                samples that its processor or chat template refuses.
        """
        batch = write_inputs(self.processor, samples, self.config.prompt)
        return batch.to(self.device, dtype=self.base.dtype)  # the dtype is for pictures; ids stay integers

    def encode_audio(self, waveforms: Sequence[Path | Waveform | None], keep: bool = True) -> AudioFeatures:
        """Return what the frozen encoder hears, a row per clip; None gives a row without audio.

        Args:
            waveforms: files or clips in memory.
            keep: use the feature cache, where there is one; not for clips that will not be heard again.

        Raises:
            DataError: a clip cannot be used, or `waveforms` is one clip and no list.
        """
        if isinstance(waveforms, (str, Path, Waveform)):
            raise DataError("one clip was given where a list of clips belongs, a clip per question; write [clip].")
        clips = [None if clip is None else read_waveform(clip, self.encoder.rate) for clip in waveforms]
        return self._cache.encode(self.encoder, clips) if keep and self._cache is not None else self.encoder(clips)

    def encode_images(self, inputs: Mapping[str, Any]) -> Any:
        """Return the pictures of `inputs` encoded for several passes, or None: no picture, or nothing to share."""
        return self._calls.pictures.encode(inputs)

    @property
    def prefix_obstacle(self) -> str | None:
        """Return why `keep_prefix` is refused, or None: it is not."""
        return prefix_obstacle(self.base, self.config.fusion)

    def keep_prefix(self, inputs: Mapping[str, Any], output: Any, images: Any = None) -> Prefix | None:
        """Return the pictures' keys and values of a plain pass, so that the pass with audio reads the questions only.

        Args:
            inputs: what `generate` was given, without audio.
            output: what it returned.
            images: from `encode_images`; needed where `inputs` has no pixels, as it alone tells the pictures then.

        Returns:
            A prefix for `generate` with the same prompts and pictures, or None: no prompt has a picture.

        Raises:
            ModelError: this base, or the configuration of the fusion, does not allow it; see `prefix_obstacle`. Or
                the output has no cache, or belongs to other inputs.
        """
        if (reason := self.prefix_obstacle) is not None:
            raise ModelError(f"base {type(self.base).__name__} cannot keep a prefix: {reason}.")
        return keep_prefix(inputs, output, self._calls.pictures.ends(inputs["input_ids"]), images)

    @torch.no_grad()
    def project(self, audio: AudioFeatures) -> AudioFeatures:
        """Return `audio` with all k audio tokens made, for passes with several budgets."""
        audio = audio.to(self.device)
        return replace(audio, spoken=self.adapter.spoken(audio))

    @torch.compiler.disable  # compiled without audio, the passes inside would not see it later
    def forward(
        self,
        inputs: Mapping[str, Any],
        audio: AudioFeatures | None = None,
        gate: float = 1.0,
        prompt_mask: Tensor | None = None,
        images: Any = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool = False,
        budget: int | None = None,
    ) -> Any:
        """Run the base once over whole sequences; gradients reach the adapter only.

        Args:
            inputs: from `inputs`, with answers appended for training; `labels` (-100 on the prompt) give a loss.
            audio: a row per row of `inputs`, or None.
            gate: in [0, 1]; 0 is the base, bit for bit.
            prompt_mask: bool (B, L), True where the prompt is; None: where `labels` are -100, or everywhere.
            images: from `encode_images`, instead of the pixels.
            logits_to_keep: as in transformers: 0 for all positions, n for the last n, or their indices.
            output_hidden_states: also return the hidden states of all layers.
            budget: audio tokens to attend to, the first of those that the projector makes; None: all of them.

        Raises:
            ConfigError: the gate is outside [0, 1], or the budget above the number of tokens.
            ModelError: `audio` or `prompt_mask` have another shape than `inputs`.
        """
        # The labels of an encoder-decoder belong to its decoder; its `inputs` hold the prompt alone.
        if prompt_mask is None and inputs.get("labels") is not None and not has_encoder(self.base):
            prompt_mask = inputs["labels"] == -100
        call = self._call(inputs, Asked(audio, gate, prompt_mask, budget), images)
        keep = call.keep(logits_to_keep)
        if isinstance(keep, Tensor) or keep != 0:
            call.arguments["logits_to_keep"] = keep
        if output_hidden_states:
            call.arguments["output_hidden_states"] = True
        with one_at_a_time(self.base), call.hearing(self.stack):
            return call.forwarded(self.base(**call.arguments), logits_to_keep)

    @torch.compiler.disable
    @torch.no_grad()
    def generate(
        self,
        inputs: Mapping[str, Any],
        audio: AudioFeatures | None = None,
        gate: float = 1.0,
        images: Any = None,
        max_new_tokens: int = 8,
        num_beams: int = 1,
        use_cache: bool = True,
        output_hidden_states: bool = False,
        budget: int | None = None,
        prefix: Prefix | None = None,
    ) -> Any:
        """Answer greedily, or with beams; sampling is off whatever the base's own generation settings say.

        Arguments as of `forward` and of transformers' `generate`; `prefix` comes from `keep_prefix`. Without audio, or
        with the gate at 0, a prefix is passed over: the answer is that of the whole base, bit for bit.

        Returns:
            transformers' `GenerateDecoderOnlyOutput`: `sequences` (B, L + n), `logits` (a tuple of n tensors (B, V),
            before any processing) and, if asked for, `hidden_states` (first step: the whole prompt). Of an
            encoder-decoder its `GenerateEncoderDecoderOutput`: `sequences` (B, n) without the prompt.

        Raises:
            ConfigError: the gate is outside [0, 1], the budget above the number of tokens, or no token or beam wanted.
            ModelError: `audio` has another number of rows than `inputs`; `prefix` is of other prompts or pictures, or
                cannot tell the hidden states that are asked for.
        """
        asked = Asked(audio, gate, None, budget, prefix)
        if prefix is not None and not (use_cache and not output_hidden_states):
            raise ModelError("a kept prefix needs use_cache and tells no hidden states; leave one of them out.")
        with one_at_a_time(self.base):
            call = self._call(inputs, asked, images)
            settings = call.settings(self.base, max_new_tokens, num_beams, use_cache, output_hidden_states)
            with call.hearing(self.stack):
                output = self.base.generate(**call.arguments, generation_config=settings)
        return call.answered(output, inputs["input_ids"])

    def decode(self, output: Any, inputs: Mapping[str, Any]) -> list[str]:
        """Return the answers in an output of `generate`, without special tokens and outer blanks."""
        return read_answers(self.processor.tokenizer, output.sequences, inputs, has_encoder(self.base))

    def _call(self, inputs: Mapping[str, Any], asked: Asked, images: Any) -> Call:
        """Return a call of the base, prepared; every bad wish is refused here."""
        asked.check(inputs, images, self.config.projector.tokens)
        refuse_compiled(self.base)
        return self._calls.prepare(inputs, self.adapter, asked, images)

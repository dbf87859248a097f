"""A frozen vision-language model that can hear: questions, pictures and clips in, answers out.

    model = SafeModel.attach(ModelConfig())
    inputs = model.inputs(samples)                                # prompts and pictures
    audio = model.encode_audio([sample.audio for sample in samples])
    images = model.encode_images(inputs)                          # once for both passes
    plain = model.generate(inputs, images=images)                 # exactly the base
    heard = model.generate(inputs, audio, images=images)          # the base with audio
    answers = model.decode(heard, inputs)

Without audio, or with the gate at 0, nothing of ours runs. One call per thread at a time; several threads may share
a model. Bases that keep state on their modules between prefill and decoding (Qwen's rope_deltas) allow one thread.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supervised.adapter import Adapter
from supervised.adapter_files import Fit, check_fit, load_weights, read_adapter, save_adapter
from supervised.base import embedding_mean, embedding_rms, embedding_width, load_base, resolve_stack, weights_sha256
from supervised.config import ModelConfig
from supervised.data.media import read_image, read_waveform
from supervised.data.sample import Sample, Waveform
from supervised.encoder import AudioFeatures, ClapEncoder
from supervised.errors import ConfigError, DataError, ModelError
from supervised.injection import hearing, probe


class SafeModel:
    """Base, processor, audio encoder and adapter; only the adapter can be trained."""

    def __init__(
        self, base: Any, processor: Any, encoder: ClapEncoder, adapter: Adapter, config: ModelConfig, fit: Fit
    ) -> None:
        """Join parts that fit each other; use `attach` or `from_pretrained`."""
        self.base = base
        self.processor = processor
        self.encoder = encoder
        self.adapter = adapter
        self.config = config
        self.fit = fit
        self.stack = resolve_stack(base)
        # transformers >= 5.18 takes encoded pictures, so that two passes can share them; None: it cannot.
        self._image_arguments: frozenset[str] | None = None
        if "mm_encoder_outputs" in inspect.signature(base.forward).parameters:
            arguments = inspect.signature(base.base_model.get_image_features).parameters
            self._image_arguments = frozenset(arguments) - {"kwargs"}

    @classmethod
    def attach(cls, config: ModelConfig) -> SafeModel:
        """Load base and encoder and put a new adapter between them.

        Raises:
            ModelError: one of them cannot be loaded, or audio cannot enter this base.
        """
        base, processor, encoder, fit = _load_parts(config)
        return cls(base, processor, encoder, _new_adapter(config, fit, base), config, fit)

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        base: str | None = None,
        encoder: str | None = None,
        device: str | None = None,
    ) -> SafeModel:
        """Load a saved adapter with the base and the encoder that it names.

        Args:
            folder: written by `save_pretrained`.
            base: where the base lies now; None: where it was.
            encoder: where the encoder lies now; None: where it was.
            device: where the model runs now; None: where it did.

        Raises:
            CheckpointError: the adapter is missing, damaged or of another version.
            ModelError: base or encoder are not those the adapter was trained on.
        """
        config, saved, tensors = read_adapter(folder)
        config = replace(
            config, base=base or config.base, encoder=encoder or config.encoder, device=device or config.device
        )
        model, processor, ears, found = _load_parts(config)
        check_fit(saved, found)
        adapter = _new_adapter(config, saved, model)
        load_weights(adapter, tensors)
        return cls(model, processor, ears, adapter, config, saved)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the adapter, its configuration and the identity of base and encoder; not their weights."""
        save_adapter(folder, self.adapter, self.config, self.fit)

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
            "config": asdict(self.config),
        }

    def inputs(self, samples: Sequence[Sample]) -> Any:
        """Return left-padded prompts (B, L) and pictures, as the base takes them: one turn of image and question.

        Raises:
            DataError: no sample, an unreadable picture, or a question that contains a special token of the base.
        """
        if not samples:
            raise DataError("no sample was given; give at least one.")
        texts = [self._prompt(sample) for sample in samples]
        images = [read_image(sample.image) for sample in samples if sample.image is not None]
        start = self.processor.tokenizer.bos_token
        batch = self.processor(
            text=texts,
            images=images or None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not (start and texts[0].startswith(start)),  # some templates write it themselves
        )
        return batch.to(self.device, dtype=self.base.dtype)  # the dtype is for pictures; ids stay integers

    def encode_audio(self, waveforms: Sequence[Path | Waveform | None]) -> AudioFeatures:
        """Return what the frozen encoder hears, a row per clip; None gives a row without audio.

        Raises:
            DataError: a clip cannot be used.
        """
        clips = [None if clip is None else read_waveform(clip, self.encoder.rate) for clip in waveforms]
        features: AudioFeatures = self.encoder(clips)
        return features

    @torch.no_grad()
    def encode_images(self, inputs: Mapping[str, Any]) -> Any:
        """Return the pictures of `inputs` encoded for several passes, or None: no picture, or nothing to share."""
        if self._image_arguments is None or inputs.get("pixel_values") is None:
            return None
        arguments = {name: value for name, value in inputs.items() if name in self._image_arguments}
        return self.base.base_model.get_image_features(**arguments, return_dict=True)

    @torch.no_grad()
    def project(self, audio: AudioFeatures) -> AudioFeatures:
        """Return `audio` with all k audio tokens made, for passes with several budgets."""
        audio = audio.to(self.device)
        return replace(audio, spoken=self.adapter.spoken(audio))

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
        arguments = self._arguments(inputs, images)
        if isinstance(logits_to_keep, Tensor) or logits_to_keep != 0:
            arguments["logits_to_keep"] = logits_to_keep
        if output_hidden_states:
            arguments["output_hidden_states"] = True
        if prompt_mask is None and inputs.get("labels") is not None:
            prompt_mask = inputs["labels"] == -100
        with self._hearing(inputs, audio, gate, prompt_mask, budget):
            return self.base(**arguments)

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
    ) -> Any:
        """Answer greedily, or with beams; sampling is off whatever the base's own generation settings say.

        Arguments as of `forward` and of transformers' `generate`.

        Returns:
            transformers' `GenerateDecoderOnlyOutput`: `sequences` (B, L + n), `logits` (a tuple of n tensors (B, V),
            before any processing) and, if asked for, `hidden_states` (first step: the whole prompt).

        Raises:
            ConfigError: the gate is outside [0, 1], or the budget above the number of tokens.
            ModelError: `audio` has another number of rows than `inputs`.
        """
        settings = copy.deepcopy(self.base.generation_config)
        settings.update(
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            num_beams=num_beams,
            max_length=None,
            max_new_tokens=max_new_tokens,
            use_cache=use_cache,
            prefill_chunk_size=None,  # broken in most bases themselves
            return_dict_in_generate=True,
            output_logits=True,
            output_hidden_states=output_hidden_states,
        )
        with self._hearing(inputs, audio, gate, None, budget):
            return self.base.generate(**self._arguments(inputs, images), generation_config=settings)

    def decode(self, output: Any, inputs: Mapping[str, Any]) -> list[str]:
        """Return the answers in an output of `generate`, without special tokens and outer blanks."""
        new = output.sequences[:, inputs["input_ids"].shape[1] :]  # (B, n)
        return [text.strip() for text in self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _prompt(self, sample: Sample) -> str:
        """Return the text of a sample's prompt, with the base's placeholder for the picture."""
        tokenizer = self.processor.tokenizer
        for token in {*tokenizer.all_special_tokens, getattr(self.processor, "image_token", None)} - {None}:
            if token in sample.question:
                raise DataError(
                    f"sample {sample.id!r}: the question contains {token!r}, a special token of the base; remove it."
                )
        picture = [{"type": "image"}] if sample.image is not None else []
        turn = {"role": "user", "content": [*picture, {"type": "text", "text": sample.question}]}
        return str(self.processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False))

    def _arguments(self, inputs: Mapping[str, Any], images: Any) -> dict[str, Any]:
        """Return the base's arguments; encoded pictures replace the pixels."""
        if images is None:
            return dict(inputs)
        if self._image_arguments is None:
            raise ModelError("this base cannot share encoded pictures; leave images out, or update transformers.")
        arguments = {name: value for name, value in inputs.items() if name not in self._image_arguments}
        # A copy per call: beam search replaces the entries of what it is given.
        return arguments | {"mm_encoder_outputs": {"image": copy.copy(images)}}

    @contextmanager
    def _hearing(
        self,
        inputs: Mapping[str, Any],
        audio: AudioFeatures | None,
        gate: float,
        prompt_mask: Tensor | None,
        budget: int | None,
    ) -> Iterator[None]:
        """Let the base hear within the block; without audio, or with the gate at 0, nothing is registered."""
        if not isinstance(gate, (float, int)) or not 0 <= gate <= 1:  # a tensor would cost a sync per call
            raise ConfigError(f"gate must be a number in [0, 1], got {gate}; 0 is the base alone, 1 all of the audio.")
        tokens = self.config.projector.tokens
        if budget is not None and not (isinstance(budget, int) and 1 <= budget <= tokens):
            raise ConfigError(
                f"budget must be a number of audio tokens from 1 to {tokens}, got {budget}; leave it out for all."
            )
        ids = inputs["input_ids"]  # (B, L)
        if audio is not None and len(audio) != len(ids):
            raise ModelError(f"{len(audio)} audio rows for {len(ids)} questions; give one per question, None for none.")
        if prompt_mask is not None and prompt_mask.shape != ids.shape:
            raise ModelError(
                f"prompt_mask has shape {list(prompt_mask.shape)}, the prompts {list(ids.shape)}; make them equal."
            )
        if audio is None or gate == 0 or not bool(audio.present.any()):
            yield
            return
        attended = inputs.get("attention_mask")
        hears = torch.ones_like(ids, dtype=torch.bool) if attended is None else attended.bool()  # (B, L)
        if prompt_mask is not None:
            hears = hears & prompt_mask.to(hears.device)
        with hearing(self.stack, self.adapter, audio.to(self.device), float(gate), hears, budget):
            yield


def _load_parts(config: ModelConfig) -> tuple[Any, Any, ClapEncoder, Fit]:
    """Return base, processor and encoder on the device, and what an adapter for them must fit."""
    device = _device(config.device)
    base, processor = load_base(config.base, config.base_revision)
    base_sha256 = weights_sha256(base)  # of the checkpoint, whatever it is computed in
    if config.dtype != "auto" and base.dtype != getattr(torch, config.dtype):
        # Loaded anew rather than converted: some parts (rotary frequencies) stay in float32 that way.
        base, processor = load_base(config.base, config.base_revision, config.dtype)
    base.to(device)
    probe(base, resolve_stack(base))
    encoder = ClapEncoder.from_pretrained(config.encoder, config.encoder_revision).to(device)
    fit = Fit(base_sha256, embedding_width(base), embedding_rms(base), encoder.sha256, encoder.token_dim)
    return base, processor, encoder, fit


def _new_adapter(config: ModelConfig, fit: Fit, base: Any) -> Adapter:
    """Return an untrained adapter on the device of `base`."""
    adapter = Adapter(config.projector, config.fusion, fit.token_dim, fit.embedding_rms, embedding_mean(base))
    return adapter.to(base.device)


def _device(name: str) -> torch.device:
    """Return the device, if this machine has it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"model.device is {name!r}, which this machine does not have; use e.g. cpu.") from error
    return device

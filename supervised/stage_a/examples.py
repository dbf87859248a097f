"""Questions made ready for Stage A, once: token ids, what the encoder heard, what the vision tower saw.

In: samples and a `SafeModel`. Out: teacher-forced batches (left-padded prompt, then the answer and the end token,
right-padded; an encoder-decoder gets the answer in its decoder) and plain prompts for evaluation. Everything frozen is
computed a single time and kept in memory: audio tokens as float32, bit-equal to the encoder's output, or as float16
where they would exceed `CACHE_BYTES`; image features where transformers lets a caller pass them in, pixel values
otherwise. Neighbouring questions that hold the same clip object share one pass of the encoder.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from supervised.answers import target_answer
from supervised.base import decoder_start, has_encoder, has_position_table, token_positions
from supervised.data.sample import Sample, Waveform
from supervised.encoders.features import AudioFeatures
from supervised.errors import DataError
from supervised.losses import IGNORED
from supervised.prompts import answer_ids
from supervised.safe_model import SafeModel

CACHE_BYTES = 1 << 30
"""Audio tokens above this size are kept in half precision, base logits above it are computed when they are needed."""
CHUNK = 64
"""Questions that are prepared at once."""


@dataclass(frozen=True)
class Batch:
    """B questions; K = longest answer with its end token, L = longest prompt + K, of an encoder-decoder without K."""

    rows: list[int]
    """Where the questions stand among the examples."""
    inputs: dict[str, Any]
    """input_ids, attention_mask (B, L) and the base's other inputs."""
    prompt_mask: Tensor
    """bool (B, L): True where a prompt's own token stands, so neither padding nor answer; only these may hear."""
    labels: Tensor
    """int64 (B, K): the answers' token ids, then `IGNORED`."""
    audio: AudioFeatures
    images: Any
    retention: Tensor
    """bool (B,): the question needs no audio."""


class Examples:
    """Prepared questions, addressed by index."""

    def __init__(
        self, model: SafeModel, samples: Sequence[Sample], chosen: Sequence[int], tick: Callable[[int], object]
    ) -> None:
        """Prepare the `chosen` ones of `samples`, each rendered or read once; `tick(n)` hears that n more are done.

        Raises:
            DataError: a picture or a clip cannot be used.
            ModelError: the base's tokenizer has no end token.
        """
        self.model = model
        self.ids: list[str] = []
        self.questions: list[Sample] = []  # without their media
        self.prompts: list[Tensor] = []  # (P,) each
        self.targets: list[Tensor] = []  # (K,) each, the end token last
        retention: list[bool] = []
        self._rest: list[dict[str, Tensor]] = []  # the base's other inputs, each (1, ...) or (patches, ...)
        self._images: list[list[Tensor]] | None = []  # features of each question's picture; None: kept as pixels
        self._digest = hashlib.sha256()
        heard: list[AudioFeatures] = []
        half = len(chosen) * model.encoder.num_tokens * model.encoder.token_dim * 4 > CACHE_BYTES
        for chunk in _read_ahead(samples, chosen):
            self._tokenise(chunk)
            heard.append(self._hear(chunk, half))
            for sample in chunk:
                self.ids.append(sample.id)
                self.questions.append(replace(sample, image=None, audio=None))
                retention.append(sample.retention_set is not None)
                self._digest.update(_description(sample).encode())
            tick(len(chunk))
        self.audio = AudioFeatures.concatenate(heard)
        self.retention = torch.tensor(retention, dtype=torch.bool)  # (N,)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sha256(self) -> str:
        """Identity of the questions, their order and their media."""
        return self._digest.hexdigest()

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return the questions at `rows` with their answers, for a forward pass."""
        base, device = self.model.base, self.model.device
        ids, attended = self._prompts(rows)  # (B, P)
        prompted = attended.bool()
        labels = pad_sequence([self.targets[row] for row in rows], batch_first=True, padding_value=IGNORED)  # (B, K)
        answered = labels.masked_fill(labels == IGNORED, self._pad)
        if has_encoder(base):
            inputs, images = self._inputs(rows, ids, attended)
            start = torch.full_like(answered[:, :1], decoder_start(base))
            inputs["decoder_input_ids"] = torch.cat([start, answered[:, :-1]], 1).to(device)  # (B, K)
        else:
            ids, attended = (
                torch.cat([ids, answered], 1),
                torch.cat([attended, (labels != IGNORED).long()], 1),
            )  # (B, L)
            prompted = torch.cat([prompted, torch.zeros_like(labels, dtype=torch.bool)], 1)
            inputs, images = self._inputs(rows, ids, attended)
            if has_position_table(base):  # `generate` tells them, too
                inputs["position_ids"] = token_positions(inputs["attention_mask"])
        retention = self.retention[list(rows)].to(device)
        return Batch(list(rows), inputs, prompted.to(device), labels.to(device), self._audio(rows), images, retention)

    def prompt(self, rows: Sequence[int]) -> tuple[dict[str, Any], AudioFeatures, Any]:
        """Return inputs, audio and images of the questions at `rows`, left-padded, for `generate`."""
        inputs, images = self._inputs(rows, *self._prompts(rows))
        return inputs, self._audio(rows), images

    def logits(self, batch: Batch, audio: AudioFeatures | None, gate: float, budget: int | None = None) -> Tensor:
        """Return the logits (B, K, V) that predict the labels; without `audio` they are the base's."""
        # A decoder-only base: the last prompt token and the answer, whose last position predicts nothing. A decoder
        # of its own reads the answer alone, so all of its positions are wanted; T5 does not take another number.
        apart = has_encoder(self.model.base)
        keep = 0 if apart else batch.labels.shape[1] + 1
        output = self.model.forward(
            batch.inputs, audio, gate, batch.prompt_mask, batch.images, logits_to_keep=keep, budget=budget
        )
        logits: Tensor = output.logits if apart else output.logits[:, :-1]
        return logits

    @property
    def _pad(self) -> int:
        return int(self.model.processor.tokenizer.pad_token_id or 0)

    def _prompts(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return ids and attention mask (B, P) of the prompts at `rows`, left-padded."""
        length = max(len(self.prompts[row]) for row in rows)
        ids = torch.full((len(rows), length), self._pad)
        attended = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            begin = length - len(self.prompts[row])
            ids[i, begin:], attended[i, begin:] = self.prompts[row], 1
        return ids, attended

    def _tokenise(self, chunk: list[Sample]) -> None:
        """Append prompts, targets and pictures of the chunk."""
        inputs = dict(self.model.inputs(chunk))
        if all(len(value) == len(chunk) for value in inputs.values()) and all(sample.image for sample in chunk):
            self._append(inputs, chunk)
        else:  # pictures without a row per question: some have none, or the patches of all stand in one list
            for sample in chunk:
                self._append(dict(self.model.inputs([sample])), [sample])

    def _append(self, inputs: dict[str, Tensor], chunk: list[Sample]) -> None:
        """Take `inputs` apart: each value has a row per question, or belongs to the only one."""
        if self._images is not None and "pixel_values" in inputs:
            features = _image_features(self.model.encode_images(inputs), len(chunk))
            self._images = None if features is None else self._images + [[row.clone()] for row in features]
        elif self._images is not None:
            self._images += [[] for _ in chunk]
        attended = inputs["attention_mask"].bool()  # (B, P)
        for i, sample in enumerate(chunk):
            self.prompts.append(inputs["input_ids"][i][attended[i]].cpu())
            self.targets.append(self._target(target_answer(sample.answers)))
            rest: dict[str, Tensor] = {}
            for name, value in inputs.items():
                if name in ("input_ids", "attention_mask") or (name == "pixel_values" and self._images is not None):
                    continue
                row = value if len(chunk) == 1 else value[i : i + 1]
                token_wise = value.shape == attended.shape and not _apart(name)
                rest[name] = (row[:, attended[i]] if token_wise else row).clone()  # a view would keep the whole chunk
            self._rest.append(rest)

    def _target(self, answer: str) -> Tensor:
        """Return the answer's token ids, the end token last."""
        if not self.model.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]:
            raise DataError(f"answer {answer!r} has no token in the base's vocabulary; correct it or leave it out.")
        return torch.tensor(self.answer_ids(answer))

    def answer_ids(self, answer: str) -> list[int]:
        """Return the token ids with which the base says `answer`, the end token last."""
        return answer_ids(self.model.base, self.model.processor.tokenizer, answer)

    def _hear(self, chunk: list[Sample], half: bool) -> AudioFeatures:
        """Encode the chunk's clips, each distinct object once."""
        clips = {id(sample.audio): sample.audio for sample in chunk}
        row_of = {key: row for row, key in enumerate(clips)}
        heard = self.model.encode_audio(list(clips.values())).to("cpu")
        heard = heard.rows([row_of[id(sample.audio)] for sample in chunk])
        return replace(heard, tokens=heard.tokens.half()) if half else heard

    def _inputs(self, rows: Sequence[int], ids: Tensor, attended: Tensor) -> tuple[dict[str, Any], Any]:
        """Return the base's inputs, and the pictures' features where they are cached."""
        device = self.model.device
        inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": attended.to(device)}
        for name in {name: None for row in rows for name in self._rest[row]}:
            having = [i for i, row in enumerate(rows) if name in self._rest[row]]
            values = [self._rest[rows[i]][name] for i in having]
            if _apart(name):  # padded per chunk, masked by a mask of its own
                inputs[name] = pad_sequence([value[0] for value in values], batch_first=True).to(device)
            elif all(value.shape == (1, len(self.prompts[rows[i]])) for i, value in zip(having, values, strict=True)):
                under = torch.zeros_like(ids, dtype=values[0].dtype)  # padding and answer get 0, the type of text
                for i, value in zip(having, values, strict=True):
                    begin = int(attended[i].argmax())  # the first real token
                    under[i, begin : begin + value.shape[1]] = value[0]
                inputs[name] = under.to(device)
            else:
                inputs[name] = torch.cat(values).to(device)
        features = [] if self._images is None else [feature for row in rows for feature in self._images[row]]
        if not features:
            return inputs, None
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return inputs, BaseModelOutputWithPooling(pooler_output=features)

    def _audio(self, rows: Sequence[int]) -> AudioFeatures:
        """Return the features at `rows` where the model computes."""
        return self.audio.rows(list(rows)).to(self.model.device)


def _read_ahead(samples: Sequence[Sample], chosen: Sequence[int]) -> Iterator[list[Sample]]:
    """Yield the chosen samples in chunks; the next chunk is rendered in a second thread meanwhile."""

    def read(start: int) -> list[Sample]:
        return [samples[i] for i in chosen[start : start + CHUNK]]

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(read, 0)
        for start in range(0, len(chosen), CHUNK):
            chunk = ahead.result()
            ahead = pool.submit(read, start + CHUNK)
            yield chunk


def _apart(name: str) -> bool:
    """Return whether an argument is the question as InstructBLIP's Q-former reads it, with tokens of its own."""
    return name.startswith("qformer_")


def _image_features(output: Any, count: int) -> Sequence[Tensor] | None:
    """Return one feature tensor per picture, or None where the output cannot be taken apart and put together again."""
    known = {"last_hidden_state", "pooler_output", "hidden_states", "attentions"}  # more: e.g. deepstack features
    if output is None or not set(output) <= known or len(output.pooler_output) != count:
        return None
    features: Sequence[Tensor] = output.pooler_output
    return features


def _description(sample: Sample) -> str:
    """Return one line that changes when the sample does; media count by size and by a part of their contents."""
    media = []
    for item in (sample.image, sample.audio):
        if item is None:
            media.append("")
        elif isinstance(item, Path):
            media.append(f"{item.name} {item.stat().st_size}")
        else:
            values = np.asarray(item.samples[::16] if isinstance(item, Waveform) else item)
            media.append(f"{values.shape} {zlib.crc32(np.ascontiguousarray(values).tobytes())}")
    return json.dumps([sample.id, sample.question, sample.answers, sample.retention_set, *media]) + "\n"

"""Contrastive pretraining of the tiny CLAP: clips of one, two or no source against captions that name them.

Clips are synthesised and, where a folder is given, mixed from real recordings of folds 1 to 3. Captions with the same
meaning are positives of each other (soft targets), because a batch holds many clips of the same class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor

from supervised.demo.config import EncoderPretraining
from supervised.demo.questions import hearing
from supervised.demo.recordings import Recordings
from supervised.demo.sounds import RATE, SoundBank, Synthesiser, mix
from supervised.demo.steps import HALF, Progress, one_cycle
from supervised.demo.vocabulary import make_tokenizer
from supervised.demo.world import CLASSES
from supervised.encoders.clap import FastClapExtractor

CLIP_SECONDS = 5
CAPTIONS = ("{}", "the sound of {}", "you hear {}")
EVALUATION_CAPTION = "the sound of {}"
EXTRACTOR = {
    "feature_size": 32,
    "sampling_rate": RATE,
    "hop_length": 640,
    "max_length_s": CLIP_SECONDS,
    "fft_window_size": 1024,
    "frequency_min": 50,
    "frequency_max": 8000,
    "truncation": "rand_trunc",  # never reached: clips are cut to five seconds before
    "padding": "repeatpad",
}
"""Log-mel settings of the demo: 5 s at 16 kHz become 126 frames of 32 bands."""


def make_model(vocabulary_size: int) -> ClapModel:
    """Return an untrained ClapModel of about half a million parameters."""
    audio = {
        "num_mel_bins": 32,
        "spec_size": 64,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "window_size": 4,
        "depths": [2, 2],
        "num_attention_heads": [2, 4],
        "hidden_dropout_prob": 0.0,
        "patch_embeds_hidden_size": 48,
        "hidden_size": 96,
        "projection_dim": 64,
        "drop_path_rate": 0.0,
        "initializer_factor": 2.0,
    }
    text = {
        "vocab_size": vocabulary_size,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 32,
        "projection_dim": 64,
        "initializer_factor": 2.0,  # at this width the default leaves all captions alike for hundreds of steps
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return ClapModel(ClapConfig(audio_config=audio, text_config=text, projection_dim=64))


@dataclass(frozen=True)
class Clips:
    """Features of clips and what sounds in each."""

    features: np.ndarray
    """float16 [n, 1, frames, bands]."""
    sources: list[frozenset[str]]


def make_clips(
    bank: SoundBank, count: int, extractor: FastClapExtractor, rng: np.random.Generator, *, single: bool = False
) -> Clips:
    """Draw `count` clips; `single`: exactly one source over quiet noise, as the evaluation wants."""
    features, sources = [], []
    for _ in range(count):
        number = 1 if single else int(rng.choice(3, p=(0.08, 0.57, 0.35)))
        kinds = [CLASSES[i] for i in rng.permutation(len(CLASSES))[:number]]
        seconds = rng.uniform(1.5, CLIP_SECONDS)
        snr = rng.uniform(10, 30) if single else rng.choice([rng.uniform(-15, 10), rng.uniform(10, 30), 80.0])
        voices = [bank.draw(kind, seconds, rng) for kind in kinds]
        clip = mix(voices, round(seconds * RATE), snr, rng).samples
        if not single:  # recordings come at any level
            clip = (clip * 10 ** (rng.uniform(-20, 12) / 20)).clip(-1, 1)
        features.append(extractor(clip, sampling_rate=RATE, return_tensors="np")["input_features"][0])
        sources.append(frozenset(kinds))
    return Clips(np.stack(features).astype(np.float16), sources)


class Stretched:
    """A sound bank played faster or slower and filtered a little, so that few recordings go further."""

    def __init__(self, bank: SoundBank) -> None:
        self.bank = bank

    def draw(self, kind: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
        """Return the inner bank's sound at 0.8 to 1.25 times its speed, tilted by up to 6 dB."""
        speed = float(np.exp(rng.uniform(-0.22, 0.22)))
        voice = self.bank.draw(kind, seconds * speed, rng)
        length = round(seconds * RATE)
        voice = np.interp(np.linspace(0, len(voice) - 1, length), np.arange(len(voice)), voice)
        tilt = rng.uniform(-0.5, 0.5)
        voice[1:] = voice[1:] - tilt * voice[:-1]
        return voice.astype(np.float32)


def pretrain_encoder(config: EncoderPretraining, recordings: str | None, out_dir: Path, progress: Progress) -> None:
    """Train the tiny CLAP and save it with its processor in `out_dir`."""
    rng = np.random.default_rng([config.seed, 10])
    torch.manual_seed(config.seed)
    extractor, tokenizer = FastClapExtractor(**EXTRACTOR), make_tokenizer(end=True)
    banks: list[SoundBank] = [Synthesiser()]
    if recordings is not None:
        banks.append(Stretched(Recordings(recordings, config.folds)))
    pools = []
    for bank, share in zip(banks, (1 / 3, 2 / 3) if len(banks) == 2 else (1.0,), strict=True):
        progress(f"encoder: {round(share * config.clips)} clips from {type(bank).__name__}")
        pools.append(make_clips(bank, round(share * config.clips), extractor, rng))
    features = np.concatenate([pool.features for pool in pools])
    sources = [kinds for pool in pools for kinds in pool.sources]
    model = make_model(len(tokenizer))
    _train(model, tokenizer, features, sources, config, rng, progress)
    model.eval().save_pretrained(out_dir)
    ClapProcessor(feature_extractor=ClapFeatureExtractor(**EXTRACTOR), tokenizer=tokenizer).save_pretrained(out_dir)


def _train(
    model: ClapModel,
    tokenizer: Callable[..., dict[str, Tensor]],
    features: np.ndarray,
    sources: Sequence[frozenset[str]],
    config: EncoderPretraining,
    rng: np.random.Generator,
    progress: Progress,
) -> None:
    # A second, plain task (which classes sound?) shapes the tokens from the first step on; its head is not kept.
    head = torch.nn.Linear(model.config.audio_config.hidden_size, len(CLASSES))
    parameters = [*model.parameters(), *head.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    rarity = torch.tensor(4.0)  # about one class in eight sounds
    model.train()
    order = np.empty(0, dtype=np.int64)
    for step, update in enumerate(one_cycle(groups, config.lr, config.steps, betas=(0.9, 0.999))):
        if len(order) < config.batch_size:
            order = np.concatenate([order, rng.permutation(len(features))])
        rows, order = order[: config.batch_size], order[config.batch_size :]
        clips = _masked(torch.from_numpy(features[rows].astype(np.float32)), rng)
        words = [str(rng.choice(CAPTIONS)).format(hearing(sources[row])) for row in rows]
        text = tokenizer(words, padding=True, return_tensors="pt")
        with HALF:
            pooled = model.audio_model(input_features=clips).pooler_output.float()  # (B, Da)
        audio = F.normalize(model.audio_projection(pooled), dim=-1)  # (B, P)
        names = model.get_text_features(
            input_ids=text["input_ids"], attention_mask=text["attention_mask"]
        ).pooler_output  # (B, P), unit length
        heard = [sources[row] for row in rows]
        present = torch.tensor([[float(kind in kinds) for kind in CLASSES] for kinds in heard])
        contrast = _contrast(audio @ names.T * model.logit_scale_a.exp().clamp(max=50), heard)
        loss = contrast + 5 * F.binary_cross_entropy_with_logits(head(pooled), present, pos_weight=rarity)
        update(loss)
        if step % 100 == 0 or step == config.steps - 1:
            progress(f"encoder: step {step}/{config.steps}, contrast {contrast.item():.3f}, loss {loss.item():.3f}")


def _contrast(similarity: Tensor, meanings: Sequence[frozenset[str]]) -> Tensor:
    """Symmetric cross-entropy in which all captions of the same meaning share the target."""
    same = torch.tensor([[float(a == b) for b in meanings] for a in meanings])
    target = same / same.sum(1, keepdim=True)  # symmetric: equal rows have equal sums
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def _masked(clips: Tensor, rng: np.random.Generator) -> Tensor:
    """SpecAugment (arXiv:1904.08779) per clip: half of them lose a stretch of time and a band; all are rolled."""
    clips = torch.roll(clips, int(rng.integers(clips.shape[2])), dims=2)
    for clip in clips[: len(clips) // 2, 0]:  # (frames, bands)
        level = clip.mean()
        start, width = int(rng.integers(clip.shape[0])), int(rng.integers(1, 25))
        clip[start : start + width] = level
        start, width = int(rng.integers(clip.shape[1])), int(rng.integers(1, 5))
        clip[:, start : start + width] = level
    return clips


@torch.no_grad()
def zero_shot_accuracy(folder: Path, clips: Clips) -> float:
    """Return how often the caption nearest to a clip of one source names its class."""
    model = ClapModel.from_pretrained(folder).eval()
    tokenizer = ClapProcessor.from_pretrained(folder).tokenizer
    text = tokenizer([EVALUATION_CAPTION.format(kind) for kind in CLASSES], padding=True, return_tensors="pt")
    names = model.get_text_features(**text).pooler_output
    audio = torch.cat(
        [
            model.get_audio_features(input_features=torch.from_numpy(batch.astype(np.float32))).pooler_output
            for batch in np.array_split(clips.features, max(1, len(clips.features) // 64))
        ]
    )
    best = (audio @ names.T).argmax(1).tolist()
    return float(np.mean([CLASSES[i] in kinds for i, kinds in zip(best, clips.sources, strict=True)]))

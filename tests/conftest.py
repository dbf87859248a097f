"""Tiny random models on disk, in the format of real checkpoints: a LLaVA (23 k parameters) and a ClapModel."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: threads only slow such small matrices down
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # before transformers: as the commands do

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
from PIL import Image

from supervised.config import FusionConfig, ModelConfig
from supervised.data.sample import Sample, Waveform

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from supervised.safe_model import SafeModel

hypothesis.settings.register_profile("safe", deadline=None)  # a machine that others use as well is slow at times
hypothesis.settings.load_profile("safe")

RATE = 16_000
WORDS = (
    "user assistant : ? . what is the colour of object how many objects are there which sound can you hear does "
    "come from picture in a one two three red green blue yellow dog rain sea baby clock yes no left right it and"
).split()
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Everything here is so small that a second thread would only wait, and sums keep their order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def launch() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `accelerate launch` with its words: processes on the CPU that talk over gloo."""
    config = Path(__file__).parents[1] / "configs" / "accelerate" / "cpu.yaml"

    def run(*words: object, processes: int = 2, config: Path = config) -> subprocess.CompletedProcess[str]:
        options = ["--config_file", config, "--num_processes", processes, "--main_process_port", 0]
        command = [sys.executable, "-m", "accelerate.commands.launch", *options, *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)

    return run


def word_tokenizer(vocabulary: dict[str, int], **special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words in small letters; `special` names further special tokens by their role."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        **special,
    )


@pytest.fixture(scope="session")
def tiny_base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LlavaForConditionalGeneration of two layers and width 32, with processor: 48 x 48 pictures, 9 image tokens."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", "<image>", *WORDS])}
    tokenizer = word_tokenizer(vocabulary, bos_token="<s>")
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=48, patch_size=16
    )
    text = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=vocabulary["<image>"],
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.suppress_tokens = [vocabulary["<image>"]]  # random weights would say it
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"height": 48, "width": 48}, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ClapModel with two audio stages (hidden 16) and its feature extractor: 16 kHz, windows of 2 s, 16 mel bands."""
    import torch
    from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, ClapTextConfig

    audio = ClapAudioConfig(
        window_size=4,
        num_mel_bins=16,
        spec_size=64,
        patch_size=4,
        patch_stride=[4, 4],
        patch_embeds_hidden_size=8,
        hidden_size=16,
        depths=[1, 1],
        num_attention_heads=[2, 2],
    )
    text = ClapTextConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=8)).eval()
        for name, buffer in model.named_buffers():  # a trained tower has seen decibels; a fresh one saturates on them
            if name.endswith("batch_norm.running_mean"):
                buffer.fill_(-20.0)
            if name.endswith("batch_norm.running_var"):
                buffer.fill_(400.0)
    extractor = ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=RATE,
        hop_length=160,
        max_length_s=2,
        fft_window_size=512,
        frequency_min=50,
        frequency_max=8000,
        truncation="rand_trunc",
    )
    folder = tmp_path_factory.mktemp("encoder")
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_samples() -> list[Sample]:
    """Six questions: four with a sound of 0.5 to 3.5 s, one without audio, one retention question with rain."""
    generator = np.random.default_rng(3)

    def picture() -> Image.Image:
        return Image.fromarray(generator.integers(0, 255, (48, 48, 3), dtype=np.uint8))

    def tone(hertz: float, seconds: float) -> Waveform:
        time = np.arange(int(seconds * RATE)) / RATE
        noise = generator.normal(0, 0.02, len(time))
        return Waveform((0.3 * np.sin(2 * np.pi * hertz * time) + noise).astype(np.float32), RATE)

    return [
        Sample("a0", "which sound can you hear ?", ("dog",), picture(), tone(440, 1.0), group="g0", type="which_sound"),
        Sample("a1", "which sound can you hear ?", ("sea",), picture(), tone(90, 0.5), group="g1", type="which_sound"),
        Sample("a2", "does the sound come from the picture ?", ("yes",), picture(), tone(2000, 2.0), group="g2"),
        Sample("a3", "how many sound are there ?", ("one",), picture(), tone(5000, 3.5), group="g3"),
        Sample("v0", "what is the colour of the dog ?", ("red",), picture(), None, "scenes-vl", "colour", "g4"),
        Sample("v1", "how many objects are there in the picture ?", ("two",), picture(), tone(300, 1.5), "scenes-vl"),
    ]


@pytest.fixture(scope="session")
def tiny_config(tiny_base_dir: Path, tiny_encoder_dir: Path) -> ModelConfig:
    """The tiny models, joined by an adapter that speaks loudly enough to change answers before any training."""
    return ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir), fusion=FusionConfig(residual_scale=1.0))


@pytest.fixture(scope="session")
def tiny_model(tiny_config: ModelConfig) -> SafeModel:
    """The tiny models in float32, for tests that do not train."""
    import torch

    from supervised.safe_model import SafeModel

    with torch.random.fork_rng():
        torch.manual_seed(4)
        return SafeModel.attach(tiny_config)


@pytest.fixture(scope="session")
def tiny_t5_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP-2 with a T5, so an encoder-decoder, of two layers and width 32, with processor: 4 image tokens."""
    import torch
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessorPil,
        T5Config,
    )

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "<image>", "question", "answer", *WORDS])}
    tokenizer = word_tokenizer(vocabulary)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = T5Config(
        vocab_size=len(vocabulary),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**small, image_size=48, patch_size=16).to_dict(),
        qformer_config=Blip2QFormerConfig(**small, encoder_hidden_size=16, vocab_size=8).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=vocabulary["<image>"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Blip2ForConditionalGeneration(config).eval()
        for name, parameter in model.named_parameters():
            # As initialised, pictures and what the encoder read hardly matter to the answer.
            if parameter.dim() > 1 and ("language_model" not in name or "EncDecAttention" in name):
                parameter.data.mul_(4)
    model.language_model.generation_config.suppress_tokens = [vocabulary["<image>"]]
    processor = Blip2Processor(BlipImageProcessorPil(size={"height": 48, "width": 48}), tokenizer, num_query_tokens=4)
    folder = tmp_path_factory.mktemp("t5")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from supervised.data.sample import Sample
from supervised.diagnostics.alignment import alignment, cosines, vision_tokens
from supervised.diagnostics.questions import Questions, ask
from supervised.safe_model import SafeModel


def test_cosines_are_those_computed_by_hand() -> None:
    first, second = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [5.0, 0.0], [-1.0, 0.0]])
    root = 2**-0.5
    assert cosines(first, second).flatten().tolist() == pytest.approx([0, 1, -1, root, root, -root])


def test_vision_tokens_are_the_projected_patches(quiet: SafeModel, batches: list[Questions]) -> None:
    found = vision_tokens(quiet, batches[0])
    features = quiet.encode_images(batches[0].inputs).pooler_output
    for tokens, patches in zip(found, features, strict=True):
        assert tokens is not None
        torch.testing.assert_close(tokens, patches.reshape(tokens.shape))


def test_a_word_as_audio_token_is_found_among_the_words(quiet: SafeModel, batches: list[Questions]) -> None:
    word = quiet.processor.tokenizer.convert_tokens_to_ids("rain")
    embedding = quiet.base.get_input_embeddings().weight[word]
    spoken = embedding.expand(len(batches[0].samples), 8, -1)
    told = alignment(quiet, [replace(batches[0], audio=replace(batches[0].audio, spoken=spoken))])
    assert told["text"]["nearest"] == pytest.approx(1, abs=1e-5)
    assert told["text"]["nearest_words"][0] == {"rain": len(batches[0].samples)}


def test_audio_tokens_that_are_the_own_picture_are_nearer_to_it(quiet: SafeModel, batches: list[Questions]) -> None:
    pictures = [tokens for tokens in vision_tokens(quiet, batches[0]) if tokens is not None]
    spoken = torch.stack([tokens.mean(0).expand(8, -1) for tokens in pictures])
    told = alignment(quiet, [replace(batches[0], audio=replace(batches[0].audio, spoken=spoken))])
    assert told["vision"]["difference"] > 0
    assert told["vision"]["difference"] == pytest.approx(told["vision"]["own"] - told["vision"]["other"])


def test_without_pictures_only_words_are_compared(quiet: SafeModel, samples: list[Sample]) -> None:
    told = alignment(quiet, [ask(quiet, [replace(sample, image=None) for sample in samples[:4]])])
    assert told["vision"] is None
    assert told["clips"] == 4

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from written_questions import equal, prepared, streamed, write

from supervised.config import DataConfig, ModelConfig, PreprocessConfig
from supervised.data.facts import facts_of
from supervised.data.manifest import read_manifest
from supervised.data.preprocess import preprocessed
from supervised.data.sample import Sample
from supervised.data.source import open_split
from supervised.encoders.clap import ClapEncoder
from supervised.losses import IGNORED, task_loss
from supervised.safe_model import SafeModel
from supervised.stage_a import examples as stage_a_examples
from supervised.stage_a.config import StageAConfig
from supervised.stage_a.examples import CHUNK, Batch, Examples
from supervised.stage_a.reading import Reader
from supervised.stage_a.rows import Rows

LOUDER = PreprocessConfig(gain_db=6)


def test_a_padded_batch_predicts_what_each_question_alone_predicts(llava: SafeModel, lists: list[Sample]) -> None:
    samples = [replace(lists[0], answers=("two three dog",)), lists[1]]
    examples = prepared(llava, samples)
    batch = examples.batch([0, 1])
    assert batch.labels.shape == (2, 4)  # three words and the end token; one word and the end token
    assert (batch.labels != IGNORED).sum(1).tolist() == [4, 2]
    assert batch.prompt_mask.sum(1).tolist() == [len(each.prompt) for each in examples.ready or []]
    assert not (batch.prompt_mask & (batch.inputs["attention_mask"] == 0)).any()
    together = examples.logits(batch, batch.audio, 0.7)
    for row, sample in enumerate(samples):
        # Straight through the model: pixels instead of cached pictures, no padding, all logits.
        inputs = dict(llava.inputs([sample]))
        length = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], examples.targets[row][None]], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        mask = torch.arange(inputs["input_ids"].shape[1])[None] < length
        alone = llava.forward(inputs, llava.encode_audio([sample.audio]), 0.7, mask).logits[0, length - 1 : -1]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-4, atol=1e-4)


def test_the_first_prediction_in_training_is_the_first_of_generate(llava: SafeModel, lists: list[Sample]) -> None:
    examples = prepared(llava, lists)
    rows = list(range(6))
    batch = examples.batch(rows)
    inputs, audio, images = examples.prompt(rows)
    for heard in (audio, None):
        output = llava.generate(inputs, heard, images=images, max_new_tokens=1)
        torch.testing.assert_close(examples.logits(batch, heard, 1.0)[:, 0], output.logits[0], rtol=1e-4, atol=1e-4)


def test_questions_without_picture_or_clip_are_prepared_beside_others(llava: SafeModel, lists: list[Sample]) -> None:
    lists[1] = replace(lists[1], image=None, question="how many ?")
    lists[2] = replace(lists[2], audio=None)
    examples = prepared(llava, lists[:4])
    assert examples.present.tolist() == [True, True, False, True]
    batch = examples.batch([0, 1, 2])
    assert batch.audio.present.tolist() == [True, True, False]
    together = examples.logits(batch, batch.audio, 1.0)
    for row in range(3):
        single = examples.batch([row])
        alone = examples.logits(single, single.audio, 1.0)
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4)


def test_kept_audio_has_the_bits_of_the_encoder(llava: SafeModel, lists: list[Sample]) -> None:
    heard = llava.encode_audio([sample.audio for sample in lists])
    assert torch.equal(prepared(llava, lists).batch(range(6)).audio.tokens, heard.tokens)


@torch.no_grad()
def test_streamed_questions_have_the_bits_of_kept_ones(
    model: SafeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_manifest(write(tmp_path, 37))
    kept = prepared(model, samples)
    other = streamed(monkeypatch, model, samples)
    assert kept.kept
    for name in ("codes", "retention", "has_audio", "groups", "splits"):
        np.testing.assert_array_equal(getattr(kept.facts, name), getattr(other.facts, name))
    assert kept.facts.sets == other.facts.sets == ("music", "gqa")
    assert len(kept) == len(other) == 37
    assert list(kept.questions) == list(other.questions)
    assert kept.questions[3].audio is None
    assert equal(list(kept.targets), list(other.targets))
    assert equal(kept.retention, other.retention)
    assert equal(kept.present, other.present)
    for rows in ([5], [30, 2, 9], list(range(36, 15, -1))):  # 21: a full batch of pictures and a rest
        first, second = kept.batch(rows), other.batch(rows)
        assert equal(first, second)
        assert equal(kept.logits(first, first.audio, 1.0), other.logits(second, second.audio, 1.0))
        assert equal(kept.prompt(rows), other.prompt(rows))


def test_a_set_without_a_manifest_is_streamed_too(
    llava: SafeModel, lists: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = prepared(llava, lists)
    other = streamed(monkeypatch, llava, lists)
    assert equal(kept.batch([4, 1]), other.batch([4, 1]))
    assert kept.sha256 == other.sha256
    assert other.facts.retention.tolist() == facts_of(lists).retention.tolist()


def test_kept_and_streamed_questions_are_drawn_alike_and_read_ahead_alike(
    llava: SafeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_manifest(write(tmp_path, 20))
    kept = prepared(llava, samples)
    other = streamed(monkeypatch, llava, samples)
    config = StageAConfig(batch_size=6)
    with (
        Reader(Rows(kept, config), kept.batch) as plain,
        Reader(Rows(other, config), other.batch, ahead=2) as ahead,
    ):
        for _ in range(5):
            (first, state), (second, later) = next(plain), next(ahead)
            assert equal(first, second)
            assert state == later


def test_a_part_of_a_batch_is_what_its_rows_would_give(
    llava: SafeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = streamed(monkeypatch, llava, read_manifest(write(tmp_path, 8)))
    batch = examples.batch([6, 1, 4, 3])
    assert equal(examples.part(batch, [1, 3]), examples.batch([1, 3]))


def test_the_first_chunk_tells_whether_all_fit(
    llava: SafeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_manifest(write(tmp_path, CHUNK + 6))
    size = sum(each.bytes for each in prepared(llava, samples).ready or [])
    first = sum(each.bytes for each in (prepared(llava, samples[:CHUNK]).ready or [])) / CHUNK * (CHUNK + 6)
    assert size == pytest.approx(first, rel=0.01)
    read: list[int] = []
    inputs = llava.inputs
    monkeypatch.setattr(llava, "inputs", lambda part: read.append(len(part)) or inputs(part))
    for budget, chunks in ((2 * size, [CHUNK, 6]), (0.9 * size, [CHUNK])):
        monkeypatch.setattr(stage_a_examples, "CACHE_BYTES", budget)
        read.clear()
        done: list[int] = []
        examples = Examples(llava, samples, range(CHUNK + 6), done.append)
        assert examples.kept == (budget > size)
        assert read == chunks
        assert sum(done) == CHUNK + 6


def test_the_identity_of_a_streamed_set_is_that_of_its_lines(
    llava: SafeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, 4)
    samples = read_manifest(path)
    first = streamed(monkeypatch, llava, samples).sha256
    assert first == streamed(monkeypatch, llava, read_manifest(write(tmp_path, 4, "other.jsonl"))).sha256
    assert first != Examples(llava, samples, [1, 0, 2, 3], lambda _: None).sha256
    assert first != Examples(llava, samples, [0, 1, 2], lambda _: None).sha256
    assert (
        first != streamed(monkeypatch, llava, preprocessed(samples, PreprocessConfig(peak=True), augment=True)).sha256
    )
    path.write_text(path.read_text().replace("dog", "sea"))
    assert first != streamed(monkeypatch, llava, read_manifest(path)).sha256


def test_augmented_clips_are_heard_anew_in_every_epoch_and_not_cached(
    tiny_base_dir: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    write(tmp_path, 6)
    cache = tmp_path / "features"
    config = ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir), feature_cache=str(cache))
    model = SafeModel.attach(config)
    data = DataConfig(manifest=str(tmp_path / "m.jsonl"), preprocess=replace(LOUDER, seed=1))
    examples = prepared(model, open_split(data, "adapter"))
    assert not examples.kept
    first, again, second = (examples.batch([0, 1], epoch).audio.tokens for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert all(not torch.equal(first[row], second[row]) for row in range(2))
    assert list(cache.rglob("*.features")) == []
    # Without augmentation, as in validation, all epochs hear the same, and the cache is used.
    plain = prepared(model, preprocessed(read_manifest(tmp_path / "m.jsonl"), LOUDER, augment=False))
    assert plain.kept
    assert torch.equal(plain.batch([0], 0).audio.tokens, plain.batch([0], 1).audio.tokens)
    assert len(list(cache.rglob("*.features"))) == 6


def test_a_streamed_clip_is_encoded_once_with_a_feature_cache(
    tiny_base_dir: Path, tiny_encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir), feature_cache=str(tmp_path / "f"))
    model = SafeModel.attach(config)
    examples = streamed(monkeypatch, model, read_manifest(write(tmp_path, 4)))
    first = examples.batch([0, 1]).audio
    assert isinstance(model.encoder, ClapEncoder)
    prepare = model.encoder._prepare
    monkeypatch.setattr(model.encoder, "_prepare", lambda samples: pytest.fail("encoded again"))
    assert equal(examples.batch([0, 1]).audio, first)
    monkeypatch.setattr(model.encoder, "_prepare", prepare)


def test_questions_are_made_ready_in_one_thread_while_another_trains(
    model: SafeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither thread may see the other's hooks, gradients, audio or padding."""
    examples = streamed(monkeypatch, model, read_manifest(write(tmp_path, 24)))
    rows = [[start, start + 1, start + 2] for start in range(0, 24, 3)]
    expected = [examples.batch(part) for part in rows]

    def gradient(batch: Batch) -> list[torch.Tensor]:
        loss = task_loss(examples.logits(batch, batch.audio, 1.0), batch.labels)
        return list(torch.autograd.grad(loss, [p for p in model.adapter.parameters() if p.requires_grad]))

    gradients = [gradient(batch) for batch in expected]
    found: list[Batch] = []
    done = threading.Event()

    def read() -> None:
        try:
            for _ in range(3):
                found.extend(examples.batch(part) for part in rows)
        finally:
            done.set()

    thread = threading.Thread(target=read)
    thread.start()
    steps = 0
    while not done.is_set() or steps < len(rows):
        assert equal(gradient(expected[steps % len(rows)]), gradients[steps % len(rows)])
        examples.answer_ids("dog")
        steps += 1
    thread.join()
    assert len(found) == 3 * len(rows)
    assert all(equal(batch, expected[i % len(rows)]) for i, batch in enumerate(found))
    assert not any(value.requires_grad for batch in found for value in (batch.audio.tokens, batch.labels))


def test_pictures_share_a_pass_only_where_that_was_tried_to_be_exact(
    llava: SafeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    encode: Callable[[Any], Any] = llava.encode_images

    def count(inputs: Any) -> Any:
        sizes.append(len(inputs["pixel_values"]))
        output = encode(inputs)
        if disturbed and len(inputs["pixel_values"]) > 1:
            output.pooler_output = [row + 1e-6 for row in output.pooler_output]
        return output

    monkeypatch.setattr(llava, "encode_images", count)
    samples = read_manifest(write(tmp_path, 33))
    disturbed = False
    exact = prepared(llava, samples)
    assert sizes == [16, *[1] * 16, 16, 16, 1]  # tried, used twice, and the rest
    sizes.clear()
    disturbed = True
    other = prepared(llava, samples)
    assert sizes == [16, *[1] * 16, *[1] * 33]
    assert equal(exact.batch([0, 20, 32]), other.batch([0, 20, 32]))

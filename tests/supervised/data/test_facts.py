from __future__ import annotations

from pathlib import Path

import numpy as np

from supervised.data.facts import facts_of, set_of, text_hash
from supervised.data.sample import Sample, Waveform

CLIP = Waveform(np.zeros(8, np.float32), 8_000)
SAMPLES = [
    Sample("avqa-1", "?", ("a",), audio=CLIP, group="g1", split="adapter"),
    Sample("vqav2-1", "?", ("a",), retention_set="vqav2", group="g2", split="test"),
    Sample("avqa-2", "?", ("a",), audio=Path("clip.wav"), type="Audio/Which", group="g1", split="adapter"),
    Sample("vqav2-2", "?", ("a",), retention_set="vqav2", audio=CLIP),
]


def test_facts_tell_kind_set_clip_cluster_and_split() -> None:
    facts = facts_of(SAMPLES)
    assert facts.sets == ("avqa", "vqav2")
    assert facts.codes.tolist() == [0, 1, 0, 1]
    assert facts.retention.tolist() == [False, True, False, True]
    assert facts.has_audio.tolist() == [True, False, True, True]
    assert facts.splits.tolist() == [0, 4, 0, 1]
    assert facts.groups[0] == facts.groups[2] == text_hash("g1")
    assert facts.groups[3] == text_hash("vqav2-2")  # a question without a group is its own
    assert len(facts) == 4


def test_facts_tell_type_id_and_the_length_of_a_clip_in_memory_and_open_no_file() -> None:
    facts = facts_of(SAMPLES)
    assert facts.types == ("", "Audio/Which")
    assert facts.kinds.tolist() == [0, 0, 1, 0]
    np.testing.assert_array_equal(facts.seconds, np.array([0.001, np.nan, np.nan, 0.001], np.float32))
    assert facts.ids.tolist() == [text_hash(sample.id) for sample in SAMPLES]


def test_facts_of_some_rows_keep_the_names_of_all_sets() -> None:
    some = facts_of(SAMPLES).rows(np.array([3, 0]))
    assert (some.sets, some.codes.tolist(), some.has_audio.tolist()) == (("avqa", "vqav2"), [1, 0], [True, True])
    some = facts_of(SAMPLES).rows(np.array([2, 1]))
    assert (some.types, some.kinds.tolist()) == (("", "Audio/Which"), [1, 0])
    assert some.ids.tolist() == [text_hash("avqa-2"), text_hash("vqav2-1")]
    assert np.isnan(some.seconds).all()


def test_the_set_is_that_of_retention_or_the_dataset_in_the_id() -> None:
    assert [set_of(sample) for sample in SAMPLES] == ["avqa", "vqav2", "avqa", "vqav2"]
    assert set_of(Sample("plain", "?", ("a",))) == "plain"


def test_a_hash_is_the_same_everywhere_and_takes_any_text() -> None:
    assert text_hash("dog") == 0x9F9C5ED2C1C78439
    assert text_hash("\ud800") != text_hash("\ud801")

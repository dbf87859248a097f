from __future__ import annotations

import csv
import math
import shutil
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervised.errors import ConfigError, DataError
from supervised.metrics.captions import score_captions, sentence_bleu, split_words

pytest.importorskip("pycocoevalcap")
REAL = Path(__file__).parents[4] / "shared" / "data" / "audiocaps" / "test.csv"
JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="the PTB tokenizer needs Java")


def grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def cider_d(predictions: list[str], references: list[list[str]]) -> list[float]:
    """The formula of CIDEr-D (arXiv:1411.5726) as the COCO evaluation has it, lengths in bigrams."""
    scores = []
    for said, accepted in zip(predictions, references, strict=True):
        total = 0.0
        for n in range(1, 5):
            frequency = Counter(
                gram for group in references for gram in {g for r in group for g in grams(r.split(), n)}
            )

            def weigh(
                text: str, n: int = n, frequency: Counter[tuple[str, ...]] = frequency
            ) -> dict[tuple[str, ...], float]:
                counts = grams(text.split(), n)
                return {g: c * (math.log(len(references)) - math.log(max(1, frequency[g]))) for g, c in counts.items()}

            hypothesis = weigh(said)
            for reference in accepted:
                other = weigh(reference)
                product = sum(min(weight, other.get(g, 0.0)) * other.get(g, 0.0) for g, weight in hypothesis.items())
                norms = math.sqrt(sum(w * w for w in hypothesis.values()) * sum(w * w for w in other.values()))
                gap = max(len(said.split()) - 1, 0) - max(len(reference.split()) - 1, 0)
                total += (product / norms if norms else 0.0) * math.exp(-(gap**2) / 72)
        scores.append(10 * total / 4 / len(accepted))
    return scores


SENTENCE = st.lists(st.sampled_from("a dog cat barks runs in the rain loudly".split()), min_size=1, max_size=9).map(
    " ".join
)
ITEM = st.tuples(SENTENCE, st.lists(SENTENCE, min_size=1, max_size=3))


@settings(deadline=None)
@given(st.lists(ITEM, min_size=2, max_size=5))
def test_cider_d_is_that_of_the_formula(items: list[tuple[str, list[str]]]) -> None:
    predictions, references = [item[0] for item in items], [item[1] for item in items]
    found = score_captions(predictions, references, tokens="words")
    expected = cider_d(predictions, references)
    assert found.cider_d_each == pytest.approx(expected, abs=1e-9)
    assert found.cider_d == pytest.approx(sum(expected) / len(expected), abs=1e-9)


def test_cider_d_of_two_captions_by_hand() -> None:
    # All four words are in one set of two: each weighs log 2, and no bigram has a counterpart elsewhere.
    found = score_captions(["red dog", "blue cat"], [["red dog"], ["blue bird"]], tokens="words")
    assert found.cider_d_each == pytest.approx([10 * (1 + 1) / 4, 10 * 0.5 / 4])


def test_bleu_by_hand() -> None:
    found = score_captions(
        ["the cat sat", "a dog runs home"], [["the cat sat down"], ["a dog", "a dog walks home"]], "words"
    )
    unigrams, bigrams = 6 / 7, 3 / 5  # "runs" is wrong; "the cat", "cat sat" and "a dog" are right
    brevity = math.exp(1 - 8 / 7)  # the closest references have 4 and 4 words
    assert found.bleu[:2] == pytest.approx([brevity * unigrams, brevity * math.sqrt(unigrams * bigrams)], abs=1e-6)
    assert found.tokens == "words"


@JAVA
def test_ptb_drops_punctuation_and_case_and_survives_line_breaks_and_empty_captions() -> None:
    texts = ["A dog: big - barks, loudly.", "line\nbreak", ""]
    references = [["a dog big barks loudly"], ["line break"], ["nothing"]]
    found = score_captions(texts, references)
    assert found.tokens == "ptb"
    assert found.cider_d_each[1] == pytest.approx(5.0)
    assert found.cider_d_each[2] == 0.0
    assert found.cider_d_each[0] == pytest.approx(10.0)


@JAVA
@pytest.mark.skipif(not REAL.is_file(), reason="needs AudioCaps' test captions")
def test_both_tokenizers_agree_on_audiocaps() -> None:
    clips = defaultdict(list)
    with open(REAL, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            clips[row["youtube_id"], row["start_time"]].append(row["caption"])
    assert len(clips) == 975
    said, rest = [texts[0] for texts in clips.values()], [texts[1:] for texts in clips.values()]
    ptb, words = score_captions(said, rest), score_captions(said, rest, tokens="words")
    assert ptb.cider_d == pytest.approx(0.8965, abs=1e-4)  # one person's caption against the other four
    assert words.cider_d == ptb.cider_d
    assert words.bleu == ptb.bleu


def test_words_are_cut_as_in_the_penn_treebank() -> None:
    assert split_words("Don't 'shout', it\u2019s 3.5 km; well-known U.S. dogs' barks!") == [
        *("do", "n't", "shout", "it", "'s", "3.5", "km", "well-known", "u.s", "dogs", "barks"),
    ]


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("yes", ["yes"], 1.0),
        ("a dog.", ["A dog", "cats"], 1.0),
        ("a dog barks at night", ["a dog barks at night"], 1.0),
        ("", ["yes"], 0.0),
        ("cat", ["dog"], 0.0),
        ("a dog", ["a dog barks"], math.exp(1 - 3 / 2)),
        ("a cat", ["a dog"], 0.0),  # no bigram is right
        ("a dog barks", ["a dog runs"], (2 / 3 * 1 / 2 * 1e-9) ** (1 / 3)),
    ],
)
def test_the_bleu_of_one_answer(prediction: str, references: list[str], expected: float) -> None:
    assert sentence_bleu(prediction, references) == pytest.approx(expected, abs=2e-3)


@settings(deadline=None)
@given(st.text(max_size=30), st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_the_bleu_of_any_answer_lies_between_0_and_1(prediction: str, references: list[str]) -> None:
    assert 0.0 <= sentence_bleu(prediction, references) <= 1.0
    assert sentence_bleu(references[0], references) == (1.0 if split_words(references[0]) else 0.0)


def test_what_cannot_be_scored_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="two captions or more, got 1 captions and 1 reference sets"):
        score_captions(["a"], [["a"]], tokens="words")
    with pytest.raises(DataError, match="caption 1 has no reference"):
        score_captions(["a", "b"], [["a"], []], tokens="words")
    with pytest.raises(DataError, match="BLEU needs at least one reference"):
        sentence_bleu("a", [])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="needs Java, which is not installed; install it, or take tokens='words'"):
        score_captions(["a", "b"], [["a"], ["b"]])


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycocoevalcap", "pycocoevalcap.bleu.bleu", "pycocoevalcap.bleu.bleu_scorer"):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (lambda: sentence_bleu("a", ["a"]), lambda: score_captions(["a", "b"], [["a"], ["b"]], "words")):
        with pytest.raises(ConfigError, match=r"pip install 'safe-rl-audio\[captions\]'"):
            call()

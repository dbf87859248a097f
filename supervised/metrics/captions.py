"""CIDEr-D and BLEU of captions, by the scorers of the COCO evaluation (pycocoevalcap), and the BLEU of one answer.

Captions are compared word by word, so the figures depend on how text becomes words. `ptb` is the tokenizer of the COCO
evaluation, a Java program that comes with pycocoevalcap: what papers report. `words` needs no Java; name it where
its figures are reported. CIDEr-D weighs words by how rare they are in the scored set: figures of two sets, or of a
part of one, cannot be compared. Install the extra `captions`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from supervised.errors import ConfigError, DataError

Tokens = Literal["ptb", "words"]
ORDERS = 4
"""n-grams of 1 to 4 words."""
_WORD = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|\w+?(?=n't\b)|\w+(?:[-.&/]\w+)*")
"""A word, whose clitic is a word of its own; other punctuation is dropped."""


@dataclass(frozen=True)
class CaptionScores:
    """Figures of a set of captions, and of each of them."""

    cider_d: float
    """Mean over the captions, 0 to 10; papers give it as it is or times 100."""
    bleu: tuple[float, ...]
    """Of the set, for n-grams up to 1, 2, 3 and 4 words, in [0, 1]; not the mean over captions."""
    cider_d_each: np.ndarray
    """float64 [n]; resample these, as they belong to the whole set."""
    tokens: Tokens
    """How text was cut into words."""


def score_captions(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokens: Tokens = "ptb"
) -> CaptionScores:
    """Score one caption per item against the references of the item.

    CIDEr-D (Vedantam et al., arXiv:1411.5726): n = 1 to 4, sigma 6, document frequencies over the reference sets. BLEU
    (Papineni et al. 2002): the closest reference length, no smoothing.

    Raises:
        DataError: fewer than two items, an item without reference, or no Java where `tokens` is ptb.
        ConfigError: pycocoevalcap is not installed.
    """
    if len(predictions) != len(references) or len(predictions) < 2:
        raise DataError(
            f"CIDEr-D needs one reference set per caption and two captions or more, got {len(predictions)} captions "
            f"and {len(references)} reference sets; with one caption no word would be rare."
        )
    empty = next((place for place, accepted in enumerate(references) if not accepted), None)
    if empty is not None:
        raise DataError(f"caption {empty} has no reference; give it one or leave it out.")
    said, accepted = _tokenise([[text] for text in predictions], tokens), _tokenise(references, tokens)
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
    except ModuleNotFoundError:
        raise _not_installed() from None
    items = range(len(said))
    result, truth = dict(zip(items, said, strict=True)), dict(zip(items, accepted, strict=True))
    cider, each = Cider().compute_score(truth, result)
    bleu, _ = Bleu(ORDERS).compute_score(truth, result, verbose=0)
    return CaptionScores(float(cider), tuple(map(float, bleu)), np.asarray(each, dtype=np.float64), tokens)


def sentence_bleu(prediction: str, references: Sequence[str]) -> float:
    """Return the BLEU of one answer in [0, 1], over n-grams of as many words as it has, at most 4.

    For free answers, as those of AVSD: a score of their own, while the figures of a set come from `score_captions`.
    Words are cut without Java. An answer equal to a reference scores 1, an empty one 0.

    Raises:
        DataError: there is no reference.
        ConfigError: pycocoevalcap is not installed.
    """
    if not references:
        raise DataError("BLEU needs at least one reference, got none; give the sample an answer.")
    words = split_words(prediction)
    if not words:
        return 0.0
    try:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    except ModuleNotFoundError:
        raise _not_installed() from None
    scorer = BleuScorer(n=min(ORDERS, len(words)))
    scorer += (" ".join(words), [" ".join(split_words(text)) for text in references])
    _, each = scorer.compute_score(option="closest")
    # The library adds 1e-15 to matches and 1e-9 to n-grams, so that nothing is divided by 0.
    return round(min(1.0, float(each[-1][0])), 6)


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation; a clitic is a word of its own, as PTB has it.

    >>> split_words("A dog's bark isn't loud, (but) a well-known one.")
    ['a', 'dog', "'s", 'bark', 'is', "n't", 'loud', 'but', 'a', 'well-known', 'one']
    """
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def _tokenise(texts: Sequence[Sequence[str]], tokens: Tokens) -> list[list[str]]:
    """Return the texts with one space between words."""
    if tokens == "words":
        return [[" ".join(split_words(text)) for text in group] for group in texts]
    if shutil.which("java") is None:
        raise DataError("the PTB tokenizer needs Java, which is not installed; install it, or take tokens='words'.")
    try:
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ModuleNotFoundError:
        raise _not_installed() from None
    # It reads a line per text: a line break in one would shift all that follow, and an empty last one would be lost.
    lines = {place: [{"caption": " ".join(text.split())} for text in group] for place, group in enumerate(texts)}
    lines[len(texts)] = [{"caption": "end"}]
    try:
        found = PTBTokenizer().tokenize(lines)
    except OSError as error:  # it writes beside its own code
        raise DataError(f"the PTB tokenizer cannot run ({error}); make it work, or take tokens='words'.") from None
    if any(len(found.get(place, ())) != len(group) for place, group in lines.items()):
        raise DataError("the PTB tokenizer failed, see its message above; make it work, or take tokens='words'.")
    return [found[place] for place in range(len(texts))]


def _not_installed() -> ConfigError:
    return ConfigError(
        "CIDEr-D and BLEU need pycocoevalcap, which is not installed; pip install 'safe-rl-audio[captions]'."
    )

"""How hard a question that needs audio is, from its type and the length of its clip: the order of the curriculum.

In: the facts of questions. Out: for each of them the share of the others that are easier. No medium is opened, and no
question is ever answered: the order is the same for every model.

Hops are the steps of reasoning between the clip and the answer (GQA, arXiv:1902.09506, counts steps too):

    1   a sound is recognised                               "do you hear a dog?", MUSIC-AVQA's Existential
    2   and counted, placed, or tied to something seen      Counting, Location; SoundScenes' av questions
    3   and compared with others, in time or by cause       Comparative, Temporal; AVQA's Before Next, When, Why

A type that is not in the table, and the length of a clip in a file, which facts do not tell, are unknown, and unknown
is neither easy nor hard: it counts as the middle.
"""

from __future__ import annotations

import numpy as np

from supervised.data.facts import Facts

SCENE_HOPS = {"audio": 1, "av": 2}
"""SoundScenes: by the family of a type, which it writes in small letters."""
HOPS = {
    "existential": 1,
    "which": 1,
    "happening": 1,
    "yes_no": 1,
    "sound/open": 1,
    "counting": 2,
    "location": 2,
    "where": 2,
    "come from": 2,
    "used for": 2,
    "comparative": 3,
    "temporal": 3,
    "before next": 3,
    "when": 3,
    "why": 3,
    "caption/open": 3,
    "dialogue": 3,
}
"""By the type, or by what stands after its last `/`, in small letters: MUSIC-AVQA, AVQA, AVSD, captions and labels."""
MIDDLE = 0.5


def hops(kind: str) -> int | None:
    """Return the hops of a type of question, None where they are not known.

    >>> [hops(kind) for kind in ("audio/count", "Audio-Visual/Counting", "Both/Before Next", "colours")]
    [1, 2, 3, None]
    """
    family, _, _ = kind.partition("/")
    if family in SCENE_HOPS:
        return SCENE_HOPS[family]
    name = kind.casefold()
    return HOPS.get(name, HOPS.get(name.rpartition("/")[2]))


def difficulty(facts: Facts, rows: np.ndarray) -> np.ndarray:
    """Return the share of `rows` that are easier than each of them, float64 [m] in [0, 1).

    The easiest has 0, and `rows[difficulty(facts, rows) < share]` are the easiest `share` of them, rounded up. A row is
    judged by the mean of two rank shares in [0, 1], that of its hops and that of the length of its clip, each among the
    rows where it is known and `MIDDLE` where it is not; equals share their mean rank. Rows that are equally hard follow
    the hash of their ids, so that neither their order nor the machine matters.

    Args:
        facts: of all questions.
        rows: those that need audio and may be drawn, int64 [m], each once.
    """
    known = [hops(kind) for kind in facts.types]
    by_type = np.array([np.nan if count is None else count for count in known], dtype=np.float64)  # (T,)
    score = _rank_shares(by_type[facts.kinds[rows]]) + _rank_shares(facts.seconds[rows].astype(np.float64))  # (m,)
    result = np.empty(len(rows))
    result[np.lexsort((facts.ids[rows], score))] = np.arange(len(rows)) / max(1, len(rows))
    return result


def _rank_shares(values: np.ndarray) -> np.ndarray:
    """Return the share of values below each, half of its equals counted, float64 [m]; `MIDDLE` for NaN."""
    result = np.full(len(values), MIDDLE)
    known = np.isfinite(values)
    if known.any():
        _, place, counts = np.unique(values[known], return_inverse=True, return_counts=True)
        result[known] = ((np.cumsum(counts) - counts / 2) / known.sum())[place]
    return result

"""Which questions a batch of Stage A holds: so many that need audio, so many that do not, sets by weight.

In: the facts of the questions and which of them may be drawn. Out: rows, batch by batch. Each set runs through shuffled
epochs of its own; nothing but one permutation of whole numbers per set is kept. A curriculum may restrict the questions
that need audio, and their share, while it draws. The state is a few numbers as JSON, and a sampler that takes it over,
restricted in the same way, goes on exactly there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from supervised.data.facts import Facts
from supervised.errors import CheckpointError, ConfigError, DataError

RETENTION_BUFFER = 10_000
"""Retention questions that are held out, so that the drop is measured on what no training has seen."""


class MixtureSampler:
    """Batches at a given share of questions that need audio.

    Args:
        facts: Of all questions.
        batch_size: Questions per batch.
        audio_share: Share of questions that need audio in every batch; what is rounded off is owed to the next one.
        weights: Set -> how much more often than by its size it is drawn, among the sets of its kind; 1 where it is not
            named, 0 leaves it out.
        seed: Of the shuffles.
        usable: Which may be drawn, int64 [m]; None: those with a clip.

    Raises:
        ConfigError: a share or a weight is out of range, or a weight is for no set that there is.
        DataError: there is no question of a kind that the share asks for.
    """

    def __init__(
        self,
        facts: Facts,
        batch_size: int,
        audio_share: float = 0.5,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        usable: np.ndarray | None = None,
    ) -> None:
        weights = dict(weights or {})
        if not 0 <= audio_share <= 1:
            raise ConfigError(f"the audio share must lie between 0 and 1, got {audio_share}; use e.g. 0.5.")
        if batch_size < 1:
            raise ConfigError(f"the batch size must be at least 1, got {batch_size}; use e.g. 32.")
        if seed < 0:
            raise ConfigError(f"the seed must not be below 0, got {seed}; use e.g. 0.")
        if unknown := sorted(set(weights) - set(facts.sets)):
            raise ConfigError(f"weights name the sets {unknown}; there are: {', '.join(facts.sets)}; correct them.")
        if wrong := {name: weight for name, weight in weights.items() if not 0 <= weight < math.inf}:
            raise ConfigError(f"weights must be 0 or more and finite, got {wrong}; use 1 for a set's own size.")
        rows = np.flatnonzero(facts.has_audio) if usable is None else np.asarray(usable, dtype=np.int64)
        self.batch_size, self.audio_share = batch_size, audio_share
        self._kinds = {
            kind: _Kind(facts, rows[facts.retention[rows] == (kind == "retention")], weights, (seed, place))
            for place, kind in enumerate(("audio", "retention"))
        }
        self._owed = 0.0  # questions that need audio and were not drawn yet: less than one
        self._check()

    def draw(self) -> np.ndarray:
        """Return the rows of the next batch, int64 [batch_size]: those that need audio first."""
        self._owed += self.audio_share * self.batch_size
        audio = min(int(self._owed + 1e-9), self.batch_size)  # 10 times 0.1 is a whole question
        self._owed -= audio
        return np.concatenate(
            [self._kinds["audio"].draw(audio), self._kinds["retention"].draw(self.batch_size - audio)]
        )

    @property
    def audio_rows(self) -> np.ndarray:
        """Questions that need audio and may be drawn when nothing is restricted, int64 [m], ascending."""
        return np.sort(self._kinds["audio"].all_rows)

    def restrict(self, audio_share: float, rows: np.ndarray) -> None:
        """Draw, from the next batch on, other questions that need audio, and at another share.

        A set whose questions stay the same goes on in its epoch; the others begin their next one. A sampler that is
        made for `set_state` is restricted first, to what held when the state was taken; how often it was restricted
        before does not matter.

        Args:
            audio_share: share of questions that need audio in every batch.
            rows: which of `audio_rows` may be drawn, int64 [m]; their order does not matter.

        Raises:
            ConfigError: the share is out of range.
            DataError: `rows` holds others than those, or there is no question of a kind that the share asks for.
        """
        if not 0 <= audio_share <= 1:
            raise ConfigError(f"the audio share must lie between 0 and 1, got {audio_share}; use e.g. 0.5.")
        self._kinds["audio"].restrict(np.unique(np.asarray(rows, dtype=np.int64)))
        self.audio_share = audio_share
        self._check()

    def get_state(self) -> dict[str, Any]:
        """Return where the sampler stands, as JSON."""
        return {"owed": self._owed} | {kind: sets.get_state() for kind, sets in self._kinds.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `get_state` was called.

        Raises:
            CheckpointError: the state is of other questions or other sets.
        """
        for kind, sets in self._kinds.items():
            sets.set_state(state[kind])
        self._owed = float(state["owed"])

    def _check(self) -> None:
        """Refuse a share of a kind that has no question."""
        for kind, share in (("audio", self.audio_share), ("retention", 1 - self.audio_share)):
            if share > 0 and not self._kinds[kind]:
                raise DataError(
                    f"there is no {kind} question with a clip and a weight above 0, but {100 * share:.0f} % of a batch "
                    "are to be such; add some, or change the audio share."
                )


class _Kind:
    """The sets of one kind; the next question is of the set that is most behind its share."""

    def __init__(self, facts: Facts, rows: np.ndarray, weights: Mapping[str, float], seed: tuple[int, int]) -> None:
        codes = facts.codes[rows]
        self.sets: dict[str, _Epochs] = {}
        for code in np.unique(codes).tolist():
            name = facts.sets[code]
            if weights.get(name, 1.0) > 0:
                self.sets[name] = _Epochs(rows[codes == code], (*seed, code))
        self._weights = np.array([weights.get(name, 1.0) for name in self.sets])
        self._owed = np.zeros(len(self.sets))
        self._share_out()

    @property
    def all_rows(self) -> np.ndarray:
        return np.concatenate([*(each.all_rows for each in self.sets.values()), np.zeros(0, dtype=np.int64)])

    def __len__(self) -> int:
        return sum(len(each.rows) for each in self.sets.values())

    def restrict(self, rows: np.ndarray) -> None:
        """Draw only `rows`, int64 [m] without doubles, of those there were at first; sets keep their places."""
        if foreign := int((~np.isin(rows, self.all_rows)).sum()):
            raise DataError(f"{foreign} of {len(rows)} rows are none that the sampler may draw; give rows of its own.")
        changed = [each.restrict(np.isin(each.all_rows, rows)) for each in self.sets.values()]
        if any(changed):  # what a set was owed was owed by other shares
            self._owed[:] = 0
            self._share_out()

    def _share_out(self) -> None:
        """Compute how often each set is drawn, by its size and weight."""
        sizes = self._weights * np.array([len(each.rows) for each in self.sets.values()])
        self._shares = sizes / sizes.sum() if len(self) else np.zeros(len(sizes))

    def draw(self, count: int) -> np.ndarray:
        """Return the next rows, int64 [count]."""
        drawn = np.zeros(len(self.sets), dtype=np.int64)
        for _ in range(count):
            self._owed += self._shares
            most = int(self._owed.argmax())
            self._owed[most] -= 1
            drawn[most] += 1
        parts = [each.draw(number) for each, number in zip(self.sets.values(), drawn.tolist(), strict=True)]
        return np.concatenate([*parts, np.zeros(0, dtype=np.int64)])

    def get_state(self) -> dict[str, Any]:
        return {"owed": self._owed.tolist(), "sets": {name: each.get_state() for name, each in self.sets.items()}}

    def set_state(self, state: Mapping[str, Any]) -> None:
        if list(state["sets"]) != list(self.sets):
            raise CheckpointError(
                f"the sampler's state is of the sets {list(state['sets'])}, here are {list(self.sets)}; resume with "
                "the data and weights of the run."
            )
        for name, each in self.sets.items():
            each.set_state(state["sets"][name], name)
        self._owed = np.array(state["owed"], dtype=np.float64)


class _Epochs:
    """Rows in shuffled epochs without replacement; an epoch's order depends on its number alone."""

    def __init__(self, rows: np.ndarray, seed: tuple[int, ...]) -> None:
        self.all_rows = self.rows = rows
        self.seed = seed
        self.epoch = self.cursor = 0
        self._order = self._shuffled(0)

    def restrict(self, among: np.ndarray) -> bool:
        """Go on with `all_rows[among]`, bool [m], in a new epoch if they are others; return whether they are."""
        rows = self.all_rows[among]
        if np.array_equal(rows, self.rows):
            return False
        self.rows, self.epoch, self.cursor = rows, self.epoch + 1, 0
        self._order = self._shuffled(self.epoch)
        return True

    def draw(self, count: int) -> np.ndarray:
        parts = []
        while count > 0:
            if self.cursor == len(self.rows):
                self.epoch, self.cursor = self.epoch + 1, 0
                self._order = self._shuffled(self.epoch)
            piece = self._order[self.cursor : self.cursor + count]
            self.cursor, count = self.cursor + len(piece), count - len(piece)
            parts.append(self.rows[piece])
        return np.concatenate([*parts, np.zeros(0, dtype=np.int64)])

    def get_state(self) -> dict[str, int]:
        return {"questions": len(self.rows), "epoch": self.epoch, "cursor": self.cursor}

    def set_state(self, state: Mapping[str, Any], name: str) -> None:
        if state["questions"] != len(self.rows) or not 0 <= state["cursor"] <= len(self.rows):
            raise CheckpointError(
                f"the sampler's state is of {state['questions']} questions of the set {name}, here are "
                f"{len(self.rows)}; resume with the data of the run."
            )
        self.epoch, self.cursor = int(state["epoch"]), int(state["cursor"])
        self._order = self._shuffled(self.epoch)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([*self.seed, epoch]).permutation(len(self.rows))


def hold_out(facts: Facts, count: int = RETENTION_BUFFER, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Set retention questions aside for good, whole groups at a time.

    Groups are taken in an order that depends on their names and the seed only, until they hold `count` retention
    questions: adding questions of other groups changes little, and two runs hold out the same. A question of a
    group that is held out is never trained on, whether or not it needs audio.

    Returns:
        Rows of the retention questions held out, int64, `count` of them or, with the last group, a few more; and rows
        that may be trained on, int64. Both ascend.

    Raises:
        DataError: there are fewer than `count` retention questions, or nothing would be left to train on.
    """
    found = int(facts.retention.sum())
    if not 0 <= count <= found:
        raise DataError(f"{count} retention questions are to be held out, there are {found}; ask for fewer.")
    names, group = np.unique(facts.groups, return_inverse=True)  # (G,), (n,)
    questions = np.bincount(group, facts.retention).astype(np.int64)  # (G,)
    order = np.argsort(_mix(names, seed), kind="stable")
    order = order[questions[order] > 0]  # a group without retention questions need not go
    taken = order[: int(np.searchsorted(np.cumsum(questions[order]), count)) + 1] if count else order[:0]
    held = np.isin(group, taken)  # (n,)
    if held.all():
        raise DataError(f"holding out {count} retention questions takes every group; ask for fewer.")
    return np.flatnonzero(held & facts.retention), np.flatnonzero(~held)


def _mix(values: np.ndarray, seed: int) -> np.ndarray:
    """Return other 64 bits for each value, uint64, that depend on it and the seed (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))

"""How captions, sound labels and transcripts become questions: the sentences, and which wrong ones are asked about.

An open question has the clip's texts as its answers. A yes-or-no question is asked once about a right text and, for
each of `negatives`, about a wrong one, which is drawn by the seed and the clip's name alone.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

SOUND_OPEN = ("Which sound can be heard?", "What is making the sound?", "What do you hear?")
SOUND_YES_NO = ("Is there {text}?", "Can you hear {text}?", "Is {text} to be heard?")
HEARD_OPEN = ("Describe what you hear.", "What can be heard?", "What is happening, judging by the sound?")
HEARD_YES_NO = ('Does this describe what you hear: "{text}"?', 'Is this what is heard: "{text}"?')
SEEN_OPEN = ("Describe the picture.", "What does the picture show?", "What can be seen in the picture?")
SEEN_YES_NO = ('Does this describe the picture: "{text}"?', 'Is this what the picture shows: "{text}"?')
SAID_OPEN = ("What is said?", "What does the speaker say?", "Write down what is said.")
SAID_YES_NO = ('Is this what is said: "{text}"?', 'Does the speaker say: "{text}"?')
COMMON = 10
"""A word that stands in more labels than this, such as `playing`, does not make two sounds alike."""


@dataclass(frozen=True)
class Asked:
    """A question that a template gave."""

    name: str
    """What tells it from the others of its clip."""
    question: str
    answers: tuple[str, ...]
    form: str
    """`open` or `yes_no`."""


def ask(
    clip: str,
    right: Sequence[str],
    wrong: Sequence[str],
    sentences: tuple[Sequence[str], Sequence[str]],
    forms: str,
    seed: int,
) -> list[Asked]:
    """Return a clip's questions.

    Args:
        clip: name of the clip or picture.
        right: texts that are true of it; all are answers of the open question, one is asked about.
        wrong: texts that are not; all are asked about.
        sentences: templates of the open question, and of yes-or-no questions.
        forms: `open`, `yes_no` or `both`.
        seed: of the choice of templates and of the right text.
    """
    generator = random.Random(f"{seed}:{clip}:sentences")
    question, about = generator.choice(sentences[0]), generator.choice(right)
    asked = []
    if forms in ("open", "both"):
        asked.append(Asked("open", question, tuple(right), "open"))
    if forms in ("yes_no", "both"):
        for name, said, answer in (
            ("yes", about, "yes"),
            *((f"no-{i}", text, "no") for i, text in enumerate(wrong, 1)),
        ):
            asked.append(Asked(name, generator.choice(sentences[1]).format(text=said), (answer,), "yes_no"))
    return asked


def other_texts(
    clip: str, texts: Mapping[str, Sequence[str]], clips: Sequence[str], count: int, seed: int
) -> list[str]:
    """Return up to `count` texts of other clips that this clip does not have itself.

    Args:
        clip: name of the clip.
        texts: clip -> its texts.
        clips: the names of all clips, in a fixed order.
        count: how many are wanted; fewer come back only where the others have no other texts.
        seed: of the draw.
    """
    generator = random.Random(f"{seed}:{clip}:negatives")
    own = {text.lower() for text in texts[clip]}
    found: list[str] = []
    for _ in range(20 * count):
        if len(found) == count:
            break
        text = generator.choice(texts[generator.choice(clips)])
        if text.lower() not in own:
            own.add(text.lower())
            found.append(text)
    return found


class Labels:
    """The labels of a dataset, for drawing sounds that a clip does not have.

    A wrong label shares no word with a right one, but for words that stand in more than `COMMON` labels: a clip of
    `dog barking` is not asked about `dog bow-wow`, one of `playing flute` may be asked about `playing harp`.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(sorted(set(labels)))
        counts = Counter(word for label in self.labels for word in _words(label))
        common = {word for word, count in counts.items() if count > COMMON}
        self._words = {label: _words(label) - common for label in self.labels}

    def wrong(self, clip: str, right: Sequence[str], count: int, seed: int) -> list[str]:
        """Return `count` labels that the clip does not have, or as many as there are."""
        generator = random.Random(f"{seed}:{clip}:negatives")
        taken = frozenset().union(*(self._words[label] for label in right)) if right else frozenset()
        found: list[str] = []
        for label in self._drawn(generator, 20 * count):
            if len(found) == count:
                break
            if label not in right and label not in found and not self._words[label] & taken:
                found.append(label)
        return found

    def _drawn(self, generator: random.Random, tries: int) -> Iterator[str]:
        """Yield labels at random, then, for small and close sets of labels, every one of them."""
        for _ in range(tries):
            yield generator.choice(self.labels)
        yield from generator.sample(self.labels, len(self.labels))


def _words(label: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", label.lower()))

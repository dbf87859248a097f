"""The words of SoundScenes and the two tokenizers over them, one for the base and one for the encoder's captions."""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from supervised.demo.questions import COUNTS
from supervised.demo.world import CLASSES, COLORS, POSITIONS

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<image>")
IMAGE_TOKEN = "<image>"
_FUNCTION_WORDS = (
    "what color is the where how many things do you see a which thing sounds hear any sound does come from picture "
    "and nothing yes no answer empty an of in there are it that this with ? : . ,"
).split()


def words() -> list[str]:
    """Return the vocabulary in its fixed order, special tokens first."""
    places = [word for row in POSITIONS for place in row for word in place.split()]
    return list(dict.fromkeys([*SPECIAL, *CLASSES, *COLORS, *COUNTS, *places, *_FUNCTION_WORDS]))


def make_tokenizer(end: bool) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer that begins with <s>, and ends with </s> where `end` (captions)."""
    vocabulary = {word: i for i, word in enumerate(words())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if end else "<s> $A", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=[IMAGE_TOKEN],
        padding_side="left" if not end else "right",
        model_max_length=64,
    )

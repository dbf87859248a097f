"""What holds for every family of bases: without audio nothing changes, with audio the answer follows from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch

from supervised.base import generator, has_encoder, keeps_state, resolve_stack, weights_sha256
from supervised.call import Asked, Calls
from supervised.errors import ModelError
from supervised.injection import Heard, hearing
from supervised.probe import probe
from supervised.safe_model import SafeModel

NEW = 4
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3},
    "sampled": {"do_sample": True, "top_k": 0, "temperature": 1.5},
    "uncached": {"do_sample": False, "use_cache": False},
    "static": {"do_sample": False, "cache_implementation": "static"},
}


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view({4: torch.int32, 2: torch.int16}[tensor.element_size()])


def _equal(first: Any, second: Any, row: int | None = None) -> bool:
    """Equal ids and, at every step, logits that are equal as integers; of one row, or of all."""
    rows = slice(None) if row is None else slice(row, row + 1)
    beams = len(first.logits[0]) // len(first.sequences)
    steps = slice(None) if row is None else slice(row * beams, (row + 1) * beams)
    return torch.equal(first.sequences[rows], second.sequences[rows]) and all(
        torch.equal(_bits(a[steps]), _bits(b[steps])) for a, b in zip(first.logits, second.logits, strict=True)
    )


def _close(first: Any, second: Any, row: int) -> bool:
    """The same ids, and logits as equal as sums in another order are."""
    beams = len(first.logits[0]) // len(first.sequences)
    steps = slice(row * beams, (row + 1) * beams)
    return torch.equal(first.sequences[row], second.sequences[row]) and all(
        torch.allclose(a[steps], b[steps], atol=1e-5) for a, b in zip(first.logits, second.logits, strict=True)
    )


def _decoder(setting: Any) -> dict[str, torch.Tensor]:
    """What an encoder-decoder needs besides its prompt for a forward pass."""
    if not has_encoder(setting.base):
        return {}
    return {"decoder_input_ids": torch.zeros(len(setting.inputs["input_ids"]), 2, dtype=torch.long)}


def _forward(setting: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        return setting.model.forward({**setting.inputs, **_decoder(setting)}, *args, **kwargs).logits


@contextmanager
def _settings(setting: Any, **changes: Any) -> Iterator[None]:
    """Within the block the base's own generation settings are others."""
    settings = generator(setting.base).generation_config
    before = {name: getattr(settings, name) for name in changes}
    settings.update(**changes)
    try:
        yield
    finally:
        settings.update(**before)


def _plain(setting: Any, inputs: Any = None, **way: Any) -> Any:
    """The base alone, without anything of ours."""
    torch.manual_seed(3)
    return setting.base.generate(
        **(setting.inputs if inputs is None else inputs),
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        return_dict_in_generate=True,
        output_logits=True,
        **way,
    )


def _hearing(setting: Any) -> AbstractContextManager[None]:
    where = setting.inputs["attention_mask"].bool()
    return hearing(setting.model.stack, setting.model.adapter, Heard(setting.audio, 1.0, where))


def _heard(setting: Any, **way: Any) -> Any:
    with _hearing(setting):
        return _plain(setting, **way)


def test_every_family_of_the_auto_class_is_accounted_for(families: list[Any], not_small: dict[str, str]) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    small = {family.model_type or family.name for family in families}
    assert not small & not_small.keys()
    known = small | not_small.keys()
    # Families of a later transformers are none of ours yet; those of an earlier one are some of these.
    assert MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys() <= known
    accepted = [family for family in families if not family.refused]
    assert (len(accepted), len(families) - len(accepted), len(not_small)) == (56, 14, 29)


def test_audio_enters_and_its_absence_changes_nothing(accepted: Any, make: Callable[..., Any]) -> None:
    setting = make(accepted)
    with torch.no_grad():
        plain = setting.base(**setting.inputs, **_decoder(setting)).logits
    assert torch.equal(_bits(_forward(setting)), _bits(plain))
    assert torch.equal(_bits(_forward(setting, setting.audio, 0.0)), _bits(plain))
    heard = _forward(setting, setting.audio)
    assert not torch.allclose(heard[0], plain[0], atol=1e-4)
    assert not torch.allclose(heard[1], plain[1], atol=1e-4)
    assert _equal(setting.model.generate(setting.inputs, setting.audio, 0.0), setting.model.generate(setting.inputs))
    assert not setting.model.stack._forward_pre_hooks


def test_a_family_that_cannot_hear_is_refused_with_the_reason(
    refused: Any, base_of: Callable[[Any], Any], questions: Callable[..., Any]
) -> None:
    base = base_of(refused)
    stack = resolve_stack(base)
    with pytest.raises(ModelError, match=f"^base [^\n]*{refused.refused}[^\n]*; give a model that merges pictures"):
        probe(base, stack, questions(base, refused))
    assert not stack._forward_pre_hooks


@pytest.mark.shows("gate 0", "no audio", "no row")
@pytest.mark.parametrize("way", WAYS)
def test_without_audio_the_answer_is_the_bases(setting: Any, way: str) -> None:
    plain, model = _plain(setting, **WAYS[way]), setting.model
    silences = ((setting.audio, 0.0), (None, 1.0), (setting.audio.rows([2, 2, 2]), 1.0))  # no row has audio
    if way == "sampled":  # `generate` never does, but the call that it would make is the same
        calls = Calls(setting.base, model.config.fusion)
        for audio, gate in silences:
            call = calls.prepare(setting.inputs, model.adapter, Asked(audio, gate))
            with call.hearing(model.stack):
                assert _equal(_plain(setting, call.arguments, **WAYS[way]), plain)
        return
    with _settings(setting, min_new_tokens=NEW, cache_implementation=WAYS[way].get("cache_implementation")):
        beams, cache = WAYS[way].get("num_beams", 1), WAYS[way].get("use_cache", True)
        for audio, gate in silences:
            ours = model.generate(setting.inputs, audio, gate, max_new_tokens=NEW, num_beams=beams, use_cache=cache)
            assert _equal(ours, plain)


@pytest.mark.shows("mixed rows")
@pytest.mark.parametrize("way", WAYS)
def test_a_row_without_audio_beside_others_answers_as_the_base(
    setting: Any, way: str, record_property: Callable[[str, object], None]
) -> None:
    if setting.family.experts:
        record_property("shown", "rounds")
    plain, heard = _plain(setting, **WAYS[way]), _heard(setting, **WAYS[way])
    assert _close(heard, plain, row=2) if setting.family.experts else _equal(heard, plain, row=2)
    assert not _equal(heard, plain)


@pytest.mark.shows("no memory")
@pytest.mark.parametrize("way", WAYS)
def test_a_call_remembers_nothing_of_the_one_before(setting: Any, way: str) -> None:
    plain, heard = _plain(setting, **WAYS[way]), _heard(setting, **WAYS[way])
    assert _equal(_plain(setting, **WAYS[way]), plain)
    assert _equal(_heard(setting, **WAYS[way]), heard)


@pytest.mark.shows("several pictures")
def test_a_question_about_several_pictures_hears_and_is_the_bases_without_audio(
    setting: Any,
    questions: Callable[..., Any],
    sounds: Callable[[int, int], Any],
    record_property: Callable[[str, object], None],
) -> None:
    if setting.family.one_each:
        pytest.skip("the family takes one picture per question")
    if setting.family.experts:
        record_property("shown", "rounds")
    inputs = questions(setting.base, setting.family, (2, 2))
    starts = inputs["input_ids"] == 88  # before each picture
    assert starts.sum(1).tolist() == [2, 2]
    plain, audio = _plain(setting, inputs), sounds(2, 1)
    with _settings(setting, min_new_tokens=NEW):
        for silence, gate in ((None, 1.0), (audio, 0.0)):
            assert _equal(setting.model.generate(inputs, silence, gate, max_new_tokens=NEW), plain)
        heard = setting.model.generate(inputs, audio, max_new_tokens=NEW)
    assert not torch.equal(heard.logits[0][0], plain.logits[0][0])
    assert _close(heard, plain, row=1) if setting.family.experts else _equal(heard, plain, row=1)


def test_experts_let_a_row_depend_on_its_neighbours_in_the_base_itself(
    mixing: Any, base_of: Callable[[Any], Any], questions: Callable[..., Any]
) -> None:
    base = base_of(mixing)
    inputs = questions(base, mixing)
    seen = []
    for seed in range(6):
        ids = inputs["input_ids"].clone()
        words = (ids > 2) & (ids < 88)
        words[2] = False  # the row that is looked at
        ids[words] = torch.randint(20, 80, ids[words].shape, generator=torch.Generator().manual_seed(seed))
        seen.append(
            base.generate(
                **{**inputs, "input_ids": ids},
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                return_dict_in_generate=True,
                output_logits=True,
            )
        )
    assert not all(_equal(seen[0], other, row=2) for other in seen)
    assert all(_close(seen[0], other, row=2) for other in seen)


@pytest.mark.shows("cached = uncached = static")
def test_cached_uncached_and_static_decoding_agree_with_audio(setting: Any) -> None:
    cached = _heard(setting, **WAYS["greedy"])
    tolerance = 1e-3 if setting.base.dtype == torch.float32 else 0.1
    for way in ("uncached", "static"):
        other = _heard(setting, **WAYS[way])
        same = torch.ones(len(cached.sequences), dtype=torch.bool)  # rows whose answers have been equal so far
        for step, (a, b) in enumerate(zip(other.logits, cached.logits, strict=True)):
            assert bool(((a - b).abs().amax(1) <= tolerance * b.float().abs().amax(1).clamp(min=1))[same].all())
            place = step - NEW
            same &= other.sequences[:, place] == cached.sequences[:, place]
        assert bool(same.all()) or setting.base.dtype == torch.bfloat16  # rounding may decide between two words there


@pytest.mark.shows("gradients, SHA-256")
def test_gradients_reach_the_adapter_only_and_the_base_keeps_its_bytes(setting: Any) -> None:
    before = weights_sha256(setting.base)
    inputs = {**setting.inputs, **_decoder(setting)}
    loss = setting.model.forward(inputs, setting.audio).logits.float().logsumexp(-1).mean()
    trained = [parameter for parameter in setting.model.adapter.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in trained]
    optimiser = torch.optim.SGD(trained, lr=1e-3)
    loss.backward()
    assert all(parameter.grad is None for parameter in setting.base.parameters())
    assert sum(parameter.grad is not None and bool(parameter.grad.any()) for parameter in trained) > len(trained) / 2
    optimiser.step()
    optimiser.zero_grad()
    assert weights_sha256(setting.base) == before
    for parameter, value in zip(trained, start, strict=True):
        parameter.data.copy_(value)


@pytest.mark.shows("left padding")
def test_left_padding_does_not_change_an_answer_with_audio(setting: Any, questions: Callable[..., Any]) -> None:
    """The shortest question, alone and padded; where the base itself minds padding, the audio adds nothing to that."""
    inputs = setting.inputs
    pad = int((inputs["attention_mask"][0] == 0).sum())
    assert pad > 0
    alone = questions(setting.base, setting.family, (1,))
    padded = dict(alone)
    for name, fill in (("input_ids", 0), ("attention_mask", 0), ("mm_token_type_ids", 0), ("token_type_ids", 0)):
        if name in alone:
            padded[name] = torch.nn.functional.pad(alone[name], (pad, 0), value=fill)
    clip = setting.audio.rows([0])
    start = {"decoder_input_ids": torch.zeros(1, 2, dtype=torch.long)} if has_encoder(setting.base) else {}

    def gap(audio: Any) -> float:
        with torch.no_grad():
            short, long = (setting.model.forward({**given, **start}, audio).logits[:, -1] for given in (alone, padded))
        return float((short - long).abs().max() / short.abs().max())

    assert gap(clip) <= max(10 * gap(None), 1e-4 if setting.base.dtype == torch.float32 else 0.1)


@pytest.mark.shows("threads")
def test_threads_get_their_own_answers(
    setting: Any, questions: Callable[..., Any], sounds: Callable[[int, int], Any]
) -> None:
    """Other questions and other audio in each; positions that a base keeps for one of them are wrong for another."""
    model = setting.model
    asked = [questions(setting.base, setting.family, numbers) for numbers in ((1, 2, 1), (2, 1), (1, 1, 1, 1))]
    clips = [None, sounds(2, 1), sounds(4, 2)]

    def answer(which: int) -> Any:
        return model.generate(asked[which], clips[which], max_new_tokens=NEW)

    expected = [answer(which) for which in range(3)]
    results: list[list[bool]] = [[], [], []]

    def ask(which: int) -> None:
        for _ in range(3):
            results[which].append(_equal(answer(which), expected[which]))

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[True] * 3] * 3
    assert not model.stack._forward_pre_hooks


@pytest.mark.shows("exception")
def test_an_exception_inside_leaves_no_hook_behind(setting: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of luck")

    handle = setting.model.stack.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of luck"):
            setting.model.generate(setting.inputs, setting.audio)
    finally:
        handle.remove()
    assert not setting.model.stack._forward_pre_hooks
    with _settings(setting, min_new_tokens=NEW):
        assert _equal(setting.model.generate(setting.inputs, max_new_tokens=NEW), _plain(setting, do_sample=False))


@pytest.mark.shows("compiled")
def test_a_base_that_was_compiled_is_refused_and_never_silently_deaf(setting: Any) -> None:
    model = setting.model
    model.stack.compile(backend="eager")
    try:
        for audio in (None, setting.audio):
            with pytest.raises(ModelError, match=r"was compiled with torch\.compile"):
                model.generate(setting.inputs, audio)
            with pytest.raises(ModelError, match=r"was compiled with torch\.compile"):
                _forward(setting, audio)
        with pytest.raises(ModelError, match=r"was compiled with torch\.compile"):
            SafeModel(setting.base, None, model.encoder, model.adapter, model.config, model.fit)
    finally:
        model.stack._compiled_call_impl = None
    assert not _equal(model.generate(setting.inputs, setting.audio), model.generate(setting.inputs))


@pytest.mark.shows("state known")
def test_what_a_base_keeps_between_steps_is_known(setting: Any) -> None:
    """A family that starts to store tensors on its modules must be noticed, or threads would mix them up."""

    def stored() -> dict[str, Any]:
        return {
            f"{name}.{key}": value
            for name, module in setting.base.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, torch.Tensor)
        }

    before = stored()
    _plain(setting, do_sample=False)
    changed = {key for key, value in stored().items() if value is not before.get(key)}
    assert not changed or keeps_state(setting.base)
    assert all(key.endswith("rope_deltas") for key in changed)

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from supervised.config import FusionConfig
from supervised.errors import ModelError
from supervised.fusion.cross_attention import CrossAttentionFusion
from supervised.fusion.gated import GatedFusion
from supervised.fusion.parts import Listeners, Sound
from supervised.injection import Heard, hearing

if TYPE_CHECKING:
    from supervised.safe_model import SafeModel


def _gated(trained: bool = True) -> GatedFusion:
    torch.manual_seed(0)
    fusion = GatedFusion(FusionConfig(kind="gated", heads=2), 8, 0.5)
    if trained:
        torch.nn.init.normal_(fusion.contract.weight)
    return fusion


def _listeners(hears: list[list[bool]] | None = None) -> Listeners:
    hidden = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2))
    return Listeners(hidden, 0.5, torch.tensor(hears or [[True] * 3] * 2))


def _sound(mask: list[bool] | None = None) -> Sound:
    tokens = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1))
    return Sound(tokens, torch.tensor([mask or [True] * 4] * 2))


def test_the_gate_starts_at_one_half_and_scales_the_cross_attention() -> None:
    fusion, listeners, sound = _gated(trained=False), _listeners(), _sound()
    plain = CrossAttentionFusion(FusionConfig(heads=2), 8, 0.5)
    assert fusion.openness(listeners, sound).tolist() == [0.5, 0.5]
    assert torch.equal(fusion(listeners, sound), 0.5 * plain(listeners, sound))


def test_every_question_has_its_own_gate() -> None:
    listeners, sound = _listeners(), _sound()
    first, second = _gated().openness(listeners, sound).tolist()
    assert first != second
    other = Sound(sound.tokens.roll(1, 0), sound.mask)
    assert _gated().openness(listeners, other).tolist() != [first, second]


def test_positions_that_do_not_hear_and_masked_tokens_have_no_say() -> None:
    fusion, listeners, sound = (
        _gated(),
        _listeners([[True, True, False], [False, True, True]]),
        _sound([True] * 3 + [False]),
    )
    hidden, tokens = listeners.hidden.clone(), sound.tokens.clone()
    hidden[0, 2], hidden[1, 0], tokens[:, 3] = torch.nan, 99.0, torch.nan
    found = fusion.openness(Listeners(hidden, 0.5, listeners.hears), Sound(tokens, sound.mask))
    assert torch.equal(found, fusion.openness(listeners, sound))
    assert not torch.equal(found, fusion.openness(_listeners(), sound))


def test_the_prompt_is_pooled_as_a_mean_in_units() -> None:
    fusion, sound = _gated(), _sound()
    twice = Listeners(_listeners().hidden.repeat(1, 2, 1), 0.5, torch.ones(2, 6, dtype=torch.bool))
    bigger = Listeners(2 * _listeners().hidden, 1.0, torch.ones(2, 3, dtype=torch.bool))
    for same in (twice, bigger):
        torch.testing.assert_close(fusion.openness(same, sound), fusion.openness(_listeners(), sound))


def test_the_gate_can_look_at_one_word_among_hundreds_of_positions() -> None:
    fusion, sound = _gated(), _sound()
    word = torch.zeros(2, 1, 8)
    word[..., 0] = 4.0
    picture = torch.randn(2, 300, 8, generator=torch.Generator().manual_seed(3))
    picture[..., 0] = 0.0

    def openness(hidden: torch.Tensor) -> torch.Tensor:
        return fusion.openness(Listeners(hidden, 1.0, torch.ones(hidden.shape[:2], dtype=torch.bool)), sound)

    whole, alone = torch.cat([picture, word], 1), word
    assert not torch.allclose(openness(whole), openness(alone), atol=1e-2)  # at first all of it counts alike
    with torch.no_grad():
        fusion.look.weight[0, 0] = 20.0
    torch.testing.assert_close(openness(whole), openness(alone), atol=1e-4, rtol=0)


@pytest.mark.parametrize("bias", [-1e6, 1e6])
def test_the_gate_is_never_shut_and_never_whole(bias: float) -> None:
    fusion = _gated(trained=False)
    torch.nn.init.constant_(fusion.contract.bias, bias)
    gate = fusion.openness(_listeners(), _sound())
    assert bool(((gate > 0) & (gate < 1)).all())
    assert gate[0].item() == pytest.approx(1 / (1 + torch.tensor(-10.0 if bias > 0 else 10.0).exp().item()))


def test_a_row_where_nothing_hears_is_finite() -> None:
    assert torch.isfinite(_gated()(_listeners([[False] * 3, [True] * 3]), _sound())).all()


def test_a_prompt_in_chunks_is_refused_and_an_answer_in_steps_is_not(tiny_model: SafeModel) -> None:
    from transformers import DynamicCache

    from supervised.adapter import Adapter
    from supervised.config import ProjectorConfig

    audio = tiny_model.encode_audio([None, None])
    fusion = FusionConfig(kind="gated", layers=(1,))
    adapter = Adapter(ProjectorConfig(tokens=4), fusion, audio.tokens.shape[-1], 1.0, torch.zeros(32))
    ids = torch.randint(5, 40, (2, 12), generator=torch.Generator().manual_seed(0))
    hears = torch.tensor([[False] * 2 + [True] * 8] * 2)  # the last two positions are the answer

    def run(chunks: tuple[int, ...]) -> None:
        cache = DynamicCache()
        with torch.no_grad(), hearing(tiny_model.stack, adapter, Heard(audio, 1.0, hears), layers=(1,)):
            for part in ids.split(chunks, 1):
                tiny_model.base(input_ids=part, past_key_values=cache)

    run((10, 1, 1))
    run((2, 9, 1))  # what stands before the first position that hears may come apart
    with pytest.raises(ModelError, match="gated looks at the whole prompt; give the prompt in one piece"):
        run((5, 7))

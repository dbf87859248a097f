"""The tokens of an adapter: those of a budget, those that an adaptive projector closes, and their share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_adapters import GRID, everywhere, new_adapter, new_features, trained_adapter

from supervised.config import FusionConfig, ProjectorConfig
from supervised.errors import ConfigError
from supervised.projectors.adaptive import AdaptiveProjector


@pytest.mark.parametrize(("projector", "fusion"), GRID)
def test_tokens_made_before_say_what_tokens_made_now_say(projector: ProjectorConfig, fusion: FusionConfig) -> None:
    adapter, audio, hidden = trained_adapter(projector, fusion), new_features([True, True]), torch.randn(2, 3, 8)
    made = replace(audio, spoken=adapter.spoken(audio))
    now, before = (adapter(hidden, each, 1.0, everywhere(hidden)) for each in (audio, made))
    torch.testing.assert_close(before, now, rtol=1e-6, atol=1e-6)
    assert adapter.used_tokens(made).tolist() == adapter.used_tokens(audio).tolist()


def test_a_budget_buys_the_first_tokens_of_kinds_that_have_an_order() -> None:
    audio, hidden = new_features([True, True]), torch.randn(2, 3, 8)
    for kind in ("mlp", "resampler"):
        adapter = new_adapter(ProjectorConfig(kind=kind))
        every = adapter.spoken(audio)
        made = replace(audio, spoken=every)
        torch.testing.assert_close(adapter.spoken(audio, 4), every[:, :4], rtol=1e-5, atol=1e-6)
        few, same = (adapter(hidden, each, 1.0, everywhere(hidden), 4) for each in (audio, made))
        torch.testing.assert_close(few, same, rtol=1e-5, atol=1e-6)
        assert not torch.equal(few, adapter(hidden, audio, 1.0, everywhere(hidden)))
        assert adapter.used_tokens(audio, 4).tolist() == [4, 4]


def test_a_budget_for_an_adaptive_projector_is_refused() -> None:
    adapter, audio = new_adapter(ProjectorConfig(kind="adaptive")), new_features([True])
    for each in (audio, replace(audio, spoken=adapter.spoken(audio))):
        with pytest.raises(
            ConfigError, match="the adaptive projector chooses the number of tokens of each clip; leave"
        ):
            adapter(torch.randn(1, 3, 8), each, 1.0, torch.ones(1, 3, dtype=torch.bool), 4)


def test_closed_tokens_are_not_attended_to_and_not_counted() -> None:
    adapter, audio, hidden = (
        new_adapter(ProjectorConfig(kind="adaptive")),
        new_features([True, True, False]),
        torch.randn(3, 2, 8),
    )
    assert isinstance(adapter.projector, AdaptiveProjector)
    adapter.projector.openness.data = torch.tensor([3.0, -3.0, 2.0, -2.0, 0.0, 1.0, 1.0, 1.0])
    _, mask = adapter.tokens(audio)
    assert mask[0].tolist() == [True, True, False, True, False, False, True, True, True, True]
    assert adapter.used_tokens(audio).tolist() == [5, 5, 0]
    fused = adapter(hidden, audio, 1.0, everywhere(hidden))
    with torch.no_grad():
        for values in (adapter.projector.mlp.queries, adapter.projector.mlp.codes):
            values[[1, 3, 4]] = 99.0
    torch.testing.assert_close(adapter(hidden, audio, 1.0, everywhere(hidden)), fused)


def test_the_expected_number_of_tokens_is_the_sum_of_the_soft_gates_and_can_be_trained() -> None:
    adapter, audio = new_adapter(ProjectorConfig(kind="adaptive", tokens=3)), new_features([True, False])
    assert isinstance(adapter.projector, AdaptiveProjector)
    adapter.projector.openness.data = torch.tensor([0.0, 2.0, -30.0])
    expected = adapter.expected_tokens(audio)
    assert expected.tolist() == pytest.approx([0.5 + 0.880797, 0.0])
    expected.sum().backward()
    assert adapter.projector.openness.grad is not None
    assert adapter.projector.openness.grad.tolist() == pytest.approx([0.25, 0.104994, 0.0], abs=1e-5)
    assert adapter.projector.gate.grad is not None
    assert adapter.projector.gate.grad.any()
    assert new_adapter().expected_tokens(audio).tolist() == [4.0, 0.0]


def test_the_token_share_is_the_mean_over_clips_and_its_gradient_that_of_the_gates() -> None:
    adapter, audio = new_adapter(ProjectorConfig(kind="adaptive", tokens=3)), new_features([True, False, True])
    assert isinstance(adapter.projector, AdaptiveProjector)
    adapter.projector.openness.data = torch.tensor([0.0, 2.0, -30.0])
    share = adapter.token_share(audio)
    assert share.shape == ()
    assert share.item() == pytest.approx((0.5 + 0.880797) / 3)  # of both clips; the row without one does not count
    share.backward()
    assert adapter.projector.openness.grad is not None
    assert adapter.projector.openness.grad.tolist() == pytest.approx([0.25 / 3, 0.104994 / 3, 0.0], abs=1e-5)
    assert adapter.token_share(new_features([False, False])).item() == 0
    assert new_adapter().token_share(audio).item() == 1
    assert new_adapter().token_share(new_features([False])).item() == 0


def test_the_token_share_depends_on_the_clip_where_the_gates_do() -> None:
    adapter, audio = new_adapter(ProjectorConfig(kind="adaptive", tokens=3)), new_features([True, True])
    assert isinstance(adapter.projector, AdaptiveProjector)
    adapter.projector.gate.data = torch.randn(6)
    each = [adapter.token_share(audio.rows([row])).item() for row in (0, 1)]
    assert each[0] != each[1]
    assert adapter.token_share(audio).item() == pytest.approx(sum(each) / 2)


def test_a_sparsity_term_closes_all_tokens_and_a_task_that_needs_them_opens_them_again() -> None:
    adapter = new_adapter(ProjectorConfig(kind="adaptive", tokens=16))
    audio, hidden = new_features([True] * 4), torch.randn(4, 3, 8)
    adapter.markers.data.zero_()
    target = adapter(hidden, audio, 1.0, everywhere(hidden)).detach()  # with every token open
    assert isinstance(adapter.projector, AdaptiveProjector)
    optimizer = torch.optim.Adam([adapter.projector.gate, adapter.projector.openness], lr=0.1)

    def steps(sparsity: float, task: float) -> int:
        for _ in range(150):
            optimizer.zero_grad()
            error = (adapter(hidden, audio, 1.0, everywhere(hidden)) - target).square().sum()
            (sparsity * adapter.token_share(audio) + task * error).backward()
            optimizer.step()
        return int(adapter.used_tokens(audio).sum())

    assert steps(sparsity=1.0, task=0.0) == 0
    assert steps(sparsity=0.0, task=1.0) > 10


def test_tokens_in_the_bases_own_sequence_train_the_gates_too() -> None:
    adapter, audio = new_adapter(ProjectorConfig(kind="adaptive", tokens=4)), new_features([True])
    tokens, mask = adapter.tokens(audio)
    assert torch.equal(tokens[:, 1:-1], adapter.spoken(audio))
    (tokens * mask[..., None]).square().sum().backward()
    assert isinstance(adapter.projector, AdaptiveProjector)
    assert adapter.projector.openness.grad is not None
    assert adapter.projector.openness.grad.gt(0).all()

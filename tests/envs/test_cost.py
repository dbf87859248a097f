"""Latencies computed from a profile by hand, and the profile's file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from envs.actions import Action
from envs.cost import LatencyProfile
from supervised.errors import TableError

PROFILE = LatencyProfile(
    decode_ms=1,
    decode_ms_per_s=2,
    preview_ms=0.5,
    encoder_ms=3,
    encoder_ms_per_s=0.25,
    fusion_ms=1.5,
    base_ms=20,
    second_ms=12,
    prompt_token_ms=0.125,
    prompt_tokens=20,
    answer_token_ms=4,
    gate_ms=0.25,
)


def test_skip_pays_the_glance_the_gate_and_the_base_pass() -> None:
    # decode 1 + 2 * 1 s, preview 0.5, gate 0.25, base 20 + 8 * 0.125, one more answer token 4
    assert PROFILE.latency_ms(4.0, 28, [2, 1], Action.SKIP) == 3 + 0.5 + 0.25 + 21 + 4


def test_use_in_a_cascade_adds_the_rest_of_the_clip_and_a_second_pass() -> None:
    skip = PROFILE.latency_ms(4.0, 28, [2, 3], Action.SKIP)
    # decode 3 s more 6, encoder 3 + 4 * 0.25, fusion 1.5, second pass 12 + 1, two more answer tokens 8
    assert PROFILE.latency_ms(4.0, 28, [2, 3], Action.USE) == skip + 6 + 4 + 1.5 + 13 + 8


def test_use_in_a_router_replaces_the_plain_pass() -> None:
    # glance 3.5, gate 0.25, decode 6, encoder 4, fusion 1.5, one full pass 21 + two answer tokens 8
    use = PROFILE.latency_ms(4.0, 28, [2, 3], Action.USE, mode="router")
    assert use == 3.5 + 0.25 + 6 + 4 + 1.5 + 21 + 8
    skip = PROFILE.latency_ms(4.0, 28, [2, 3], Action.SKIP, mode="router")
    assert skip == PROFILE.latency_ms(4.0, 28, [2, 3], Action.SKIP)


def test_a_clap_preview_pays_the_encoder_before_the_decision() -> None:
    # decode 1 + 8, encoder 4, gate 0.25, base 21 + 4; USE adds fusion and the second pass only
    skip = PROFILE.latency_ms(4.0, 28, [2, 3], Action.SKIP, preview="clap")
    assert skip == 9 + 4 + 0.25 + 25
    assert PROFILE.latency_ms(4.0, 28, [2, 3], Action.USE, preview="clap") == skip + 1.5 + 13 + 8


def test_without_a_clip_both_actions_cost_the_same() -> None:
    assert PROFILE.latency_ms(None, 20, [1, 1], Action.SKIP) == 20.25
    assert PROFILE.latency_ms(None, 20, [1, 1], Action.USE) == 20.25


def test_a_short_clip_is_glanced_at_whole() -> None:
    # decode 1 + 2 * 0.5; USE decodes nothing more: encoder 3 + 0.125, fusion 1.5, second 12
    skip = PROFILE.latency_ms(0.5, 20, [1, 1], Action.SKIP)
    assert skip == 2 + 0.5 + 0.25 + 20
    assert PROFILE.latency_ms(0.5, 20, [1, 1], Action.USE) == skip + 3.125 + 1.5 + 12


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    PROFILE.save(tmp_path / "latency.json")
    assert LatencyProfile.load(tmp_path / "latency.json") == PROFILE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "its entries must be"),
        ('{"base_ms": 1}', "its entries must be answer_token_ms"),
        (None, "its numbers must be finite and >= 0"),
    ],
)
def test_a_damaged_profile_is_refused_with_a_remedy(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(vars(PROFILE) | {"base_ms": -1}) if text is None else text)
    with pytest.raises(TableError, match=rf"cannot be used \({reason}.*delete it to measure again"):
        LatencyProfile.load(path)
    with pytest.raises(TableError, match=r"gone\.json cannot be used"):
        LatencyProfile.load(tmp_path / "gone.json")


def test_use_in_a_cascade_and_in_a_router_are_the_formulas_of_both_modes_by_hand() -> None:
    # t_V = 20 + 8 * 0.125 + 4, t_g = 0.25; the clip: decode 1 + 2 * 4 s, preview 0.5, encoder 3 + 0.25 * 4 s
    base, gate, audio = 25.0, 0.25, 9 + 0.5 + 4
    skip = 25 + gate + 3 + 0.5
    for mode in ("cascade", "router"):
        assert PROFILE.latency_ms(4.0, 28, [2, 3], Action.SKIP, mode=mode) == skip
    # cascade: t_V + t_g + the increment, a pass that has the picture; router: t_g + t_AV, a pass that encodes it
    assert PROFILE.latency_ms(4.0, 28, [2, 3], Action.USE) == base + gate + audio + 1.5 + (12 + 1 + 8)
    assert PROFILE.latency_ms(4.0, 28, [2, 3], Action.USE, mode="router") == gate + audio + 1.5 + (20 + 1 + 8)


def test_a_router_that_uses_audio_does_not_wait_for_the_plain_answer() -> None:
    short, long = (PROFILE.latency_ms(4.0, 28, [n, 2], Action.USE, mode="router") for n in (1, 8))
    assert short == long
    short, long = (PROFILE.latency_ms(4.0, 28, [n, 2], Action.USE, mode="cascade") for n in (1, 8))
    assert long - short == 7 * 4


def test_a_budget_pays_its_own_fusion_and_an_unknown_one_that_of_all_tokens() -> None:
    profile = replace(PROFILE, budget_ms={"4": 0.75, "8": 1.25})
    use = profile.latency_ms(4.0, 28, [2, 3], Action.USE)
    for mode in ("cascade", "router"):
        costs = {
            budget: profile.latency_ms(4.0, 28, [2, 3], Action.USE, mode, budget=budget) for budget in (None, 4, 8, 16)
        }
        assert costs[4] == costs[None] - 0.75
        assert costs[8] == costs[None] - 0.25
        assert costs[16] == costs[None]
    assert profile.latency_ms(4.0, 28, [2, 3], Action.USE, budget=4) == use - 0.75
    assert profile.latency_ms(None, 28, [2, 3], Action.USE, budget=4) == 25.25


def test_budgets_are_written_and_read_where_there_are_any(tmp_path: Path) -> None:
    PROFILE.save(tmp_path / "without.json")
    assert "budget_ms" not in json.loads((tmp_path / "without.json").read_text())
    profile = replace(PROFILE, budget_ms={"4": 0.75})
    profile.save(tmp_path / "with.json")
    assert LatencyProfile.load(tmp_path / "with.json") == profile
    damaged = profile.as_json() | {"budget_ms": {"4": -1.0}}
    (tmp_path / "with.json").write_text(json.dumps(damaged))
    with pytest.raises(TableError, match="its numbers must be finite and >= 0"):
        LatencyProfile.load(tmp_path / "with.json")

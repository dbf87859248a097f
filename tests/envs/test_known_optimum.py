from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.config import RewardConfig
from envs.known_optimum import KnownProblem, KnownTable, random_problem, write_known_table
from envs.outcomes import OutcomeTable

REWARD = RewardConfig(alpha=0.6, gamma=0.1)
"""An audio call costs 0.6 / 4 = 0.15."""
CELL = np.array([0.5, 0.5])
KIND = np.array([[0.5, 0.5], [0.0, 1.0]])
SCORE = np.array([[[0.9, 0.8], [0.2, 0.8]], [[0.9, 0.9], [0.5, 0.9]]])
"""Cell 0 is half retention, where audio loses 0.1, half audio, where it gains 0.6; cell 1 is audio alone."""
PROBLEM = KnownProblem(CELL, KIND, SCORE)


def test_rewards_and_costs_of_two_cells_are_as_computed_by_hand() -> None:
    # Cell 0: (0.9 + 0.2) / 2 = 0.55, and (0.8 + 0.8) / 2 - 0.1 / 2 - 0.15 = 0.6. Cell 1: 0.5, and 0.9 - 0.15 = 0.75.
    np.testing.assert_allclose(PROBLEM.reward(REWARD), [[0.55, 0.6], [0.5, 0.75]])
    # A quarter of all questions is retention. Cell 0: half of them lose 0.1, so 0.05 / 0.25 = 0.2.
    assert PROBLEM.rates == pytest.approx([0.25])
    np.testing.assert_allclose(PROBLEM.cost(), [[[0.0, 0.2]], [[0.0, 0.0]]])


@pytest.mark.parametrize(
    ("limit", "use", "utility", "multiplier"),
    [
        # Using audio everywhere drops retention by 0.1; a limit of 0.04 allows 0.4 of cell 0, which gains 0.05 there.
        (0.04, 0.4, 0.5 * (0.55 + 0.4 * 0.05) + 0.5 * 0.75, 0.05 / 0.2),
        (0.08, 0.8, 0.67, 0.25),
        (0.2, 1.0, 0.675, 0.0),
    ],
)
def test_the_linear_program_of_two_cells_is_solved_as_by_hand(
    limit: float, use: float, utility: float, multiplier: float
) -> None:
    best = PROBLEM.optimum(np.array([limit]), REWARD)
    np.testing.assert_allclose(best.policy, [[1 - use, use], [0.0, 1.0]], atol=1e-9)
    assert best.utility == pytest.approx(utility)
    assert best.never == pytest.approx(0.525)
    assert best.multiplier == pytest.approx([multiplier])


def test_the_price_of_a_budget_grows_with_it() -> None:
    problem = KnownProblem(np.ones(1), np.ones((1, 1)), np.full((1, 1, 3), 0.5))
    # Extra latencies 0, 5 and 10 ms; the unit is four mean calls, 30 ms: 0.6 * (0, 1/6, 1/3).
    np.testing.assert_allclose(problem.reward(REWARD), [[0.5, 0.4, 0.3]])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    constraints=st.integers(0, 3),
    actions=st.integers(2, 4),
    limit=st.floats(0.0, 0.05),
    wider=st.floats(0.0, 0.05),
)
def test_a_wider_limit_never_earns_less_and_every_optimum_keeps_its_limits(
    seed: int, constraints: int, actions: int, limit: float, wider: float
) -> None:
    problem = random_problem(seed, cells=12, constraints=constraints, actions=actions)
    tight = problem.optimum(np.full(constraints, limit), REWARD)
    wide = problem.optimum(np.full(constraints, limit + wider), REWARD)
    assert tight.never - 1e-9 <= tight.utility <= wide.utility + 1e-9
    # A little more room is worth the price at most: the value is concave in the limits, the price its slope.
    assert wide.utility <= tight.utility + wider * tight.multiplier.sum() + 1e-7
    spent = np.einsum("c,ca,cka->k", problem.cell, tight.policy, problem.cost())
    assert (spent <= limit + 1e-7).all()
    np.testing.assert_allclose(tight.policy.sum(axis=1), 1.0)
    earned = np.einsum("c,ca,ca->", problem.cell, tight.policy, problem.reward(REWARD))
    assert earned == pytest.approx(tight.utility)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), constraints=st.integers(0, 4), actions=st.integers(2, 4), noise=st.floats(0.0, 1.0))
def test_a_random_problem_is_one(seed: int, constraints: int, actions: int, noise: float) -> None:
    problem = random_problem(seed, cells=9, constraints=constraints, actions=actions, noise=noise)
    assert problem.n_sets == constraints
    assert problem.score.shape == (9, constraints + 1, actions)
    assert (problem.kind >= 0).all()
    assert (problem.rates > 0).all()  # no set is empty
    assert np.abs(problem.score - 0.5).max() <= 0.5 * (1 - noise) + 1e-9  # noise shrinks the means to one half
    loss = problem.score[:, :-1, :1] - problem.score[:, :-1]
    assert (np.diff(loss, axis=2) >= -1e-9).all()  # a larger budget hears more, so it spoils more


def test_shares_of_a_random_problem_are_what_was_asked_for() -> None:
    pure = random_problem(0, cells=400, retention=0.25, mixed=0.0)
    assert pure.rates.sum() == pytest.approx(0.25, abs=0.06)
    assert np.isin(pure.kind[1:].round(6), (0.0, 1.0)).all()  # no cell mixes, but the first, which keeps the set alive
    mixed = random_problem(0, cells=400, retention=0.5, mixed=0.6)
    assert ((mixed.kind > 0.05) & (mixed.kind < 0.95)).all(axis=1).mean() == pytest.approx(0.6, abs=0.08)


@pytest.mark.parametrize(
    ("cell", "kind", "score", "message"),
    [
        (CELL[:1], KIND, SCORE, r"shapes \[C\], \[C, K \+ 1\] and \[C, K \+ 1, A\], got \(1,\), \(2, 2\)"),
        (CELL, KIND, SCORE[:, :1], r"got \(2,\), \(2, 2\) and \(2, 1, 2\)"),
        (CELL * 2, KIND, SCORE, r"must be probabilities that sum to 1"),
        (CELL, KIND * 0.9, SCORE, r"must be probabilities that sum to 1"),
        (CELL, np.array([[0.0, 1.0], [0.0, 1.0]]), SCORE, r"needs a question in some cell, got \[0\.0\]; drop it"),
    ],
)
def test_a_problem_that_is_none_is_refused(cell: np.ndarray, kind: np.ndarray, score: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KnownProblem(cell, kind, score)


@pytest.mark.parametrize(
    ("limits", "message"),
    [([0.1, 0.2], r"limits must be .*\[0\.1, 0\.2\]"), ([-0.5], r"no policy meets the limits \[-0\.5\] .*raise them")],
)
def test_limits_that_make_no_sense_are_refused(limits: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PROBLEM.optimum(np.array(limits), REWARD)


# -- tables ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> KnownTable:
    rows = {"train": 12_000, "validation": 50, "calibration": 7, "test": 300}
    return write_known_table(tmp_path_factory.mktemp("known"), PROBLEM, rows, rows_per_part=5_000)


def test_a_table_is_drawn_from_the_means(known: KnownTable) -> None:
    assert known.table.splits == {"train": 12_000, "validation": 50, "calibration": 7, "test": 300}
    assert [part.rows for part in known.table.header.parts] == [5_000, 5_000, 2_357]
    train = known.table.split("train")
    cells, kinds = known.cells[train.rows], np.where(train.retention_set < 0, 1, train.retention_set)
    assert np.bincount(cells) / len(train) == pytest.approx(CELL, abs=0.02)
    assert np.mean(kinds[cells == 0] == 0) == pytest.approx(0.5, abs=0.03)
    assert not np.any(kinds[cells == 1] == 0)
    for cell, kind in ((0, 0), (0, 1), (1, 1)):
        means = train.score[(cells == cell) & (kinds == kind)].mean(axis=0)
        assert means == pytest.approx(SCORE[cell, kind], abs=0.03)
    assert set(np.unique(train.score)) == {0.0, 1.0}
    assert len(set(train.group.tolist())) == len(train)
    assert train.record(3)["type"] == f"cell-{cells[3]}"


def test_an_audio_call_costs_a_quarter_of_alpha(known: KnownTable) -> None:
    extra = np.diff(known.table.split("test").latency_ms, axis=1)
    np.testing.assert_allclose(extra / known.table.latency_unit_ms, 0.25)


def test_the_features_tell_the_cell_but_not_the_kind(known: KnownTable) -> None:
    train = known.table.split("train")
    features, cells = train.observation(slice(None)), known.cells[train.rows]
    assert {name: part.shape[1] for name, part in features.items()} == {
        "question": 32,
        "image": 32,
        "audio_preview": 8,
        "confidence": 8,
    }
    told = np.concatenate([features[name] for name in ("question", "audio_preview", "confidence")], axis=1)
    codes = np.stack([told[cells == cell].mean(axis=0) for cell in (0, 1)])
    np.testing.assert_allclose(np.abs(codes), 1.0, atol=0.03)
    assert (told[cells == 0] - codes[0]).std() == pytest.approx(0.3, abs=0.01)
    nearest = np.stack([((told - code) ** 2).sum(axis=1) for code in codes], axis=1).argmin(axis=1)
    assert np.array_equal(nearest, cells)
    within = told[cells == 0], train.retention_set[cells == 0]
    difference = within[0][within[1] == 0].mean(axis=0) - within[0][within[1] < 0].mean(axis=0)
    assert np.abs(difference).max() < 0.06  # about five standard errors
    assert np.abs([np.corrcoef(column, cells)[0, 1] for column in features["image"].T]).max() < 0.05


def test_equal_seeds_give_equal_tables_and_others_do_not(tmp_path: Path) -> None:
    one, same, other = (
        write_known_table(tmp_path / name, PROBLEM, {"train": 20}, seed=seed)
        for name, seed in (("one", 3), ("same", 3), ("other", 4))
    )
    assert one.table.fingerprint == same.table.fingerprint
    assert one.table.fingerprint != other.table.fingerprint
    assert np.array_equal(one.cells, same.cells)


def test_a_table_without_useless_columns_and_with_budgets_opens(tmp_path: Path) -> None:
    problem = random_problem(0, cells=5, constraints=2, actions=3)
    known = write_known_table(tmp_path, problem, {"train": 30}, informative=7, useless=0)
    table = OutcomeTable.open(tmp_path)  # verified
    assert table.actions == ("skip", "use_4", "use_8")
    assert table.retention_sets == ("set-0", "set-1")
    assert table.widths == {"question": 5, "image": 0, "audio_preview": 1, "confidence": 1}
    assert known.table.split("train").latency_ms[0].tolist() == [10.0, 15.0, 20.0]


def test_a_policy_is_judged_by_the_true_means_and_probabilities(known: KnownTable) -> None:
    cells = known.cells[known.table.split("test").rows]
    use = np.where(cells == 0, 0.5, 1.0)
    utility, drop = known.judge("test", np.stack([1 - use, use], axis=1), REWARD)
    assert utility == pytest.approx(0.5 * (0.55 + 0.5 * 0.05) + 0.5 * 0.75)
    assert drop == pytest.approx([0.05])
    rare = dataclasses.replace(known, problem=KnownProblem(np.array([0.1, 0.9]), KIND, SCORE))
    utility, drop = rare.judge("test", np.stack([1 - use, use], axis=1), REWARD)
    assert utility == pytest.approx(0.1 * (0.55 + 0.5 * 0.05) + 0.9 * 0.75)
    assert drop == pytest.approx([0.05])  # of the retention questions there are


def test_decisions_of_a_cell_are_averaged(known: KnownTable) -> None:
    cells = known.cells[known.table.split("test").rows]
    first = np.flatnonzero(cells == 0)
    actions = np.zeros(len(cells), dtype=np.int64)
    actions[first[:30]] = 1
    utility, drop = known.judge("test", np.eye(2)[actions], REWARD)
    share = 30 / len(first)
    assert utility == pytest.approx(0.5 * (0.55 + share * 0.05) + 0.5 * 0.5)
    assert drop == pytest.approx([0.1 * share])


def test_a_cell_without_a_row_counts_as_skipped(tmp_path: Path) -> None:
    known = write_known_table(tmp_path, PROBLEM, {"train": 20, "test": 1}, seed=1)
    (cell,) = known.cells[known.table.split("test").rows].tolist()
    utility, _ = known.judge("test", np.array([[0.0, 1.0]]), REWARD)
    assert utility == pytest.approx([0.5 * (0.6 + 0.5), 0.5 * (0.55 + 0.75)][cell])


def test_the_optimal_policy_earns_the_optimum_and_spends_the_limit(known: KnownTable) -> None:
    best = PROBLEM.optimum(np.array([0.04]), REWARD)
    utility, drop = known.judge("test", best.policy[known.cells[known.table.split("test").rows]], REWARD)
    assert utility == pytest.approx(best.utility)
    assert drop == pytest.approx([0.04])

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agents.config import SmoothingConfig
from agents.outcome_model import OutcomeModel, SmoothedBatches, learnable
from envs.batch import OutcomeBatches
from envs.config import RewardConfig
from envs.known_optimum import KnownProblem, KnownTable, random_problem
from envs.outcomes import OutcomeTable, TableSplit

REWARD = RewardConfig()
FOREST = SmoothingConfig(trees=5)


@pytest.fixture(scope="module")
def two_cells(known_table: Callable[..., KnownTable]) -> KnownTable:
    """Two cells, two retention sets and three actions; the features tell the cell and nothing else."""
    kind = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]])
    score = np.random.default_rng(0).uniform(0.1, 0.9, (2, 3, 3))
    return known_table(KnownProblem(np.array([0.625, 0.375]), kind, score), {"train": 3000, "validation": 400})


def _smoothed(split: TableSplit, smoothing: SmoothingConfig = FOREST) -> SmoothedBatches:
    rows = learnable(split, REWARD, smoothing)
    assert isinstance(rows, SmoothedBatches)
    return rows


def _means_of_cells(known: KnownTable, split: TableSplit, fold: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For every row the mean of `values` over those rows of its cell that are in another fold."""
    cells, means = known.cells[split.rows], np.empty(values.shape)
    for cell in range(len(known.problem.cell)):
        for one in range(3):
            others = (cells == cell) & (fold != one)
            means[(cells == cell) & (fold == one)] = values[others].mean(axis=0, dtype=np.float64)
    return means


def test_what_is_expected_of_a_row_is_the_mean_of_its_cell_in_the_other_folds(two_cells: KnownTable) -> None:
    split = two_cells.table.split("train")
    rows = _smoothed(split)
    fold = rows.model.fold
    assert sorted(np.bincount(fold).tolist()) == [1000, 1000, 1000]
    score, irrelevant, cost = rows.facts(np.arange(len(split)))
    raw = OutcomeBatches(split, REWARD).facts(np.arange(len(split)))
    assert (score.shape, irrelevant.shape, cost.shape) == ((3000, 3), (3000,), (3000, 2, 3))
    assert {score.dtype, irrelevant.dtype, cost.dtype} == {np.dtype(np.float32)}
    np.testing.assert_allclose(score, _means_of_cells(two_cells, split, fold, split.score), atol=1e-5)
    np.testing.assert_allclose(irrelevant, _means_of_cells(two_cells, split, fold, split.retention_set >= 0), atol=1e-5)
    np.testing.assert_allclose(cost, _means_of_cells(two_cells, split, fold, raw[2]), atol=1e-5)
    assert len(np.unique(score[:, 0])) == 2 * 3  # cells and folds
    assert not cost[:, :, 0].any()  # skipping costs nothing


def test_held_out_rows_are_expected_to_be_as_all_forests_say_on_average(two_cells: KnownTable) -> None:
    train, held_out = two_cells.table.split("train"), two_cells.table.split("validation")
    rows = _smoothed(train)
    score, _, _ = SmoothedBatches(held_out, REWARD, rows.model, rows.normaliser).facts(np.arange(len(held_out)))
    cells, expected = two_cells.cells[train.rows], rows.facts(np.arange(len(train)))[0]
    of_folds = [[expected[(cells == cell) & (rows.model.fold == one)][0] for one in range(3)] for cell in (0, 1)]
    np.testing.assert_allclose(score, np.mean(of_folds, axis=1)[two_cells.cells[held_out.rows]], atol=1e-6)


def test_questions_of_one_group_are_never_expected_from_each_other(rows_of: Callable[..., OutcomeBatches]) -> None:
    score = np.random.default_rng(0).random((90, 2))
    split = rows_of(score, group=np.arange(90) % 7).split.table.split("train")
    fold = _smoothed(split).model.fold
    assert all(len(np.unique(fold[split.group == group])) == 1 for group in range(7))
    assert len(np.unique(fold)) == 3


def test_a_single_group_has_one_forest_of_all_its_rows(rows_of: Callable[..., OutcomeBatches]) -> None:
    score = np.random.default_rng(0).random((90, 2))
    with pytest.warns(UserWarning, match=r"^All 90 train rows belong to one group, .* smoothing.trees 0\.$"):
        rows = _smoothed(rows_of(score, group=np.zeros(90)).split.table.split("train"), SmoothingConfig(trees=1))
    assert not rows.model.fold.any()
    np.testing.assert_allclose(rows.facts(np.arange(90))[0], score, atol=1e-6)  # a leaf for every row


def test_rewards_are_expected_scores_less_the_prices_of_this_very_row(table: OutcomeTable) -> None:
    split, config = table.split("train"), RewardConfig(alpha=0.5, gamma=0.25)
    rows, every = learnable(split, config, FOREST), np.arange(len(split))
    score, irrelevant, _ = rows.facts(every)
    extra = split.latency_ms[:, 1] - split.latency_ms[:, 0]  # another one for every row
    expected = score[:, 1] - 0.5 * extra / table.latency_unit_ms - 0.25 * irrelevant
    reward, _ = rows.matrices(every)
    np.testing.assert_allclose(reward[:, 1], expected, atol=1e-6)
    assert np.array_equal(reward[:, 0], score[:, 0])
    assert len(np.unique(extra)) > 500


def test_the_expected_cost_is_the_drop_on_average(two_cells: KnownTable) -> None:
    split = two_cells.table.split("train")
    _, _, cost = _smoothed(split).facts(np.arange(len(split)))
    for k in range(2):
        members = split.retention_set == k
        drop = (split.score[members, :1] - split.score[members]).mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(cost[:, k].mean(axis=0, dtype=np.float64), drop, atol=2e-3)
        assert np.abs(drop).max() > 0.02


def test_rows_are_predicted_when_first_asked_for_and_the_same_in_any_order(
    table: OutcomeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = table.split("train")
    eager, lazy = _smoothed(split), _smoothed(split)
    every = np.random.default_rng(0).permutation(len(split))
    whole = [part[np.argsort(every)] for part in eager.facts(every)]
    asked: list[int] = []
    predict = lazy.model.predict

    def watched(observations: np.ndarray, fold: np.ndarray) -> np.ndarray:
        asked.append(len(observations))
        return predict(observations, fold)

    monkeypatch.setattr(lazy.model, "predict", watched)
    for rows in ([5, 3, 5, 5], [3, 9], [9, 3, 5], []):
        for part, all_parts in zip(lazy.facts(np.array(rows, dtype=np.int64)), whole, strict=True):
            assert np.array_equal(part, all_parts[rows])
    assert asked == [2, 1]


def test_a_request_of_more_rows_than_a_piece_is_answered_whole(
    table: OutcomeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = table.split("train")
    whole = _smoothed(split).facts(np.arange(len(split)))
    monkeypatch.setattr("agents.outcome_model._ROWS_AT_ONCE", 7)
    for part, other in zip(_smoothed(split).facts(np.arange(len(split))), whole, strict=True):
        assert np.array_equal(part, other)


def test_without_trees_rows_are_learned_from_as_they_are(table: OutcomeTable) -> None:
    split, some = table.split("train"), np.array([4, 2, 2])
    rows = learnable(split, REWARD, SmoothingConfig(trees=0))
    assert type(rows) is OutcomeBatches
    score, irrelevant, cost = rows.facts(some)
    assert np.array_equal(score, split.score[some])
    assert np.array_equal(irrelevant, split.retention_set[some] >= 0)
    assert np.array_equal(cost, rows.cost[some])


@pytest.mark.parametrize(("most", "fitted"), [(50, 50), (600, 600), (10_000, 600)])
def test_so_many_rows_are_learned_from_at_most(table: OutcomeTable, most: int, fitted: int) -> None:
    rows = _smoothed(table.split("train"), SmoothingConfig(trees=1, max_rows=most))
    assert len(rows) == len(rows.model.fold) == fitted
    assert rows.split.rows.max() > 500  # from everywhere, not the first ones


@pytest.mark.parametrize(("min_leaf", "least", "most"), [(1, 2000, 2667), (4, 100, 667), (10_000, 33, 134)])
def test_leaves_hold_so_many_rows_but_no_more_than_a_two_hundredth_of_all(
    rows_of: Callable[..., OutcomeBatches], min_leaf: int, least: int, most: int
) -> None:
    score = np.random.default_rng(0).random((4000, 2))
    rows = OutcomeBatches(rows_of(score).split.table.split("train"), REWARD)
    # A fold's forest has 2,667 rows: 13 are a two-hundredth.
    model = OutcomeModel(rows, SmoothingConfig(trees=1, min_leaf=min_leaf))
    leaves = np.unique(model.predict(rows.flat(np.arange(4000)), np.zeros(4000)), axis=0)
    assert least <= len(leaves) <= most


def test_two_forests_of_the_same_rows_are_equal(table: OutcomeTable) -> None:
    rows = OutcomeBatches(table.split("train"), REWARD)
    seen = rows.flat(np.arange(len(rows)))
    smoothing = SmoothingConfig(trees=3, max_rows=300)
    assert np.array_equal(OutcomeModel(rows, smoothing).predict(seen), OutcomeModel(rows, smoothing).predict(seen))


def test_a_model_that_is_given_is_not_fitted_again(table: OutcomeTable) -> None:
    split = table.split("train")
    model = OutcomeModel(OutcomeBatches(split, REWARD), FOREST)
    rows = learnable(split, RewardConfig(alpha=0.1), FOREST, model)
    assert isinstance(rows, SmoothedBatches)
    assert rows.model is model


def test_what_never_varies_is_expected_exactly(rows_of: Callable[..., OutcomeBatches]) -> None:
    rng = np.random.default_rng(0)
    score = np.stack([np.full(100, 0.25), rng.random(100)], axis=1)  # the base never varies, and no retention question
    train = rows_of(score).split.table.split("train")
    found, irrelevant, cost = _smoothed(train).facts(np.arange(100))
    assert set(found[:, 0]) == {0.25}
    assert found[:, 1].std() > 0.01
    assert not irrelevant.any()
    assert cost.shape == (100, 0, 2)


def test_a_table_in_which_nothing_varies_needs_no_forest(rows_of: Callable[..., OutcomeBatches]) -> None:
    train = rows_of(np.tile([0.5, 0.75], (60, 1)), retention=np.zeros(60)).split.table.split("train")
    score, irrelevant, cost = _smoothed(train).facts(np.array([3, 1]))
    assert score.tolist() == [[0.5, 0.75]] * 2
    assert irrelevant.tolist() == [1.0, 1.0]
    assert cost.tolist() == [[[0.0, -0.25]]] * 2


def test_a_forest_may_be_fitted_on_very_few_rows(rows_of: Callable[..., OutcomeBatches]) -> None:
    train = rows_of([[0.0, 1.0], [1.0, 0.0], [0.0, 0.5]]).split.table.split("train")
    score, _, _ = _smoothed(train).facts(np.arange(3))
    np.testing.assert_allclose(score[[0, 2]], [[1.0, 0.0], [1.0, 0.0]], atol=1e-6)  # each like the row between them


def test_several_budgets_and_sets_keep_their_places(known_table: Callable[..., KnownTable]) -> None:
    known = known_table(random_problem(3, cells=4, constraints=3, actions=4), {"train": 6000, "validation": 10})
    split = known.table.split("train")
    score, _, cost = _smoothed(split).facts(np.arange(len(split)))
    cells, problem = known.cells[split.rows], known.problem
    np.testing.assert_allclose(score, np.einsum("ck,cka->ca", problem.kind, problem.score)[cells], atol=0.08)
    for k in range(3):
        for action in range(4):
            members = split.retention_set == k
            drop = (split.score[members, 0] - split.score[members, action]).mean(dtype=np.float64)
            np.testing.assert_allclose(cost[:, k, action].mean(dtype=np.float64), drop, atol=1e-2)

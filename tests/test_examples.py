"""The example on real outcomes: its numbers, its table, and that gates can be trained on it."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from envs.outcomes import OutcomeTable
from envs.table_format import TABLE_SPLITS
from supervised.errors import DataError

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data" / "gsm8k" / "two_arm_responses.csv"
needs_data = pytest.mark.skipif(not REAL.is_file(), reason=f"RouteLLM's cache of GSM8K is not at {REAL}")


@pytest.fixture
def make_table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "gsm8k"))
    return importlib.import_module("make_table")


@pytest.fixture
def evaluate(make_table: ModuleType) -> ModuleType:
    return importlib.import_module("evaluate")


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    """60 problems: the weak model is right where the prompt has few numbers, the strong one is mostly right."""
    rng = np.random.default_rng(0)
    path = tmp_path / "responses.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "weak", "strong", "weak_response", "strong_response"])
        for i in range(60):
            numbers = [str(k + i) for k in range(1 + i % 6)]
            prompt = f"Anna has {' and '.join(numbers)} apples.\nHow many, in all, does she have each day?"
            writer.writerow([prompt, str(i % 6 < 3), str(rng.random() < 0.9), "a" * 40, "b" * (80 + i)])
    return path


@needs_data
def test_the_real_outcomes_have_the_published_rates(make_table: ModuleType) -> None:
    responses = make_table.read_responses(REAL)
    weak, strong = responses.correct.T
    assert len(responses) == 1319
    rates = [weak.mean(), strong.mean(), (weak | strong).mean(), (strong & ~weak).mean(), (weak & ~strong).mean()]
    np.testing.assert_allclose(rates, [0.638, 0.857, 0.929, 0.290, 0.072], atol=5e-4)


@needs_data
def test_the_real_table_holds_both_models_answers_and_no_retention_set(make_table: ModuleType, tmp_path: Path) -> None:
    assert make_table.main(["--responses", str(REAL), "--out", str(tmp_path / "table"), "--fold", "4"]) == 0
    table = OutcomeTable.open(tmp_path / "table")
    assert table.splits == {"train": 844, "validation": 212, "calibration": 0, "test": 263}
    assert (table.actions, table.retention_sets, table.widths["question"]) == (("skip", "use"), (), 46)
    correct = make_table.read_responses(REAL).correct
    np.testing.assert_array_equal(table.gather("score", np.arange(1319)), correct)
    assert table.record(0)["question"].startswith("Janet")


@pytest.mark.slow
@needs_data
def test_on_a_sample_of_the_real_outcomes_random_is_one_half_and_the_oracle_above_one(
    make_table: ModuleType, evaluate: ModuleType
) -> None:
    every = make_table.read_responses(REAL)
    some = np.arange(0, len(every), 3)
    sample = make_table.Responses(
        every.models, [every.prompts[i] for i in some], every.correct[some], [every.texts[i] for i in some]
    )
    found = evaluate.evaluate(sample, folds=2, seeds=1, alpha=0.9)
    assert set(found) == {
        *("random", "oracle", "LogisticRegression", "NearestNeighbours", "SupervisedMLP", "agent ppo", "agent exact")
    }
    assert found["random"]["apgr"] == [0.5, 0.5]
    assert min(found["oracle"]["apgr"]) > 1
    for name in ("agent ppo", "agent exact"):
        assert 0.4 < np.mean(found[name]["apgr"]) < 0.9  # 220 train rows teach little; a reversed order would be < 0.4


def test_every_question_is_a_test_question_of_one_fold(make_table: ModuleType) -> None:
    codes = np.stack([make_table.split_codes(103, folds=5, fold=fold) for fold in range(5)])  # [5, 103]
    np.testing.assert_array_equal((codes == TABLE_SPLITS.index("test")).sum(axis=0), 1)
    held_out = (codes == TABLE_SPLITS.index("validation")).sum(axis=1)
    np.testing.assert_array_equal(held_out, [17, 17, 17, 17, 17])  # a fifth of the 82 or 83 others, rounded up


def test_features_of_a_prompt_are_counts_known_by_hand(make_table: ModuleType) -> None:
    found = make_table.statistics("Tom has 1,250 dollars and 3.5 eggs. He eats half of them each day! How many?")
    words, sentences, largest, different, numbers = found[1], found[2], np.expm1(found[3]), found[4], found[5]
    assert (words, sentences, different, numbers) == (16, 3, 2, 2)
    assert largest == pytest.approx(1250)
    counts = dict(zip(make_table.PATTERNS, found[5:], strict=True))
    assert (counts["fractions"], counts["rates"], counts["times"], counts["money"]) == (1, 1, 1, 0)


def test_features_are_fitted_on_train_rows_only(make_table: ModuleType, made_up: Path) -> None:
    prompts = make_table.read_responses(made_up).prompts
    train = np.arange(60) < 40
    changed = prompts[:40] + ["Completely different words stand here."] * 20
    before, after = make_table.features(prompts, train), make_table.features(changed, train)
    np.testing.assert_allclose(before[:40], after[:40], atol=1e-6)
    assert not np.allclose(before[40:], after[40:])


def test_latency_is_that_of_the_responses_lengths(make_table: ModuleType) -> None:
    # 40 characters are 10 tokens: 100 ms by the weak model; 80 are 20 tokens: 600 ms by the strong one
    np.testing.assert_array_equal(make_table.latency_ms([("a" * 40, "b" * 80)]), [[100, 600]])


def test_a_policy_can_be_trained_on_a_table_without_retention_sets(
    make_table: ModuleType, made_up: Path, tmp_path: Path
) -> None:
    from safe_rl.train_policy import main

    table, run = tmp_path / "table", tmp_path / "run"
    assert make_table.main(["--responses", str(made_up), "--out", str(table)]) == 0
    short = ["--total_timesteps", "4000", "--curriculum.steps", "1000", "--seeds", "1", "--smoothing.trees", "0"]
    assert main(["--table", str(table), "--run_dir", str(run), *short]) == 0
    assert (run / "policies" / "seed-0" / "policy.json").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,a,b\nx,True,True\n", "columns .* allowed are prompt, weak, strong"),
        ("prompt,a,b,a_response,b_response\nx,yes,True,1,2\n", r"row 1: \['yes', 'True'\] must be True or False"),
        ("prompt,a,b,a_response,b_response\n", "has no rows"),
        ("", "columns"),
    ],
)
def test_another_file_is_refused(make_table: ModuleType, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "file.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        make_table.read_responses(path)


def test_a_fold_that_does_not_exist_ends_the_script_with_one_line(
    make_table: ModuleType, made_up: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_table.main(["--responses", str(made_up), "--out", str(tmp_path / "t"), "--fold", "5"]) == 1
    assert capsys.readouterr().err == "error: fold 5 of 5 is not possible with 60 rows; use e.g. --folds 5 --fold 0.\n"

"""Small synthetic tables, a tiny real model with a manifest on disk, and a finished study."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from envs.outcomes import TableWriter
from envs.table_format import TABLE_SPLITS, Header
from supervised.data.manifest import write_manifest
from supervised.data.sample import SPLITS, Sample

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SPLIT_SHARES = [0.4, 0.2, 0.1, 0.3]
"""Of train, validation, calibration and test."""


def write_table(
    folder: Path,
    rows: int = 1200,
    seed: int = 0,
    provenance: dict[str, Any] | None = None,
    shares: Sequence[float] = SPLIT_SHARES,
    retained: Sequence[str] = TABLE_SPLITS,
) -> Path:
    """Write a table in which half of the questions need no sound, and the base can guess some of the others.

    The state tells which is which, with noise; sound does a little harm where it is not needed. Rows of the splits
    in `retained` belong to the retention set.
    """
    rng = np.random.default_rng(seed)
    retention = rng.random(rows) < 0.5
    guessed = rng.random(rows) < np.where(retention, 0.95, 0.4)
    heard = np.where(retention, guessed & (rng.random(rows) < 0.98), rng.random(rows) < 0.9)
    kind = np.where(retention, 1.0, -1.0)[:, None]
    sure = np.where(guessed, 1.0, -1.0)[:, None]
    tensors: dict[str, np.ndarray] = {
        "question": (kind + 0.3 * rng.standard_normal((rows, 4))).astype(np.float16),
        "audio_preview": rng.standard_normal((rows, 3)).astype(np.float16),
        "confidence": (sure + 0.5 * rng.standard_normal((rows, 2))).astype(np.float16),
        "score": np.stack([guessed, heard], axis=1).astype(np.float32),
        "latency_ms": np.stack([np.full(rows, 10.0), 14.0 + 4 * rng.random(rows)], axis=1).astype(np.float32),
        "retention_set": np.where(retention, 0, -1).astype(np.int16),
        "group": np.arange(rows, dtype=np.int64) // 2,
        # Groups of two rows stay in one split.
        "split": np.repeat(rng.choice(4, (rows + 1) // 2, p=shares), 2)[:rows].astype(np.uint8),
    }
    for code, name in enumerate(TABLE_SPLITS):
        if name not in retained:
            tensors["retention_set"][tensors["split"] == code] = -1
    records = [
        {"id": f"q{i}", "question": "?", "answers": ["a"], "type": "vl" if calm else "audio", "predictions": ["a", "b"]}
        for i, calm in enumerate(retention)
    ]
    header = Header(
        actions=("skip", "use"),
        features={"question": 4, "image": 0, "audio_preview": 3, "confidence": 2},
        retention_sets=("synthetic-vl",),
        provenance=provenance or {},
    )
    writer = TableWriter(folder, header)
    writer.write_part(tensors, records, position=rows)
    writer.finish()
    return folder


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished table of 1200 questions."""
    return write_table(tmp_path_factory.mktemp("tables") / "table")


@pytest.fixture(scope="session")
def make_table() -> Callable[..., Path]:
    """The writer, for tests that want a table of their own."""
    return write_table


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with manifest.jsonl: in every split eight questions with pictures and clips, half of them retention."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    samples = []
    for split in SPLITS:
        for i in range(8):
            name = f"{split}-{i}"
            Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(folder / f"{name}.png")
            hertz, seconds = 200 * (i + 1), 0.5 + 0.1 * i
            tone = 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * 16_000)) / 16_000)
            soundfile.write(folder / f"{name}.wav", tone + rng.normal(0, 0.02, len(tone)), 16_000)
            calm = i % 2 == 0
            samples.append(
                Sample(
                    name,
                    "what is the colour of the dog ?" if calm else "which sound can you hear ?",
                    ("red",) if calm else ("dog",),
                    folder / f"{name}.png",
                    folder / f"{name}.wav",
                    "tiny-vl" if calm else None,
                    "colour" if calm else "which_sound",
                    name,
                    split=split,
                )
            )
    write_manifest(folder / "manifest.jsonl", samples)
    return folder


@pytest.fixture
def damaged(manifest: Path, tmp_path: Path) -> Path:
    """A copy of the manifest's folder, to be damaged."""
    return Path(shutil.copytree(manifest, tmp_path / "damaged"))


@pytest.fixture(scope="session")
def tiny(tiny_base_dir: Path, tiny_encoder_dir: Path) -> list[str]:
    """Options of a whole run on the tiny model in some seconds, but for `--data.manifest` and `--run_dir`."""
    options = {
        "model.base": tiny_base_dir,
        "model.encoder": tiny_encoder_dir,
        "stage_a.steps": 4,
        "stage_a.batch_size": 8,
        "stage_a.eval_every": 2,
        "stage_a.gate_warmup_steps": 2,
        "stage_a.warmup_steps": 1,
        "outcomes.batch_size": 8,
        "outcomes.exact_samples": 4,
        "outcomes.latency_repeats": 3,
        "outcomes.max_new_tokens": 2,
        "ppo.num_envs": 8,
        "ppo.batch_size": 8,
        "total_timesteps": 32,
        "curriculum.steps": 8,
        "seeds": 1,
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


# -- studies ----------------------------------------------------------------------------------------------------------

STUDY = (
    "--total_timesteps 1500 --ppo.num_envs 250 --ppo.batch_size 250 --curriculum.steps 500 --lagrangian.limit 0.2 "
    "--tune.space.batch_size [125,250] --tune.space.hidden [[16,16],[32]] --tune.space.n_epochs [2,4] "
    "--tune.space.learning_rate [1e-5,1e-2] --tune.startup 4 --tune.batch 2 --smoothing.trees 5 --ppo.hidden [32] "
    "--tune.trials 8"
).split()


@pytest.fixture(scope="session")
def options() -> Callable[..., list[str]]:
    """Return the arguments of a quick study; the last word on a key counts."""

    def build(table: Path, run_dir: Path, *more: str, workers: int = 1) -> list[str]:
        return ["--table", str(table), "--run_dir", str(run_dir), *STUDY, "--tune.workers", str(workers), *more]

    return build


@pytest.fixture(scope="session")
def finished_study(table: Path, options: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a study of eight trials, run in this process."""
    from safe_rl.tune import main

    folder = tmp_path_factory.mktemp("studies") / "run"
    assert main(options(table, folder)) == 0
    return folder


@pytest.fixture(scope="session")
def stored() -> Callable[..., list[FrozenTrial]]:
    """Read the trials of a study."""
    import optuna

    from safe_rl.tuning.journal import open_journal

    def read(run_dir: Path, storage: str | None = None) -> list[FrozenTrial]:
        place = storage or open_journal(run_dir / "tune" / "journal.log")
        return optuna.load_study(study_name="safe_rl", storage=place).get_trials()

    return read


@pytest.fixture(scope="session")
def results(stored: Callable[..., list[FrozenTrial]]) -> Callable[..., list[tuple[Any, ...]]]:
    """Read everything about the trials that must not depend on who ran them."""

    def read(run_dir: Path, storage: str | None = None) -> list[tuple[Any, ...]]:
        return [
            (
                trial.number,
                trial.state.name,
                trial.values,
                trial.params,
                dict(sorted(trial.intermediate_values.items())),
                trial.user_attrs["per_seed"],
                trial.user_attrs.get("constraints"),  # none where it was pruned before its first policy was ready
                trial.user_attrs["reason"],
            )
            for trial in stored(run_dir, storage)
        ]

    return read

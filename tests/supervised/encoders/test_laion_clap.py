from __future__ import annotations

import importlib.util
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from supervised.data.sample import Waveform
from supervised.encoders.features import AudioFeatures
from supervised.encoders.laion_clap import LaionClapEncoder, fill, quantise, read_state
from supervised.encoders.loading import load_encoder
from supervised.errors import ModelError

MISSING = [name for name in ("laion_clap", "torchlibrosa", "torchvision") if importlib.util.find_spec(name) is None]


def _checkpoint(path: Path, **more: Any) -> Path:
    """Write a file as LAION's training script does, with NumPy's numbers beside the weights."""
    state = {"module.audio_projection.0.weight": torch.ones(2, 3), "module.logit_scale_a": torch.tensor(1.5)}
    numbers = {"epoch": np.int64(3), "loss": np.float64(0.25), "accuracy": np.float32(0.5), "best": np.bool_(True)}
    torch.save({**numbers, "name": "630k", "state_dict": state, **more}, path)
    return path


def _of_numpy_1(path: Path) -> None:
    """Let the file name NumPy's numbers as NumPy 1 did, with which LAION trained."""
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    assert sum(b"numpy._core.multiarray" in part or b"numpy.core.multiarray" in part for part in content.values()) == 1
    with zipfile.ZipFile(path, "w") as new:
        for name, part in content.items():
            new.writestr(name, part.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


class _Trap:
    """Pickles as a call that leaves a folder behind when it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("numpy", ["as it is", "1"])
def test_weights_beside_numpys_numbers_are_read(tmp_path: Path, numpy: str) -> None:
    path = _checkpoint(tmp_path / "clap.pt")
    if numpy == "1":
        _of_numpy_1(path)
    state = read_state(path)
    assert set(state) == {"audio_projection.0.weight", "logit_scale_a"}
    assert state["audio_projection.0.weight"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_bare_weights_are_read(tmp_path: Path) -> None:
    torch.save({"logit_scale_a": torch.tensor(1.5)}, tmp_path / "clap.pt")
    assert read_state(tmp_path / "clap.pt")["logit_scale_a"].item() == 1.5


def test_a_checkpoint_that_would_execute_something_is_refused_and_does_not(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path / "clap.pt", optimizer=_Trap(tmp_path / "executed"))
    with pytest.raises(ModelError, match=r"without executing .* \([^\n]* GLOBAL \w+\.mkdir [^\n]*\); give a"):
        read_state(path)
    assert not (tmp_path / "executed").exists()
    torch.load(path, weights_only=False)  # the trap works
    assert (tmp_path / "executed").exists()


def test_reading_leaves_nothing_allowed_behind(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_state(_checkpoint(tmp_path / "clap.pt"))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 a broken archive"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clap.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"^encoder '[^\n]*clap\.pt' [^\n]*(it again|as LAION published them)\.$"):
        load_encoder(tmp_path / "clap.pt")


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path / "clap.pt")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ModelError, match=r"is not a whole checkpoint of PyTorch \([^\n]*\); download it again\.$"):
        load_encoder(path)


def test_a_checkpoint_without_named_weights_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "clap.pt")
    with pytest.raises(ModelError, match="holds no weights by name; give one of LAION's CLAP checkpoints"):
        load_encoder(tmp_path / "clap.pt")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"clap\.pt' is not a file; give one of LAION's"):
        load_encoder(tmp_path / "clap.pt")


def test_a_checkpoint_with_feature_fusion_is_refused(tmp_path: Path) -> None:
    state = {"audio_branch.patch_embed.fusion_model.local_att.0.weight": torch.ones(1)}
    torch.save({"state_dict": state}, tmp_path / "clap.pt")
    with pytest.raises(ModelError, match=r"feature fusion, whose crops are random.*without fusion, e\.g\. 630k"):
        load_encoder(tmp_path / "clap.pt")


@pytest.mark.skipif("laion_clap" not in MISSING, reason="the laion_clap package is installed")
def test_a_missing_package_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path / "clap.pt")
    with pytest.raises(ModelError, match=r"^a \.pt encoder needs .* not installed; pip install 'safe-rl-audio"):
        load_encoder(path)


def test_clips_are_quantised_as_the_package_does() -> None:
    # 0.5 * 32767 = 16383.5, cut to 16383; beyond 1 is clipped; -1e-5 * 32767 is cut to 0
    values = quantise(np.array([0.5, 3.0, -1.0, -1e-5], np.float32))
    assert values.dtype == np.float32
    assert values.tolist() == pytest.approx([16383 / 32767, 1.0, -1.0, 0.0], abs=1e-7)


def test_short_clips_are_repeated_as_a_whole_and_filled_with_zeros() -> None:
    assert fill(np.array([1.0, 2.0, 3.0], np.float32), 8).tolist() == [1, 2, 3, 1, 2, 3, 0, 0]
    assert fill(np.array([1.0, 2.0], np.float32), 2).tolist() == [1, 2]


@pytest.fixture(scope="module")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's own smallest tower with random weights, as a file of LAION's."""
    from supervised.encoders.laion_clap import _package

    folder, htsat = _package()
    settings = json.loads((folder / "model_configs" / "HTSAT-tiny.json").read_text())["audio_cfg"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        branch = htsat.create_htsat_model(SimpleNamespace(**settings))
        projection = torch.nn.Sequential(torch.nn.Linear(768, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512))
    state = {f"module.audio_branch.{name}": value for name, value in branch.state_dict().items()}
    state |= {f"module.audio_projection.{name}": value for name, value in projection.state_dict().items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(4)
    path = tmp_path_factory.mktemp("laion") / "630k-random.pt"
    torch.save({"epoch": np.int64(1), "name": "random", "state_dict": state}, path)
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # from the package's tower
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (see docs/encoders.md)")
def test_a_checkpoint_hears_through_the_packages_tower(
    random_checkpoint: Path,
    noise: Callable[..., Waveform],
    equal: Callable[[AudioFeatures, AudioFeatures], bool],
) -> None:
    encoder = load_encoder(random_checkpoint)
    assert isinstance(encoder, LaionClapEncoder)
    assert (encoder.rate, encoder.window, encoder.embedding_dim) == (48_000, 480_000, 512)
    assert encoder.parts == ((32, 768),)
    clips = [noise(seconds, seed, 48_000) for seed, seconds in enumerate((0.01, 3.0, 10.0, 10.5, 25.0))]
    together = encoder([*clips, None])
    assert torch.isfinite(together.tokens).all()
    for row, clip in enumerate(clips):
        assert equal(together.rows([row]), encoder([clip]))
    samples = torch.from_numpy(fill(quantise(clips[1].samples), 480_000))[None]
    with torch.no_grad():
        output = encoder.branch({"waveform": samples, "longer": torch.zeros(1, 1, dtype=torch.bool)}, device="cpu")
        embedding = torch.nn.functional.normalize(encoder.projection(output["embedding"]), dim=-1)
    assert torch.allclose(together.embedding[1], embedding[0], atol=1e-6)
    # The pooled output is the mean of the tokens: each stands for an equal share of the window.
    assert torch.allclose(together.tokens[1].mean(0), output["embedding"][0], atol=1e-5)

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from supervised.config import ModelConfig
from supervised.encoders.clap import ClapEncoder
from supervised.encoders.ensemble import EnsembleEncoder
from supervised.encoders.loading import load_encoder, load_encoders, pinned
from supervised.encoders.whisper import WhisperEncoder
from supervised.errors import ConfigError, ModelError


def test_the_checkpoint_says_which_encoder_it_is(tiny_encoder_dir: Path, tiny_whisper_dir: Path) -> None:
    assert isinstance(load_encoder(tiny_encoder_dir), ClapEncoder)
    assert isinstance(load_encoder(tiny_whisper_dir), WhisperEncoder)


def test_one_encoder_is_no_ensemble(tiny_encoder_dir: Path) -> None:
    assert isinstance(load_encoders(str(tiny_encoder_dir), None), ClapEncoder)
    assert isinstance(load_encoders(str(tiny_encoder_dir), None, [str(tiny_encoder_dir)]), EnsembleEncoder)


def test_a_commit_follows_an_at_sign(tmp_path: Path) -> None:
    assert pinned("openai/whisper-small@0123abc") == ("openai/whisper-small", "0123abc")
    assert pinned("openai/whisper-small") == ("openai/whisper-small", None)
    (tmp_path / "whisper@home").mkdir()
    assert pinned(str(tmp_path / "whisper@home")) == (str(tmp_path / "whisper@home"), None)


@pytest.mark.parametrize("kind", ["bert", None])
def test_a_model_of_another_kind_is_refused(tmp_path: Path, kind: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ModelError, match=rf"cannot be loaded \(its model_type is {kind!r}\); give .* CLAP or Whisper"):
        load_encoder(tmp_path)


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_whisper_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((tiny_whisper_dir / name).read_bytes())
    tensors = load_file(tiny_whisper_dir / "model.safetensors")
    del tensors["model.encoder.layers.1.fc1.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"it lacks 1 weights, e\.g\. encoder\.layers\.1\.fc1\.weight"):
        load_encoder(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"encoder '.*nowhere' is not a folder"):
        load_encoder(tmp_path / "nowhere")


def test_empty_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.more_encoders has an empty name; give folders"):
        ModelConfig(more_encoders=("",))
    with pytest.raises(ConfigError, match=r"model\.feature_cache is empty; give a folder, or leave it out"):
        ModelConfig(feature_cache="")


def test_optional_packages_are_not_imported(tiny_encoder_dir: Path) -> None:
    code = (
        "import sys; from supervised.encoders.loading import load_encoder; "
        f"load_encoder({str(tiny_encoder_dir)!r}); "
        "print([name for name in ('laion_clap', 'librosa', 'torchaudio', 'torchlibrosa') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"

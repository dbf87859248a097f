from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from supervised.adapter_files import INDEX, read_adapter
from supervised.base import load_base
from supervised.config import ModelConfig
from supervised.data.sample import Sample
from supervised.errors import CheckpointError, ModelError
from supervised.files import sha256_file
from supervised.safe_model import SafeModel


@pytest.fixture
def saved(tiny_model: SafeModel, tmp_path: Path) -> Path:
    tiny_model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def _weights(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def _edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


def _retensor(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change weights the way someone would who also corrects the checksum."""
    tensors = {name: tensor.clone() for name, tensor in load_file(_weights(folder)).items()}
    change(tensors)
    save_file(tensors, _weights(folder))
    _edit(folder, lambda index: index["weights"].update(sha256=sha256_file(_weights(folder))))


def test_a_saved_model_answers_bit_for_bit_as_before(
    tiny_model: SafeModel, saved: Path, tiny_samples: list[Sample]
) -> None:
    torch.manual_seed(99)  # another draw of LoRA's A and of the projector, were they not loaded
    loaded = SafeModel.from_pretrained(saved)
    assert loaded.fingerprint() == tiny_model.fingerprint()
    inputs = tiny_model.inputs(tiny_samples)
    audio = tiny_model.encode_audio([sample.audio for sample in tiny_samples])
    with torch.no_grad():
        expected, found = tiny_model.forward(inputs, audio).logits, loaded.forward(inputs, audio).logits
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


def test_the_folder_holds_the_adapter_and_its_card_only(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {INDEX, _weights(saved).name, "README.md"}
    assert not any("language_model" in name for name in load_file(_weights(saved)))


def test_the_description_names_base_and_encoder(tiny_model: SafeModel, saved: Path) -> None:
    index = json.loads((saved / INDEX).read_text())
    assert (index["format"], index["version"]) == ("safe-rl-adapter", 2)
    assert index["config"]["base"] == tiny_model.config.base
    assert index["fit"]["hidden_size"] == 32
    names = {"base_sha256", "hidden_size", "embedding_rms", "encoder_sha256", "token_dim", "token_parts"}
    assert set(index["fit"]) == names
    assert index["fit"]["token_parts"] == [[64, 16]]


@pytest.mark.parametrize("parts", [[[64]], [["x", 16]], "no", 7])
def test_a_description_with_other_token_parts_is_refused(saved: Path, parts: object) -> None:
    _edit(saved, lambda index: index["fit"].update(token_parts=parts))
    with pytest.raises(CheckpointError, match=r"is not an adapter's description \([^\n]*\); train the adapter again"):
        SafeModel.from_pretrained(saved)


def test_token_parts_of_another_encoder_are_refused_before_weights_are_made(saved: Path) -> None:
    _edit(saved, lambda index: index["fit"].update(token_parts=[[64, 16], [10**6, 10**6]]))
    with pytest.raises(ModelError, match="give the encoder it was trained on"):
        SafeModel.from_pretrained(saved)


def test_saving_again_replaces_the_weights(tiny_config: ModelConfig, tmp_path: Path) -> None:
    model = SafeModel.attach(tiny_config)
    model.save_pretrained(tmp_path)
    first = _weights(tmp_path)
    model.adapter.markers.data += 1
    model.save_pretrained(tmp_path)
    assert _weights(tmp_path) != first
    assert torch.equal(SafeModel.from_pretrained(tmp_path).adapter.markers, model.adapter.markers)


def test_an_adapter_trained_on_float32_runs_on_the_same_base_in_bfloat16(saved: Path, tiny_model: SafeModel) -> None:
    _edit(saved, lambda index: index["config"].update(dtype="bfloat16"))
    loaded = SafeModel.from_pretrained(saved)
    assert loaded.base.dtype == torch.bfloat16
    assert loaded.fit == tiny_model.fit


def test_base_and_encoder_may_have_moved(
    saved: Path, tiny_base_dir: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    _edit(saved, lambda index: index["config"].update(base="/gone/base", encoder="/gone/encoder"))
    with pytest.raises(ModelError, match="base '/gone/base' is not a folder"):
        SafeModel.from_pretrained(saved)
    shutil.copytree(tiny_base_dir, tmp_path / "moved")
    SafeModel.from_pretrained(saved, base=str(tmp_path / "moved"), encoder=str(tiny_encoder_dir))


def test_another_base_is_refused(saved: Path, tiny_base_dir: Path, tmp_path: Path) -> None:
    model, _ = load_base(tiny_base_dir)
    shutil.copytree(tiny_base_dir, tmp_path / "other")
    model.get_input_embeddings().weight.data[7, 7] += 0.01
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match=r"for a base with weights \w{12}, this one has \w{12}; give the base"):
        SafeModel.from_pretrained(saved, base=str(tmp_path / "other"))


def test_another_encoder_is_refused(saved: Path, tiny_encoder_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder_dir, tmp_path / "other")
    settings = tmp_path / "other" / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"frequency_min": 50', '"frequency_min": 60'))
    with pytest.raises(ModelError, match=r"for an audio encoder \w{12}, this one is \w{12}; give the encoder"):
        SafeModel.from_pretrained(saved, encoder=str(tmp_path / "other"))


def test_a_base_of_another_width_is_refused(saved: Path) -> None:
    _edit(saved, lambda index: index["fit"].update(hidden_size=64))
    with pytest.raises(ModelError, match="for a base of width 64, this one has 32"):
        SafeModel.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("markers"), r"lacks 1 weights, e\.g\. markers; train it again"),
        (lambda t: t.update(extra=torch.zeros(1)), r"has 1 unknown weights, e\.g\. extra"),
        (lambda t: t.update(markers=torch.zeros(3, 32)), r"markers must be torch.float32 \[2, 32\], got .* \[3, 32\]"),
        (lambda t: t.update(markers=t["markers"].bfloat16()), r"markers must be torch.float32 .* got torch.bfloat16"),
        (lambda t: t["markers"].fill_(torch.nan), "markers is NaN or infinite"),
        (lambda t: t["fusion.residual_scale"].fill_(torch.inf), "residual_scale is NaN or infinite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    saved: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    _retensor(saved, change)
    with pytest.raises(CheckpointError, match=message):
        SafeModel.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda i: i.update(version=1),
            r"is 'safe-rl-adapter' version 1; this program reads .* version 2; train the ad",
        ),
        (lambda i: i.update(format="other"), r"is 'other' version 2"),
        (lambda i: i["fit"].pop("token_parts"), r"is not an adapter's description \('token_parts'\)"),
        (lambda i: i.pop("fit"), r"is not an adapter's description \('fit'\)"),
        (lambda i: i["fit"].update(more=1), r"is not an adapter's description .*'more'"),
        (lambda i: i["config"].update(colour="red"), r"is not an adapter's description .*'colour'"),
        (lambda i: i["config"]["projector"].update(tokens=5), r"projector\.tokens must be 4, 8, 12 or 16"),
        (lambda i: i["config"].update(fusion=None), "is not an adapter's description"),
        (lambda i: i["weights"].update(file="../../elsewhere.safetensors"), "lacks its weights"),
        (lambda i: i["weights"].update(file="gone.safetensors"), r"lacks its weights 'gone\.safetensors'"),
        (lambda i: i["weights"].update(sha256="0" * 64), r"is damaged \(its SHA-256 differs\)"),
    ],
)
def test_a_description_that_cannot_be_trusted_is_refused(
    saved: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    _edit(saved, change)
    with pytest.raises(CheckpointError, match=f"^[^\n]*{message}[^\n]*$"):
        SafeModel.from_pretrained(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is not JSON"), (b"[]", "must hold a JSON object"), (b"\xff", "is not JSON"), (b" " * 1_000_001, "larger")],
)
def test_a_broken_description_is_one_line(saved: Path, content: bytes, message: str) -> None:
    (saved / INDEX).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^[^\n]*{message}[^\n]*$"):
        SafeModel.from_pretrained(saved)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter\.json is missing; give the folder of a trained adapter"):
        SafeModel.from_pretrained(tmp_path)


def test_damaged_weights_are_refused(saved: Path) -> None:
    content = bytearray(_weights(saved).read_bytes())
    content[-1] ^= 1
    _weights(saved).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged \(its SHA-256 differs\); copy it again"):
        SafeModel.from_pretrained(saved)


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_in_place_of_the_weights_is_refused_and_never_run(saved: Path, tmp_path: Path) -> None:
    weights = _weights(saved)
    weights.write_bytes(pickle.dumps(_Bomb(tmp_path / "exploded")))
    _edit(saved, lambda index: index["weights"].update(sha256=sha256_file(weights)))
    with pytest.raises(CheckpointError, match=r"is not a safetensors file \("):
        SafeModel.from_pretrained(saved)
    assert not (tmp_path / "exploded").exists()


def test_an_adapter_that_diverged_is_not_saved_over_a_good_one(tiny_config: ModelConfig, tmp_path: Path) -> None:
    model = SafeModel.attach(tiny_config)
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model.adapter.markers.data[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="markers is NaN or infinite; train with a smaller learning rate"):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_adapter_of_a_time_before_rms_match_and_dropout_is_loaded_as_it_was(saved: Path) -> None:
    def forget(index: dict[str, Any]) -> None:
        for name in ("rms_match", "dropout"):
            del index["config"]["fusion"][name]

    _edit(saved, forget)
    fusion = read_adapter(saved)[0].fusion
    assert (fusion.rms_match, fusion.dropout) == (True, 0.0)


def test_rms_match_and_dropout_are_kept_and_a_loaded_adapter_drops_nothing(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    config = replace(tiny_config, fusion=replace(tiny_config.fusion, rms_match=False, dropout=0.5))
    model = SafeModel.attach(config)
    assert not model.adapter.training
    model.save_pretrained(tmp_path)
    loaded = SafeModel.from_pretrained(tmp_path)
    assert (loaded.config.fusion.rms_match, loaded.config.fusion.dropout) == (False, 0.5)
    assert not loaded.adapter.training

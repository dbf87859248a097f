from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from supervised.adapter_files import Fit
from supervised.config import FusionConfig, ModelConfig
from supervised.errors import DataError
from supervised.model_card import model_card, read_metrics
from supervised.safe_model import SafeModel

CONFIG = ModelConfig(
    base="llava-hf/llava-1.5-7b-hf",
    base_revision="b00b1e5",
    encoder="laion/clap-htsat-unfused",
    more_encoders=("openai/whisper-small@a11ce",),
    fusion=FusionConfig(kind="gated", layers=(0, 8), scope="suffix"),
)
FIT = Fit("ab" * 32, 4096, 0.02, "cd" * 32, 768, ((64, 768), (375, 768)))


def _card(metrics: Any = None, licence: str | None = None, config: ModelConfig = CONFIG) -> str:
    return model_card(config, FIT, 123456, read_metrics(metrics), licence)


def _rows(card: str) -> dict[str, str]:
    lines = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {line[0]: line[-1] for line in lines}


def _header(card: str) -> Any:
    return yaml.safe_load(card.split("---\n")[1])


def test_it_names_what_the_adapter_is_and_fits() -> None:
    rows = _rows(_card())
    assert rows["base"] == "llava-hf/llava-1.5-7b-hf"
    assert rows["base revision"] == "b00b1e5"
    assert rows["base weights, SHA-256"] == f"`{'ab' * 32}`"
    assert rows["encoder"] == "laion/clap-htsat-unfused"
    assert rows["encoder revision"] == "not pinned"
    assert rows["further encoder"] == "openai/whisper-small, revision a11ce"
    assert rows["encoder, SHA-256"] == f"`{'cd' * 32}`"
    assert (rows["fusion"], rows["layers"], rows["scope"]) == ("gated", "0, 8", "suffix")
    assert rows["parameters"] == "123,456 in float32"
    assert _header(_card())["base_model"] == CONFIG.base


def test_inserted_tokens_name_no_fusion() -> None:
    rows = _rows(_card(config=replace(CONFIG, fusion=FusionConfig(injection="tokens"))))
    assert rows["injection"] == "tokens"
    assert not {"fusion", "layers"} & rows.keys()


def test_nothing_is_invented_where_nothing_was_measured() -> None:
    section = _card().split("## Figures")[1].split("## Licence")[0]
    assert section.strip() == "Not measured."
    assert not any(character.isdigit() for character in section)
    assert _rows(_card({"drop": None, "harm": float("nan"), "accuracy": 0.5}))["drop"] == "not measured"
    assert _rows(_card({"drop": None, "harm": float("nan"), "accuracy": 0.5}))["harm"] == "not measured"


def test_figures_are_those_that_were_given() -> None:
    rows = _rows(
        _card(
            {
                "validation": {"audio_accuracy": 0.87654321, "steps": 1234567, "stopped_early": True, "note": "x"},
                "drop": {"mean": 0.01, "low": -0.5, "high": 0.02},
            }
        )
    )
    assert rows["validation, audio_accuracy"] == "0.876543"
    assert rows["validation, steps"] == "1234567"
    assert rows["drop"] == "0.01 [-0.5, 0.02]"
    assert "validation, stopped_early" not in rows
    assert "validation, note" not in rows


def test_of_a_run_the_card_tells_the_base_alone_and_the_adapter_on_every_question(tmp_path: Path) -> None:
    policies = {
        name: {"accuracy": {"mean": mean, "low": 0.1, "high": 0.9}, "aiq": 7.0}
        for name, mean in (("never", 0.5), ("always", 0.75), ("ppo_lagrangian", 0.77))
    }
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"policies": policies, "alpha": 0.6}))
    section = _card(path).split("## Figures")[1]
    assert _rows(section) == {
        "figure": "value",
        "---": "---",
        "the base alone, accuracy": "0.5 [0.1, 0.9]",
        "with the adapter, accuracy": "0.75 [0.1, 0.9]",
    }


def test_the_licence_is_the_users_to_choose() -> None:
    assert "license" not in _header(_card())
    assert "None was chosen yet." in _card()
    assert _header(_card(licence="apache-2.0"))["license"] == "apache-2.0"


def test_folders_of_this_machine_are_not_told() -> None:
    card = _card(config=replace(CONFIG, base="/home/me/private/base", encoder="demo"))
    assert _rows(card)["base"] == "base (a local folder or file)"
    assert _rows(card)["encoder"] == "demo (ships with safe-rl-audio)"
    assert "/home" not in card
    assert "base_model" not in _header(card)


def test_a_saved_model_has_its_card_beside_it(tiny_model: SafeModel, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path, {"audio_accuracy": 0.5})
    rows = _rows((tmp_path / "README.md").read_text(encoding="utf-8"))
    assert rows["base weights, SHA-256"] == f"`{tiny_model.fit.base_sha256}`"
    assert rows["parameters"].startswith(f"{sum(each.numel() for each in tiny_model.adapter.parameters()):,} ")
    assert rows["audio_accuracy"] == "0.5"


@pytest.mark.parametrize(("content", "message"), [("{", "cannot be read as JSON"), ("[]", "hold no JSON object")])
def test_metrics_that_cannot_be_read_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(DataError, match=f"{message}.*; give a metrics.json"):
        read_metrics(tmp_path / "metrics.json")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_metrics(tmp_path / "gone.json")

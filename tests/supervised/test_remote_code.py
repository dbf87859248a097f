"""Code that comes with a checkpoint is never run: where it is needed it is refused, elsewhere it is passed over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from supervised.assemble import assemble_llava
from supervised.base import load_base
from supervised.encoders.loading import load_encoder
from supervised.errors import ModelError

Planted = Callable[[Path, dict[str, dict[str, Any]]], Path]


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    """Copy a checkpoint, plant code into the copy and let its JSON files, which are changed, ask for it."""

    def plant(source: Path, changes: dict[str, dict[str, Any]]) -> Path:
        folder = tmp_path / "planted"
        shutil.copytree(source, folder)
        (folder / "planted.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
        for name, change in changes.items():
            (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
        return folder

    return plant


MODEL = {"AutoConfig": "planted.Config", "AutoModelForImageTextToText": "planted.Model", "AutoModel": "planted.Model"}
TOKENIZER = {"AutoTokenizer": ["planted.Tokenizer", None]}


def test_a_base_that_is_nothing_but_code_is_refused(tiny_base_dir: Path, planted: Planted, tmp_path: Path) -> None:
    folder = planted(tiny_base_dir, {"config.json": {"model_type": "planted", "auto_map": MODEL}})
    with pytest.raises(ModelError, match=r"^base [^\n]* cannot be loaded \([^\n]*\); give a folder[^\n]*$"):
        load_base(folder)
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_base_of_a_known_kind_is_passed_over(
    tiny_base_dir: Path, planted: Planted, tmp_path: Path
) -> None:
    folder = planted(
        tiny_base_dir,
        {
            "config.json": {"auto_map": MODEL},
            "tokenizer_config.json": {"auto_map": TOKENIZER},
            "processor_config.json": {"auto_map": {"AutoProcessor": "planted.Processor"}},
        },
    )
    found, known = (load_base(each)[0].state_dict() for each in (folder, tiny_base_dir))
    assert all(torch.equal(found[name], known[name]) for name in known)
    assert not (tmp_path / "ran").exists()


def test_code_beside_an_encoder_is_passed_over(tiny_encoder_dir: Path, planted: Planted, tmp_path: Path) -> None:
    folder = planted(
        tiny_encoder_dir,
        {
            "config.json": {"auto_map": MODEL},
            "preprocessor_config.json": {"auto_map": {"AutoFeatureExtractor": "planted.Extractor"}},
        },
    )
    load_encoder(folder)
    assert not (tmp_path / "ran").exists()


def test_a_language_model_that_is_nothing_but_code_is_not_assembled(
    tiny_base_dir: Path, planted: Planted, tmp_path: Path
) -> None:
    code = {"model_type": "planted", "auto_map": {"AutoConfig": "planted.Config", "AutoModelForCausalLM": "planted.M"}}
    folder = planted(tiny_base_dir, {"config.json": code})
    with pytest.raises(ModelError, match=r"^language model [^\n]* cannot be loaded \([^\n]*\); give a folder"):
        assemble_llava(folder, folder, tmp_path / "out")
    assert not (tmp_path / "ran").exists()

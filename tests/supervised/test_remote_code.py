"""Code beside a checkpoint runs only where a caller asks for it: otherwise it is refused, or passed over.

No file can ask: neither the checkpoint nor a saved adapter.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from supervised.architecture import architecture
from supervised.assemble import assemble_llava
from supervised.base import load_base
from supervised.config import ModelConfig
from supervised.data.sample import Sample
from supervised.encoders.loading import load_encoder
from supervised.errors import ConfigError, ModelError
from supervised.safe_model import SafeModel

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


REFUSED = r"^base [^\n]* needs Python code that lies beside it, [^\n]* set model\.trust_remote_code to true[^\n]*$"
MODEL = {"AutoConfig": "planted.Config", "AutoModelForImageTextToText": "planted.Model", "AutoModel": "planted.Model"}
TOKENIZER = {"AutoTokenizer": ["planted.Tokenizer", None]}


def test_a_base_that_is_nothing_but_code_is_refused(tiny_base_dir: Path, planted: Planted, tmp_path: Path) -> None:
    folder = planted(tiny_base_dir, {"config.json": {"model_type": "planted", "auto_map": MODEL}})
    with pytest.raises(ModelError, match=REFUSED):
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


CODE = """
from pathlib import Path

from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

Path({ran!r}).touch()


class OwnConfig(LlavaConfig):
    model_type = "a_kind_of_its_own"


class OwnModel(LlavaForConditionalGeneration):
    config_class = OwnConfig


class DeafModel(LlavaForConditionalGeneration):
    config_class = OwnConfig

    def get_decoder(self):
        return self.model.vision_tower  # what the probe is told is the text stack


class OwnProcessor(LlavaProcessor):
    pass
"""


@pytest.fixture
def own(tiny_base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Make of the tiny base one that is the same model, written down as code of its own."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # transformers appends the place of the modules

    def make(model: str = "OwnModel", code: str = CODE) -> Path:
        folder = tmp_path / "own"
        shutil.copytree(tiny_base_dir, folder)
        (folder / "own.py").write_text(code.replace("{ran!r}", repr(str(tmp_path / "ran"))))
        maps = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": f"own.{model}"}
        changes: dict[str, dict[str, Any]] = {
            "config.json": {"model_type": "a_kind_of_its_own", "architectures": [model], "auto_map": maps},
            "processor_config.json": {"auto_map": {"AutoProcessor": "own.OwnProcessor"}},
        }
        for name, change in changes.items():
            (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
        return folder

    yield make
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def test_a_base_made_of_code_is_refused_by_default_and_heard_by_one_who_trusts_it(
    own: Callable[..., Path], tiny_config: ModelConfig, tiny_samples: list[Sample], tmp_path: Path
) -> None:
    config = replace(tiny_config, base=str(own()))
    with pytest.raises(ModelError, match=REFUSED):
        SafeModel.attach(config)
    assert not (tmp_path / "ran").exists()
    model, known = SafeModel.attach(replace(config, trust_remote_code=True)), SafeModel.attach(tiny_config)
    assert (tmp_path / "ran").exists()
    assert [type(part).__name__ for part in (model.base, model.processor)] == ["OwnModel", "OwnProcessor"]
    assert model.fit == known.fit
    known.adapter.load_state_dict(model.adapter.state_dict())  # one that is new is drawn at random
    inputs = model.inputs(tiny_samples)
    audio = model.encode_audio([sample.audio for sample in tiny_samples])
    for heard in (None, audio):
        answers, others = (each.generate(inputs, heard) for each in (model, known))
        assert torch.equal(answers.sequences, others.sequences)
        assert all(torch.equal(a, b) for a, b in zip(answers.logits, others.logits, strict=True))


def test_a_base_made_of_code_goes_through_the_probe(own: Callable[..., Path], tiny_config: ModelConfig) -> None:
    config = replace(tiny_config, base=str(own("DeafModel")), trust_remote_code=True)
    with pytest.raises(ModelError, match=r"^base DeafModel [^\n]*CLIPVisionModel[^\n]*$"):
        SafeModel.attach(config)


def test_code_that_fails_is_told_in_one_line(own: Callable[..., Path]) -> None:
    folder = own(code="def broken(:\n")
    with pytest.raises(ModelError, match=r"^base [^\n]* cannot be loaded \([^\n]*\); give a folder[^\n]*$"):
        load_base(folder, trust_remote_code=True)


def test_an_adapter_cannot_ask_for_trust(own: Callable[..., Path], tiny_config: ModelConfig, tmp_path: Path) -> None:
    base = str(own())
    SafeModel.attach(replace(tiny_config, base=base, trust_remote_code=True)).save_pretrained(tmp_path / "adapter")
    (tmp_path / "ran").unlink()
    index = tmp_path / "adapter" / "adapter.json"
    values = json.loads(index.read_text())
    assert "trust_remote_code" not in values["config"]  # and earlier versions can read it
    for asked in (values["config"], values["config"] | {"trust_remote_code": True}):
        index.write_text(json.dumps(values | {"config": asked}))
        with pytest.raises(ModelError, match=REFUSED):
            SafeModel.from_pretrained(tmp_path / "adapter")
        with pytest.raises(ModelError, match=REFUSED):
            SafeModel.from_pretrained(tmp_path / "adapter", base=base)
    with pytest.raises(ConfigError, match=r"trust_remote_code is True, but base is not given, [^\n]*; give the base"):
        SafeModel.from_pretrained(tmp_path / "adapter", trust_remote_code=True)
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]  # or it would not be executed again
    assert not (tmp_path / "ran").exists()
    loaded = SafeModel.from_pretrained(tmp_path / "adapter", base=base, trust_remote_code=True)
    assert loaded.config.trust_remote_code
    assert (tmp_path / "ran").exists()
    assert "trust_remote_code=True" in (tmp_path / "adapter" / "README.md").read_text()


def test_the_commit_of_a_trusted_base_is_the_callers(tiny_config: ModelConfig, tmp_path: Path) -> None:
    # A file may name a commit that anyone has proposed to the trusted repository, with code of theirs in it.
    config = replace(tiny_config, base_revision="refs/pr/1")  # folders have no commits, so nothing asks
    SafeModel.attach(config).save_pretrained(tmp_path)

    def commit(**given: Any) -> str | None:
        return SafeModel.from_pretrained(tmp_path, base=tiny_config.base, **given).config.base_revision

    assert commit() == "refs/pr/1"
    assert commit(trust_remote_code=True) is None
    assert commit(trust_remote_code=True, base_revision="b2") == commit(base_revision="b2") == "b2"


def test_to_be_described_nothing_is_run(own: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^base [^\n]* nothing is run to describe a model[^\n]*$"):
        architecture(str(own()), None, "base")
    assert not (tmp_path / "ran").exists()


def test_trust_that_is_not_given_leaves_fingerprints_as_they_were(tiny_config: ModelConfig) -> None:
    model = SafeModel.attach(tiny_config)
    assert "trust_remote_code" not in model.fingerprint()["config"]
    model.config = replace(tiny_config, trust_remote_code=True)
    assert model.fingerprint()["config"]["trust_remote_code"] is True

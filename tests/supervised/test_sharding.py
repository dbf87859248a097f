"""A base spread over two processes of the CPU, as accelerate's FSDP configuration asks for it."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervised.errors import ConfigError, ModelError
from supervised.sharding import shard, sharding_is_wanted

CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"
COMPARE = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from supervised.config import FusionConfig, ModelConfig
from supervised.data.sample import Sample, Waveform
from supervised.processes import Processes
from supervised.safe_model import SafeModel
from supervised.sharding import attach_sharded, sharding_is_wanted

torch.set_num_threads(1)
processes = Processes.current()
layers = {"layers": (0, 1)} if sys.argv[4] == "layers" else {}
config = ModelConfig(base=sys.argv[1], encoder=sys.argv[2], fusion=FusionConfig(residual_scale=1.0, **layers))
rng = np.random.default_rng(processes.rank)  # every process has questions of its own
samples = [
    Sample(str(i), question, ("red",), Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)),
           Waveform(rng.normal(0, 0.1, 8000).astype(np.float32), 16000), None, "colour", str(i))
    for i, question in enumerate(["what is the colour of the dog ?", "which sound can you hear ?"])
]

def bits(tensor):
    return tensor.detach().contiguous().view(torch.int32).flatten().tolist()

def outcome(model):
    inputs = model.inputs(samples)
    audio = model.encode_audio([sample.audio for sample in samples])
    with torch.no_grad():
        plain = model.base(**inputs).logits
    heard = model.forward(inputs, audio, gate=1.0).logits
    heard.float().square().mean().backward()
    ids = model.generate(inputs, audio, max_new_tokens=2 + 3 * processes.rank)  # not the same number of steps
    return {
        "plain": bits(plain), "gate_zero": bits(model.forward(inputs, audio, gate=0.0).logits), "heard": bits(heard),
        "gradients": [bits(p.grad) for p in model.adapter.parameters() if p.grad is not None],
        "ids": model.decode(ids, inputs),
    }

def held(model):
    return sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in model.base.parameters())

assert sharding_is_wanted()
torch.manual_seed(0)
whole = SafeModel.attach(config)
torch.manual_seed(0)
spread = attach_sharded(config)
told = {
    "whole": outcome(whole), "spread": outcome(spread), "held": [held(whole), held(spread)],
    "spread_numbers": sum(p.numel() for p in spread.base.parameters() if hasattr(p, "to_local")),
    "whole_layers": [n for n, p in spread.base.named_parameters() if ".layers." in n and not hasattr(p, "to_local")],
    "trained": [p.requires_grad for p in spread.base.parameters()],
}
Path(sys.argv[3], f"{processes.rank}.json").write_text(json.dumps(told))
processes.close()
"""


@pytest.fixture(scope="module", params=["prompt", "layers"])
def told(
    request: pytest.FixtureRequest,
    launch: Callable[..., subprocess.CompletedProcess[str]],
    tiny_base_dir: Path,
    tiny_encoder_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    """What two processes computed with the whole base and with a half of its layers each."""
    folder = tmp_path_factory.mktemp("spread")
    (folder / "compare.py").write_text(textwrap.dedent(COMPARE))
    words = [folder / "compare.py", tiny_base_dir, tiny_encoder_dir, folder, request.param]
    ended = launch(*words, config=CONFIGS / "fsdp.yaml")
    assert ended.returncode == 0, ended.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_a_spread_base_computes_the_same_bits(told: list[dict[str, Any]]) -> None:
    for process in told:
        whole, spread = process["whole"], process["spread"]
        assert spread["plain"] == whole["plain"]
        assert spread["gate_zero"] == spread["plain"]  # gate 0 is the base
        assert spread["heard"] == whole["heard"] != whole["plain"]
        assert spread["ids"] == whole["ids"]
    assert told[0]["whole"]["plain"] != told[1]["whole"]["plain"]  # each process had its own questions


@pytest.mark.slow
def test_the_adapters_gradients_are_those_of_the_whole_base(told: list[dict[str, Any]]) -> None:
    for process in told:
        gradients = process["spread"]["gradients"]
        assert gradients == process["whole"]["gradients"]
        assert len(gradients) > 5
        assert any(any(values) for values in gradients)
        assert not any(process["trained"])


@pytest.mark.slow
def test_each_process_holds_half_of_the_layers(told: list[dict[str, Any]]) -> None:
    for process in told:
        whole, spread = process["held"]
        assert process["whole_layers"] == []
        assert spread == whole - process["spread_numbers"] // 2
        assert process["spread_numbers"] > whole / 2


def test_nothing_is_spread_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert not sharding_is_wanted()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "false")
    assert not sharding_is_wanted()  # one process has nobody to share with


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("FSDP_VERSION", "1", "fsdp_version must be 2, got 1; use configs/accelerate/fsdp.yaml"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "fsdp_auto_wrap_policy must be TRANSFORMER_BASED_WRAP, got size"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params must be false, got true"),
    ],
)
def test_what_is_not_supported_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "false")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=told):
        sharding_is_wanted()


def test_a_base_without_layers_of_that_name_is_refused(monkeypatch: pytest.MonkeyPatch, tiny_model: Any) -> None:
    import torch

    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "GPT2Block, Other")
    with pytest.raises(ModelError, match="has no layer called GPT2Block or Other; name the class"):
        shard(tiny_model.base, torch.device("cpu"))

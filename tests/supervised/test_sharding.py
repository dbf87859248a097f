"""A base spread over two processes of the CPU, as accelerate's configurations for FSDP and DeepSpeed ask for it."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
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
linear = torch.nn.functional.linear
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

def share(p):  # of FSDP, of ZeRO, or all of it
    return p.to_local() if hasattr(p, "to_local") else getattr(p, "ds_tensor", p)

def whole_size(p):
    return getattr(p, "ds_numel", p.numel())

def is_spread(p):
    return hasattr(p, "to_local") or hasattr(p, "ds_tensor")

def held(model):
    return sum(share(p).numel() for p in model.base.parameters())

assert sharding_is_wanted()
torch.manual_seed(0)
whole = SafeModel.attach(config)
torch.manual_seed(0)
spread = attach_sharded(config)
told = {
    "whole": outcome(whole), "spread": outcome(spread), "held": [held(whole), held(spread)],
    "spread_numbers": sum(whole_size(p) for p in spread.base.parameters() if is_spread(p)),
    "spread_names": [n for n, p in spread.base.named_parameters() if is_spread(p)],
    "layer_names": [n for n, p in spread.base.named_parameters() if "language_model.layers." in n],
    "same_linear": torch.nn.functional.linear is linear,
    "trained": [p.requires_grad for p in spread.base.parameters()],
}
Path(sys.argv[3], f"{processes.rank}.json").write_text(json.dumps(told))
processes.close()
"""


needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="deepspeed is not installed; pip install 'safe-rl-audio[deepspeed]'"
)


@pytest.fixture(
    scope="module",
    params=[
        "fsdp prompt",
        "fsdp layers",
        pytest.param("deepspeed prompt", marks=needs_deepspeed),
        pytest.param("deepspeed layers", marks=needs_deepspeed),
    ],
)
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
    by, place = request.param.split()
    words = [folder / "compare.py", tiny_base_dir, tiny_encoder_dir, folder, place]
    ended = launch(*words, config=CONFIGS / f"{by}.yaml")
    assert ended.returncode == 0, ended.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) | {"exact": by == "fsdp"} for rank in range(2)]


def check_equal(found: list[int], expected: list[int], exact: bool) -> None:
    """Two tensors, given as the integers that their bits are, hold the same numbers."""
    if exact:
        assert found == expected
    left, right = (np.array(bits, dtype=np.int32).view(np.float32) for bits in (found, expected))
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_spread_base_computes_the_same_numbers(told: list[dict[str, Any]]) -> None:
    for process in told:
        whole, spread = process["whole"], process["spread"]
        check_equal(spread["plain"], whole["plain"], process["exact"])
        assert spread["gate_zero"] == spread["plain"]  # gate 0 is the base, bit for bit
        check_equal(spread["heard"], whole["heard"], process["exact"])
        assert whole["heard"] != whole["plain"]
        assert spread["ids"] == whole["ids"]
        assert process["same_linear"]  # models that are not spread compute as ever
    assert told[0]["whole"]["plain"] != told[1]["whole"]["plain"]  # each process had its own questions


@pytest.mark.slow
def test_the_adapters_gradients_are_those_of_the_whole_base(told: list[dict[str, Any]]) -> None:
    for process in told:
        gradients, expected = process["spread"]["gradients"], process["whole"]["gradients"]
        assert len(gradients) == len(expected) > 5
        for found, known in zip(gradients, expected, strict=True):
            check_equal(found, known, process["exact"])
        assert any(any(values) for values in gradients)
        assert not any(process["trained"])


@pytest.mark.slow
def test_each_process_holds_half_of_the_text_layers_and_all_the_rest(told: list[dict[str, Any]]) -> None:
    for process in told:
        whole, spread = process["held"]
        assert process["spread_names"] == process["layer_names"] != []
        assert spread == whole - process["spread_numbers"] // 2
        assert process["spread_numbers"] > whole / 3


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

"""What of DeepSpeed is taken, what is refused, and how little of the layers two processes hold at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from supervised.errors import ConfigError
from supervised.sharding import left_whole, sharding_is_wanted
from supervised.zero import partition, zero_stage

CONFIG = Path(__file__).parents[2] / "configs" / "accelerate" / "deepspeed.yaml"
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="deepspeed is not installed; pip install 'safe-rl-audio[deepspeed]'"
)
HOLD = """
import json, sys
from contextlib import nullcontext
from pathlib import Path
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import LlamaConfig, LlamaForCausalLM
from supervised.processes import Processes
from supervised.stage_a.recomputing import recomputing
from supervised.zero import partition

torch.set_num_threads(1)
processes = Processes.current()
shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
base = LlamaForCausalLM(LlamaConfig(vocab_size=50, num_hidden_layers=6, attention_bias=True, **shape))
base.eval().requires_grad_(False)
layers = base.model.layers
partition([layers[0].mlp, *layers], torch.device("cpu"))  # the first is within the second
ids = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(processes.rank))
at_once, weights = [], []

def count(*_):
    at_once.append(sum(layer.self_attn.q_proj.weight.numel() > 0 for layer in layers))

def compute(layer, _):
    count()
    weights.extend(StorageWeakRef(weight.untyped_storage()) for weight in layer.parameters())

def head_back(_module, _inputs, output):
    if output.requires_grad:
        output.register_hook(count)

for layer in layers:
    layer.register_forward_pre_hook(compute)
    layer.self_attn.o_proj.register_forward_hook(head_back)

def hear(first):  # the audio enters before layer `first`
    def enter(_, args, kwargs):
        return (args[0].detach().requires_grad_(True), *args[1:]), kwargs
    hook = layers[first].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        return base(ids).logits.square().mean()
    finally:
        hook.remove()

def step(first=0, passes=1, again=False, between=False):
    at_once.clear(), weights.clear()
    with recomputing(base.model) if again else nullcontext():
        losses = [hear(first) for _ in range(passes)]
        kept = sum(not weight.expired() for weight in weights)
        if between:
            with torch.no_grad():
                base(ids)
        torch.stack(losses).sum().backward()
    ways = len(at_once)
    count()
    return {"kept": kept, "most": max(at_once), "ways": ways, "after": at_once[-1]}

cases = [{}, {"first": 2}, {"passes": 2}, {"between": True}, {"again": True}, {"first": 2, "passes": 2, "again": True}]
told = [{"case": str(case)} | step(**case) for case in (*cases, *cases)]
for _ in range(3):  # what DeepSpeed remembers of the last pass does not change it
    at_once.clear()
    with torch.no_grad():
        base(ids)
    told.append({"case": "no gradient", "kept": 0, "most": max(at_once), "ways": len(at_once), "after": 0})
Path(sys.argv[1], f"{processes.rank}.json").write_text(json.dumps(told))
processes.close()
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets the environment which accelerate's launcher leaves for DeepSpeed."""

    def ask(**settings: object) -> None:
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        for name, value in settings.items():
            monkeypatch.setenv(f"ACCELERATE_DEEPSPEED_{name.upper()}", str(value))

    return ask


@needs_deepspeed
@pytest.mark.slow
def test_no_process_holds_more_than_two_layers_at_a_time(
    launch: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "hold.py").write_text(textwrap.dedent(HOLD))
    ended = launch(tmp_path / "hold.py", tmp_path, config=CONFIG)
    assert ended.returncode == 0, ended.stderr
    for rank in range(2):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(told) == 15
        for case in told:
            assert case["kept"] == 0, case  # nothing waits for the way back
            assert 1 <= case["most"] <= 2, case
            assert case["after"] <= 1, case
            assert case["ways"] >= 6, case


def test_the_stage_is_the_launchers(asked: Callable[..., None]) -> None:
    assert zero_stage() is None
    asked(zero_stage=3, offload_param_device="none", offload_optimizer_device="none")
    assert zero_stage() == 3
    assert not sharding_is_wanted()  # one process has nobody to share with
    assert left_whole() is None


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_stages_that_spread_what_is_trained_leave_the_base_whole_and_say_so(
    asked: Callable[..., None], stage: int
) -> None:
    asked(zero_stage=stage)
    assert not sharding_is_wanted()
    told = left_whole()
    assert told is not None
    assert told.startswith(f"ZeRO stage {stage} leaves the base whole on every process")
    assert "\n" not in told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"zero_stage": 3, "offload_param_device": "cpu"}, "offload_param_device must be none, got cpu; use configs/"),
        ({"zero_stage": 2, "offload_optimizer_device": "nvme"}, "offload_optimizer_device must be none, got nvme"),
        ({"zero_stage": 4}, "zero_stage must be 0, 1, 2 or 3, got 4; use configs/accelerate/deepspeed.yaml"),
        ({}, "zero_stage must be 0, 1, 2 or 3, got nothing"),
        ({"config_file": "ds.json"}, "deepspeed_config_file is ds.json, and files of DeepSpeed's own are not read"),
    ],
)
def test_what_is_not_supported_is_refused(asked: Callable[..., None], settings: dict[str, object], told: str) -> None:
    asked(**settings)
    with pytest.raises(ConfigError, match=told):
        sharding_is_wanted()


def test_deepspeed_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(ConfigError, match=r"DeepSpeed cannot be imported .* pip install 'safe-rl-audio\[deepspeed\]'"):
        partition([torch.nn.Linear(2, 2)], torch.device("cpu"))


@needs_deepspeed
def test_a_model_that_is_not_where_deepspeed_computes_is_refused() -> None:
    code = """
import torch
from supervised.errors import ConfigError
from supervised.zero import partition
try:
    partition([torch.nn.Linear(2, 2)], torch.device("cuda"))
except ConfigError as error:
    print(error)
"""
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1].startswith("DeepSpeed computes on cpu and the model on cuda; leave DS_ACC")

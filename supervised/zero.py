"""Stage 3 of DeepSpeed's ZeRO for layers that are not trained: each process keeps a share, nothing has an optimiser.

DeepSpeed puts a layer together before it computes, forward and backward, and takes it apart afterwards. Its engine,
which would own the model, the optimiser and the step, is not used: all that is trained here is whole on every process.
What accelerate was asked for comes from the environment that its launcher leaves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from supervised.errors import ConfigError

STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
OFFLOADS = ("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE")
FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"


def zero_stage() -> int | None:
    """Return the stage of ZeRO that accelerate was asked for, or None: not for DeepSpeed.

    Raises:
        ConfigError: it was asked for something of DeepSpeed that is not supported.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() != "true":
        return None
    if given := os.environ.get(FILE):
        raise ConfigError(
            f"deepspeed_config_file is {given}, and files of DeepSpeed's own are not read; "
            "write zero_stage as configs/accelerate/deepspeed.yaml does."
        )
    for name in OFFLOADS:
        if (place := os.environ.get(name, "none").lower()) != "none":
            key = name.removeprefix("ACCELERATE_DEEPSPEED_").lower()
            raise ConfigError(f"{key} must be none, got {place}; use configs/accelerate/deepspeed.yaml.")
    stage = os.environ.get(STAGE, "nothing")
    if stage not in ("0", "1", "2", "3"):
        raise ConfigError(f"zero_stage must be 0, 1, 2 or 3, got {stage}; use configs/accelerate/deepspeed.yaml.")
    return int(stage)


def partition(layers: Sequence[nn.Module], device: torch.device) -> None:
    """Leave each process its share of frozen layers, in place; all of them call it with layers of the same shapes.

    Args:
        layers: frozen; a layer inside another one is spread with that.
        device: where they compute, and where the shares lie.

    Raises:
        ConfigError: deepspeed is not installed, or computes elsewhere.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)  # else DeepSpeed takes the GPU that it sees
    try:
        import deepspeed
        from deepspeed.accelerator import get_accelerator
        from deepspeed.ops import __compatible_ops__ as compiled
        from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
        from deepspeed.utils import set_z3_leaf_module
    except ImportError as error:
        raise ConfigError(
            f"DeepSpeed cannot be imported ({error}); run pip install 'safe-rl-audio[deepspeed]', "
            "or give --config_file configs/accelerate/fsdp.yaml."
        ) from error
    if (place := get_accelerator().device_name()) != device.type:
        raise ConfigError(
            f"DeepSpeed computes on {place} and the model on {device.type}; "
            f"leave DS_ACCELERATOR out, or set it to {device.type}."
        )
    compiled["deepspeed_shm_comm"] = False  # sums between CPUs, which it would compile; gloo does them
    deepspeed.init_distributed(verbose=False)  # joins the processes that know each other by torch
    zero = {"stage": 3, "memory_efficient_linear": False}
    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
    # No parameter is too small to be spread, and none stays for a later use: what does is a whole base again.
    thresholds = {"param_persistence_threshold": 0, "max_reuse_distance": 0, "prefetch_bucket_size": 0}
    inner = {id(module) for layer in layers for module in layer.modules() if module is not layer}
    way_back = _WayBack()
    for layer in layers:
        if id(layer) in inner:
            continue
        set_z3_leaf_module(layer, True)  # the whole layer in one call
        spread = DeepSpeedZeRoOffload(layer, timers=None, ds_config=settings, overlap_comm=False, **thresholds)
        way_back.watch(layer, spread)
        linears: list[Any] = [module for module in layer.modules() if type(module) is nn.Linear]
        for linear in linears:
            linear.forward = MethodType(_linear, linear)


class _WayBack:
    """Takes a layer apart when the gradient has come to another one.

    DeepSpeed does so itself where every forward pass is followed by its backward pass. Where another pass came between
    them, as with several passes for one loss, or where the layer's input needs a gradient only because audio entered
    it later, the layer would stay whole until it computes again.
    """

    def __init__(self) -> None:
        self._latest: Any = None

    def watch(self, layer: nn.Module, spread: Any) -> None:
        """Follow the gradients of a layer that was `spread`, a DeepSpeedZeRoOffload."""

        def come(_: Tensor) -> None:
            if self._latest not in (None, spread):
                self._latest.release_backward_leftovers()
            self._latest = spread

        def passed(_module: nn.Module, _inputs: Any, output: Any) -> None:
            result = output[0] if isinstance(output, tuple) else output
            if isinstance(result, Tensor) and result.requires_grad:
                result.register_hook(come)

        layer.register_forward_hook(passed)


def _linear(module: Any, inputs: Tensor) -> Tensor:
    """Compute what `nn.Linear` does, without keeping the weights for the way back: they are put together anew there.

    torch's own function keeps the transposed weights, so that after a pass every process would hold all layers.
    DeepSpeed's switch for this would replace that function everywhere, also in models that are not spread.
    """
    from deepspeed.runtime.zero.linear import zero3_linear_wrap

    result: Tensor = zero3_linear_wrap(inputs, module.weight, module.bias)
    return result

"""A frozen base spread over the GPUs of several processes, for bases that do not fit on one.

By FSDP2 of torch or by stage 3 of DeepSpeed's ZeRO, whichever accelerate was asked for. A spread layer is put together
when it computes and taken apart afterwards; nothing else about the model changes, and its numbers are those of the
whole base, up to the order of sums. Only layers that read text are spread: what sees, word embeddings, head and adapter
are whole on every process. As all processes give their share to every pass of the language model, they must make the
same number of them; in `generate`, transformers sees to it that they take the same number of steps. Pictures they may
encode when they like.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from supervised.base import has_encoder, language_model, resolve_stack
from supervised.config import ModelConfig
from supervised.errors import ConfigError, ModelError
from supervised.parts import find_device
from supervised.processes import Processes
from supervised.safe_model import SafeModel
from supervised.zero import partition, zero_stage

WRAP = "TRANSFORMER_BASED_WRAP"


def sharding_is_wanted() -> bool:
    """Whether accelerate was asked for FSDP or stage 3 of ZeRO, and there are processes to spread the base over.

    The other stages of ZeRO spread what is trained, here a small adapter that all processes hold.

    Raises:
        ConfigError: it was asked for something of that kind that is not supported.
    """

    def told(name: str) -> str:
        return os.environ.get(name, "").lower()

    if told("ACCELERATE_USE_FSDP") != "true":
        return zero_stage() == 3 and Processes.current().count > 1
    for name, allowed in (("FSDP_VERSION", "2"), ("FSDP_AUTO_WRAP_POLICY", WRAP), ("FSDP_OFFLOAD_PARAMS", "false")):
        if told(name) != allowed.lower():
            raise ConfigError(
                f"{name.lower()} must be {allowed}, got {told(name) or 'nothing'}; use configs/accelerate/fsdp.yaml."
            )
    return Processes.current().count > 1


def left_whole() -> str | None:
    """Return a line about a base that stays whole although accelerate was asked for ZeRO, or None: it was not."""
    stage = zero_stage()
    if stage in (None, 3):
        return None
    return (
        f"ZeRO stage {stage} leaves the base whole on every process, and the adapter too, which is all that is trained "
        "and small; this runs as with configs/accelerate/ddp.yaml. Stage 3 spreads the base."
    )


def attach_sharded(config: ModelConfig) -> SafeModel:
    """Return `SafeModel.attach(config)` with its base spread over the processes.

    The base is loaded into main memory, on every process, and reaches the GPU layer by layer.

    Raises:
        ConfigError: DeepSpeed is asked for, and is not installed or computes on another device.
        ModelError: a part cannot be loaded, audio cannot enter this base, or it does not name its layers.
    """
    device = find_device(config.device)
    model = SafeModel.attach(replace(config, device="cpu"))
    shard(model.base, device)
    for part in (model.base, model.encoder, model.adapter):
        part.to(device)
    model.config = config
    return model


def shard(base: Any, device: torch.device) -> None:
    """Spread the layers of a frozen base over all processes, in place.

    Raises:
        ConfigError: DeepSpeed is asked for, and is not installed or computes on another device.
        ModelError: the base does not name its layers, or has none of that name.
    """
    layers = _layers(base)
    if zero_stage() == 3:
        partition(layers, device)
    else:
        _shard_fully(layers, device)
    base._is_fsdp_managed_module = True  # then `generate` goes on until the last process has its last token


def _layers(base: Any) -> list[nn.Module]:
    """Return the layers that are spread."""
    given = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    names = {name.strip() for name in given.split(",") if name.strip()} or set(base._no_split_modules or ())
    stacks = [resolve_stack(base)]
    if has_encoder(base):
        stacks.append(language_model(base).get_decoder())
    layers = [module for stack in stacks for module in stack.modules() if type(module).__name__ in names]
    if not layers:
        raise ModelError(
            f"base {type(base).__name__} has no layer called {' or '.join(sorted(names)) or 'anything'}; name the "
            "class of its text layers as fsdp_transformer_layer_cls_to_wrap in configs/accelerate/fsdp.yaml."
        )
    return layers


def _shard_fully(layers: Sequence[nn.Module], device: torch.device) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (Processes.current().count,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)

"""A frozen base spread over the GPUs of several processes, for bases that do not fit on one (FSDP2 of torch).

A sharded layer is put together when it computes and taken apart afterwards; nothing else about the model changes, and
its numbers are, bit for bit, those of the whole base. Only layers are spread: word embeddings, head and adapter are
whole on every process. As all processes give their share to every pass, they must make the same number of passes of
the base; in `generate`, transformers sees to it that they take the same number of steps.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import torch

from supervised.config import ModelConfig
from supervised.errors import ConfigError, ModelError
from supervised.parts import find_device
from supervised.processes import Processes
from supervised.safe_model import SafeModel

WRAP = "TRANSFORMER_BASED_WRAP"


def sharding_is_wanted() -> bool:
    """Whether accelerate was asked for FSDP, and there are processes to spread the base over.

    Raises:
        ConfigError: it was asked for something of that kind that is not supported.
    """

    def told(name: str) -> str:
        return os.environ.get(name, "").lower()

    if told("ACCELERATE_USE_FSDP") != "true":
        return False
    for name, allowed in (("FSDP_VERSION", "2"), ("FSDP_AUTO_WRAP_POLICY", WRAP), ("FSDP_OFFLOAD_PARAMS", "false")):
        if told(name) != allowed.lower():
            raise ConfigError(
                f"{name.lower()} must be {allowed}, got {told(name) or 'nothing'}; use configs/accelerate/fsdp.yaml."
            )
    return Processes.current().count > 1


def attach_sharded(config: ModelConfig) -> SafeModel:
    """Return `SafeModel.attach(config)` with its base spread over the processes.

    The base is loaded into main memory, on every process, and reaches the GPU layer by layer.

    Raises:
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
        ModelError: the base does not name its layers, or has none of that name.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    given = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    names = {name.strip() for name in given.split(",") if name.strip()} or set(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in names]
    if not layers:
        raise ModelError(
            f"base {type(base).__name__} has no layer called {' or '.join(sorted(names)) or 'anything'}; name the "
            "class of its layers as fsdp_transformer_layer_cls_to_wrap in accelerate's configuration."
        )
    mesh = init_device_mesh(device.type, (Processes.current().count,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    base._is_fsdp_managed_module = True  # then `generate` goes on until the last process has its last token

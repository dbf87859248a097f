"""The pictures of a family as tensors: its configuration and their number go in, keyword arguments come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tiny_configurations import SIZE
from torch import Tensor

Pictures = Callable[[Any, int], dict[str, Tensor]]


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def whole(config: Any, n: int) -> dict[str, Tensor]:
    """Return one square per picture."""
    return {"pixel_values": _noise(n, 3, SIZE, SIZE)}


def sized(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares and their sizes."""
    return whole(config, n) | {"image_sizes": torch.full((n, 2), SIZE)}


def tiled(config: Any, n: int) -> dict[str, Tensor]:
    """Return a picture and its tiles, each a square, and the size before tiling."""
    return {"pixel_values": _noise(n, 3, 3, SIZE, SIZE), "image_sizes": torch.tensor([[SIZE, 2 * SIZE]] * n)}


def listed(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares as a list per question; here each question has the same number."""
    return {"pixel_values": _noise(1, n, 3, SIZE, SIZE)}


def patched(config: Any, n: int) -> dict[str, Tensor]:
    """Return patches of all pictures in one list, each flat, and the pictures' grids."""
    vision = config.vision_config
    channels = getattr(vision, "in_channels", None) or getattr(vision, "num_channels", None) or 3
    frames = getattr(vision, "temporal_patch_size", 1) or 1
    length = channels * frames * vision.patch_size**2
    return {"pixel_values": _noise(n * 16, length), "image_grid_thw": torch.tensor([[1, 4, 4]] * n)}


def square_patches(config: Any, n: int) -> dict[str, Tensor]:
    """Return patches as little pictures, and the pictures' grids."""
    flat = patched(config, n)
    size = config.vision_config.patch_size
    return flat | {"pixel_values": flat["pixel_values"].view(n * 16, 3, size, size)}


def masked(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares as a list per question, all of them real."""
    return listed(config, n) | {"pixel_attention_mask": torch.ones(1, n, dtype=torch.bool)}


def attended(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares as a list per question, and which tokens look at which."""
    return listed(config, n) | {"image_attention_mask": torch.ones(1, n, 1, dtype=torch.long)}


def placed(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares, and where their tokens are in the prompt."""
    mask = torch.zeros(n, 9, dtype=torch.long)
    mask[:, -4:-2] = 1
    return whole(config, n) | {"image_embeds_position_mask": mask}


def with_question(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares, and the question for the Q-former, the same for all."""
    ids = torch.tensor([[5, 6, 7]] * n)
    return whole(config, n) | {"qformer_input_ids": ids, "qformer_attention_mask": torch.ones_like(ids)}


def with_frames(config: Any, n: int) -> dict[str, Tensor]:
    """Return films of two squares, and the question for the Q-former of every frame."""
    ids = torch.tensor([[5, 6, 7]] * n)
    return {"pixel_values": _noise(n, 2, 3, SIZE, SIZE), "qformer_input_ids": ids}


def named(config: Any, n: int) -> dict[str, Tensor]:
    """Return squares under the name that tells them from films."""
    return {"pixel_values_images": _noise(n, 3, SIZE, SIZE)}


def merged(config: Any, n: int) -> dict[str, Tensor]:
    """Return patches, grids, and how many of them make a token along a side."""
    return patched(config, n) | {"image_merge_sizes": torch.tensor([2] * n)}


def gridded(config: Any, n: int) -> dict[str, Tensor]:
    """Return patches and grids without a time."""
    size = config.vision_config.patch_size
    return {"pixel_values": _noise(n * 16, 3 * size**2), "image_grid_hw": torch.tensor([[4, 4]] * n)}


def shaped(config: Any, n: int) -> dict[str, Tensor]:
    """Return patches per picture, with grids and masks."""
    size = config.vision_config.patch_size
    return {
        "pixel_values": _noise(n, 16, 3 * size**2),
        "spatial_shapes": torch.tensor([[4, 4]] * n),
        "pixel_attention_mask": torch.ones(n, 16, dtype=torch.long),
    }


def targeted(config: Any, n: int) -> dict[str, Tensor]:
    """Return all patches side by side in one strip, and the grids."""
    size = config.vision_config.patch_size
    return {"pixel_values": _noise(1, 3, size, n * 16 * size), "target_sizes": torch.tensor([[4, 4]] * n)}

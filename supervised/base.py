"""The frozen vision-language model: loaded from a folder or a Hugging Face id, identified, measured and opened up.

In: a path or an id with safetensors weights. Out: the model in eval mode without a trainable parameter, its
processor, a hash of its weights, the size of its text embeddings, and the module in it that reads the merged
text-and-image embeddings. Nothing here changes the model; no code from the checkpoint is executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from supervised.errors import ModelError

LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError, SafetensorError)
"""What `from_pretrained` raises on a missing, damaged or foreign checkpoint."""
EMBEDDING_ROWS = 8192
"""Rows of the embedding table that are measured at once, so that a large vocabulary does not double its memory."""


def load_base(source: str | Path, revision: str | None = None, dtype: str = "auto") -> tuple[Any, Any]:
    """Return model and processor of a vision-language model, the model frozen and in eval mode.

    Args:
        source: a folder, a Hugging Face id, or "demo".
        revision: commit on the Hugging Face hub; None: the newest.
        dtype: "auto" (that of the checkpoint), "float32" or "bfloat16".

    Raises:
        ModelError: not there, damaged, incomplete, no safetensors, no vision-language model, no chat template.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    path = locate(source, "base")
    options = {"revision": revision or "main", "trust_remote_code": False}
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        # The backends for pictures differ numerically, and only Pillow's is there in every installation.
        processor = AutoProcessor.from_pretrained(path, backend="pil", **options)
    except LOAD_ERRORS as error:
        raise ModelError(
            f"base {str(source)!r} cannot be loaded ({first_line(error)}); "
            "give a folder or a Hugging Face id of a vision-language model with safetensors weights and a processor."
        ) from error
    if report["missing_keys"]:
        raise ModelError(
            f"base {str(source)!r} lacks {len(report['missing_keys'])} weights, e.g. {min(report['missing_keys'])}; "
            "give a complete checkpoint."
        )
    if getattr(processor, "tokenizer", None) is None or not getattr(processor, "chat_template", None):
        raise ModelError(f"base {str(source)!r} has no tokenizer with a chat template; give a model made for chat.")
    processor.tokenizer.padding_side = "left"  # generation goes on where the prompt ends
    return freeze(model), processor


def locate(source: str | Path, kind: Literal["base", "encoder"]) -> str:
    """Return what `from_pretrained` takes for `source`: a folder that exists, or a Hugging Face id.

    Raises:
        ModelError: a folder that does not exist (so that no network is asked for it).
    """
    if str(source) == "demo":
        from supervised import demo

        path = Path(demo.BASE if kind == "base" else demo.ENCODER)
        if not path.is_dir():
            raise ModelError(f"the demo's {kind} is not in {path}; make it with python -m safe_rl.pretrain_demo.")
        return str(path)
    path = Path(source)
    if path.is_dir():
        return str(path)
    if isinstance(source, Path) or path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ModelError(f"{kind} {str(source)!r} is not a folder; give a folder, a Hugging Face id, or demo.")
    return source


def freeze(model: Any) -> Any:
    """Return `model` in eval mode, no parameter of it trainable."""
    return model.eval().requires_grad_(False)


def resolve_stack(model: Any) -> Any:
    """Return the module of `model` that consumes the merged input embeddings: the decoder without its head.

    Raises:
        ModelError: the language model has an encoder, or no text stack can be found.
    """
    name = type(model).__name__
    owner = getattr(model, "language_model", None)  # BLIP-2 keeps its language model on the outer class
    if getattr(model.config, "is_encoder_decoder", False) or (
        owner is not None and getattr(owner.config, "is_encoder_decoder", False)
    ):
        raise ModelError(f"base {name} has an encoder-decoder language model; give one with a decoder only.")
    stack = model.get_decoder()
    while stack is not None and (inner := stack.get_decoder()) is not stack:
        stack = inner
    if stack is None or stack is model:
        raise ModelError(f"base {name} shows no text stack through get_decoder(); give e.g. a LLaVA model.")
    return stack


def weights_sha256(module: nn.Module) -> str:
    """Return one SHA-256 over name, type, shape and bytes of every entry of the state dict, in order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def embedding_width(model: Any) -> int:
    """Return the width of the text embeddings, which in some families is not `config.hidden_size`."""
    return int(model.get_input_embeddings().weight.shape[1])


def embedding_rms(model: Any) -> float:
    """Return the root mean square of the text embeddings as the text stack sees them; all-zero rows do not count."""
    total, count = 0.0, 0
    for rows in _embedding_rows(model):
        total += float(rows.square().sum(dtype=torch.float64))
        count += rows.numel()
    return (total / max(count, 1)) ** 0.5


def embedding_mean(model: Any) -> Tensor:
    """Return the mean text embedding, float32 [D]; all-zero rows do not count."""
    total = torch.zeros(embedding_width(model), dtype=torch.float64)
    count = 0
    for rows in _embedding_rows(model):
        total += rows.sum(0, dtype=torch.float64).cpu()
        count += len(rows)
    return (total / max(count, 1)).float()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without a full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip().rstrip(".")


@torch.no_grad()
def _embedding_rows(model: Any) -> Iterator[Tensor]:
    """Yield the embeddings of all tokens in float32, through the module's forward: some families scale in there."""
    embed = model.get_input_embeddings()
    ids = torch.arange(embed.weight.shape[0], device=embed.weight.device)
    for part in ids.split(EMBEDDING_ROWS):
        rows = embed(part).float()  # (n, D)
        yield rows[rows.abs().amax(1) > 0]

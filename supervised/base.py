"""The frozen vision-language model: loaded from a folder or a Hugging Face id, identified, measured and opened up.

In: a path or an id with safetensors weights. Out: the model in eval mode without a trainable parameter, its
processor, a hash of its weights, the size of its text embeddings, and the module in it that reads the merged
text-and-image embeddings. Nothing here changes the model; code beside the checkpoint is executed only if asked for.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from supervised.errors import ModelError
from supervised.processors import load_processor

LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError, SafetensorError)
"""What `from_pretrained` raises on a missing, damaged or foreign checkpoint."""
EMBEDDING_ROWS = 8192
"""Rows of the embedding table that are measured at once, so that a large vocabulary does not double its memory."""

_LOCK = threading.Lock()
_KEEPS_STATE: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_CALLS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
"""A lock per base that keeps state between the steps of a call."""


def load_base(
    source: str | Path, revision: str | None = None, dtype: str = "auto", trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Return model and processor of a vision-language model, the model frozen and in eval mode.

    Args:
        source: a folder, a Hugging Face id, or "demo".
        revision: commit on the Hugging Face hub; None: the newest.
        dtype: "auto" (that of the checkpoint), "float32" or "bfloat16".
        trust_remote_code: execute Python code that lies beside the checkpoint, where it brings its own.

    Raises:
        ModelError: not there, damaged, incomplete, no safetensors, no vision-language model, no tokenizer, or made of
            code of its own that is not trusted.
    """
    from transformers import AutoModelForImageTextToText

    path = locate(source, "base")
    options = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    errors = (Exception,) if trust_remote_code else LOAD_ERRORS  # foreign code may raise anything
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        processor = load_processor(path, model.config, options)
    except ModelError:
        raise
    except errors as error:
        if not trust_remote_code and needs_code(error):
            raise ModelError(
                f"base {str(source)!r} needs Python code that lies beside it, and such code is not run unless asked "
                "for; read it, and if you trust it set model.trust_remote_code to true, or give another base."
            ) from error
        raise ModelError(
            f"base {str(source)!r} cannot be loaded ({first_line(error)}); "
            "give a folder or a Hugging Face id of a vision-language model with safetensors weights and a processor."
        ) from error
    if report["missing_keys"]:
        raise ModelError(
            f"base {str(source)!r} lacks {len(report['missing_keys'])} weights, e.g. {min(report['missing_keys'])}; "
            "give a complete checkpoint."
        )
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


def needs_code(error: BaseException) -> bool:
    """Return whether transformers raised `error` because the checkpoint is nothing without code of its own."""
    return "trust_remote_code=True" in str(error)


def freeze(model: Any) -> Any:
    """Return `model` in eval mode, no parameter of it trainable."""
    return model.eval().requires_grad_(False)


def resolve_stack(model: Any) -> Any:
    """Return the module of `model` that consumes the merged input embeddings.

    That is the decoder without its head or, with an encoder-decoder language model (Flan-T5 in BLIP-2), its encoder:
    prompts enter there, in a forward pass and in `generate`.

    Raises:
        ModelError: no text stack can be found.
    """
    if has_encoder(model):
        stack = language_model(model).get_encoder()
    else:
        stack = model.get_decoder()
        while stack is not None and (inner := stack.get_decoder()) is not stack:
            stack = inner  # OPTForCausalLM -> OPTModel -> OPTDecoder
    if stack is None or stack is model:
        raise ModelError(
            f"base {type(model).__name__} shows no text stack through get_decoder() or get_encoder(); "
            "give e.g. a LLaVA model."
        )
    return stack


def language_model(model: Any) -> Any:
    """Return the part that answers: BLIP-2 and InstructBLIP keep a whole language model, with a head, inside."""
    owner = getattr(model, "language_model", None)
    return model if owner is None or owner.get_output_embeddings() is None else owner


def has_encoder(model: Any) -> bool:
    """Return whether the language model is an encoder-decoder: it reads the prompt apart from its answer."""
    return bool(getattr(language_model(model).config, "is_encoder_decoder", False))


def decoder_start(model: Any) -> int:
    """Return the token with which the decoder of an encoder-decoder begins, as `generate` chooses it.

    Raises:
        ModelError: neither the generation settings nor the configuration name one.
    """
    sources = (generator(model).generation_config, language_model(model).config.get_text_config(decoder=True))
    for name in ("decoder_start_token_id", "bos_token_id"):
        for source in sources:
            if (token := getattr(source, name, None)) is not None:
                return int(token)
    raise ModelError(
        f"base {type(model).__name__} names no decoder_start_token_id, so its decoder cannot begin an answer; "
        "set it in the checkpoint's generation_config.json."
    )


def forced_start(model: Any) -> int | None:
    """Return the token that `generate` puts before every answer whatever the logits say (BART's), or None."""
    token = getattr(generator(model).generation_config, "forced_bos_token_id", None)
    return None if token is None else int(token)


def end_ids(model: Any) -> list[int]:
    """Return the tokens that end an answer."""
    ends = generator(model).generation_config.eos_token_id
    if ends is None:
        return []
    return [int(end) for end in ends] if isinstance(ends, (list, tuple)) else [int(ends)]


def has_position_table(model: Any) -> bool:
    """Return whether the text stack looks its positions up in a table, as GPT-2 does, and the base takes them.

    Such a stack counts columns, padding included, unless it is told the positions; rotary ones see distances only.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters or keeps_state(model):
        return False
    words = model.get_input_embeddings()
    return any(isinstance(part, nn.Embedding) and part is not words for part in resolve_stack(model).children())


def token_positions(attended: Tensor) -> Tensor:
    """Return the positions (B, L) of tokens that count the `attended` (B, L) ones before them; 0 in padding before."""
    return (attended.long().cumsum(1) - 1).clamp(min=0)


def generator(model: Any) -> Any:
    """Return the module whose generation settings count: a `generate` of the base's own hands on to that inside."""
    from transformers import GenerationMixin

    own = getattr(type(model), "generate", None) not in (None, GenerationMixin.generate)
    return language_model(model) if own else model


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a compiled base: compiled code neither sees a hook that comes later nor forgets one that was there.

    Raises:
        ModelError: `torch.compile` was applied to the base, to one of its modules or to a module's forward.
    """
    for module in model.modules():
        forward = vars(module).get("forward")
        if (
            getattr(module, "_compiled_call_impl", None) is not None
            or "_orig_mod" in module._modules
            or hasattr(forward, "_torchdynamo_orig_callable")
        ):
            raise ModelError(
                f"base {type(model).__name__} was compiled with torch.compile, and compiled code does not see the "
                "audio; give the model as it was loaded."
            )


def keeps_state(model: nn.Module) -> bool:
    """Return whether the base stores something of one step on its modules for the next: Qwen's rope_deltas."""
    if model not in _KEEPS_STATE:
        _KEEPS_STATE[model] = any(hasattr(module, "rope_deltas") for module in model.modules())
    return _KEEPS_STATE[model]


@contextmanager
def one_at_a_time(model: nn.Module) -> Iterator[None]:
    """Let other threads wait until the block ends, where calls of `model` would corrupt each other's state."""
    if not keeps_state(model):
        yield
        return
    with _LOCK:
        lock = _CALLS.setdefault(model, threading.RLock())
    with lock:
        yield


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

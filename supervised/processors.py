"""The processor that belongs to a base: its tokenizer, its pictures with Pillow, its chat template if it has one.

In: a folder or a Hugging Face id. Out: a processor that pads on the left. Several families bring a third part, for
films, which transformers builds with torchvision only and never with Pillow. Their processors are built here without
it, whatever is installed: no film is ever asked about, and pictures come out the same everywhere.
"""

from __future__ import annotations

from typing import Any

from supervised.errors import ModelError


def load_processor(path: str, config: Any, options: dict[str, Any]) -> Any:
    """Return the processor of a base.

    Args:
        path: a folder, or a Hugging Face id.
        config: of the base.
        options: revision and trust, as `from_pretrained` takes them.

    Raises:
        ModelError: no tokenizer, or a package is missing that the processor needs.
        OSError, ValueError, ...: what `from_pretrained` raises.
    """
    from transformers import AutoProcessor

    try:
        # The backends for pictures differ numerically, and only Pillow's is there in every installation.
        processor = AutoProcessor.from_pretrained(path, backend="pil", **options)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # films have no backend with Pillow
        processor = _without_films(path, config, options, error)
    if getattr(processor, "tokenizer", None) is None:
        raise ModelError(f"base {path!r} has no tokenizer; give a folder or an id that holds its processor.")
    processor.tokenizer.padding_side = "left"  # generation goes on where the prompt ends
    return processor


def _without_films(path: str, config: Any, options: dict[str, Any], error: Exception) -> Any:
    """Return the processor without its part for films, or raise `error`: it has none, so something else is wrong."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    kind = PROCESSOR_MAPPING.get(type(config), None)
    if kind is None or "video_processor" not in kind.get_attributes():
        raise error
    if unknown := set(kind.get_attributes()) - {"tokenizer", "image_processor", "video_processor"}:
        raise ModelError(
            f"base {path!r}: its {kind.__name__} needs torchvision (for {min(unknown)}); pip install torchvision."
        ) from error
    try:
        without: Any = type(kind.__name__, (_WithoutFilms, kind), {})
        return without.from_pretrained(path, **options)
    except ImportError as missing:
        reason = (str(missing).strip() or "no reason given").splitlines()[0].rstrip(".")
        raise ModelError(f"base {path!r}: its {kind.__name__} cannot be built ({reason}); install that.") from missing


class _WithoutFilms:
    """Mixed into a family's processor: nothing in the place of its part for films."""

    def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
        check = super().check_argument_for_proper_class  # type: ignore[misc]
        return None if name == "video_processor" else check(name, argument)

    @classmethod
    def _get_arguments_from_pretrained(cls, path: str, processor_dict: Any = None, **kwargs: Any) -> list[Any]:
        """Return tokenizer and image processor in the order that the family's processor wants them."""
        from transformers import AutoImageProcessor, AutoTokenizer

        options = {name: kwargs[name] for name in ("revision", "trust_remote_code") if name in kwargs}
        parts = {
            "tokenizer": lambda: AutoTokenizer.from_pretrained(path, **options),
            "image_processor": lambda: AutoImageProcessor.from_pretrained(path, backend="pil", **options),
            "video_processor": lambda: None,
        }
        return [parts[name]() for name in cls.get_attributes()]  # type: ignore[attr-defined]

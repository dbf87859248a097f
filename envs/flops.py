"""What an action costs in floating-point operations: a model and a few questions go in, a mean per action comes out.

Counted are the matrix products, convolutions and attentions of base, audio encoder, projector and fusion, two
operations per multiply-add, as PyTorch's FlopCounterMode does; mel preview and gate are too small to count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from envs.actions import Action
from envs.config import OutcomesConfig
from envs.cost import LatencyProfile
from envs.passes import Passes
from supervised.data.sample import Sample, Waveform
from supervised.errors import DataError

if TYPE_CHECKING:
    from supervised.safe_model import SafeModel

FLOPS_SAMPLES = 8
"""Questions that a build counts on."""
_T = TypeVar("_T")


def count_flops(model: SafeModel, samples: Sequence[Sample], config: OutcomesConfig) -> dict[str, float]:
    """Return the mean operations of every action by its name, answers included, at batch size 1.

    SKIP is the base pass. USE adds the audio encoder and a second pass with audio, which shares the encoded picture
    (`cascade`), or replaces the base pass by it (`router`); a token budget projects and attends to that many tokens. A
    clap preview pays the encoder before the decision. Without a clip USE is SKIP.

    Args:
        model: Base, encoder and adapter.
        samples: The questions to count on.
        config: Its cost mode, preview and `max_new_tokens` count.

    Raises:
        DataError: there is no question, or one cannot be read.
    """
    if not samples:
        raise DataError("operations are counted on at least one question, got none; give some train questions.")
    passes = Passes(model, config, LatencyProfile.free())
    each = [_of_one(passes, passes.load(sample)) for sample in samples]
    return {name: sum(counted[action] for counted in each) / len(samples) for action, name in enumerate(passes.actions)}


def _of_one(passes: Passes, sample: Sample) -> list[int]:
    """Return the operations of every action on one loaded question."""
    config = passes.config
    assert sample.audio is None or isinstance(sample.audio, Waveform)  # `load` has read it
    clips = [sample.audio]
    audio, encoding = _counted(lambda: passes.model.encoder(clips))  # not from a cache, which computes nothing
    base, plain = _counted(lambda: passes.base([sample], audio))
    glance = encoding if config.preview == "clap" else 0
    skip = glance + plain
    if sample.audio is None:
        return [skip] * len(passes.actions)
    paying = range(Action.USE, len(passes.actions))
    hearing = [_counted(lambda action=action: passes.use(base, audio, action))[1] for action in paying]  # type: ignore[misc]
    before = plain
    if config.cost_mode == "router":
        images, seeing = _counted(lambda: passes.model.encode_images(base.inputs))
        before = 0 if images is None else seeing
    return [skip, *(before + encoding + use for use in hearing)]


def _counted(call: Callable[[], _T]) -> tuple[_T, int]:
    """Return what a call returns, and its operations."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter: Any = FlopCounterMode(display=False)
    # Attention as plain matrix products: fused kernels are not counted on every device.
    with sdpa_kernel(SDPBackend.MATH), counter:
        result = call()
    return result, int(counter.get_total_flops())

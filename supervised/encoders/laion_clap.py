"""LAION's own CLAP checkpoints (`.pt`) in the tower of the `laion_clap` package, which is imported only here.

A checkpoint is read without executing what is pickled in it: tensors and numbers are accepted, anything else refuses
the file. Only the audio half is built. The package itself is never imported as a whole, because that fetches three
tokenizers, and its `load_ckpt` unpickles: its tower stands in one module, and that is taken from its folder.

Clips are quantised to 16 bits and filled up by repetition, as the package does, and cut into windows of 480,000
samples at 48 kHz (10 s), where the package would crop at random; the windows' tokens are averaged. A token is 1/32 of
a window. Spectrogram and tokens differ from those of the same checkpoint in transformers; their identities do, too.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supervised.base import LOAD_ERRORS, first_line, freeze, weights_sha256
from supervised.encoders.clap import mean_of_windows
from supervised.encoders.windows import Tensors, WindowedEncoder
from supervised.errors import ModelError

FRAMING = "int16, repeatpad, windows, mean of tokens, v1"
REPEATED = 32
"""Times that the tower's output holds each of its time steps."""
SCALAR = np.float64(0).__reduce__()[0]  # what NumPy's scalars are unpickled by
SAFE_GLOBALS: list[Any] = [
    (SCALAR, "numpy.core.multiarray.scalar"),  # NumPy 1
    (SCALAR, "numpy._core.multiarray.scalar"),  # NumPy 2
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")),
]
"""All that a checkpoint may hold beside tensors and plain values: NumPy's numbers, as LAION's training script left."""
INSTALL = (
    "pip install 'safe-rl-audio[laion-clap]' in an environment of its own (it needs numpy < 2 "
    "and builds of torch and torchvision that belong together)"
)


class LaionClapEncoder(WindowedEncoder):
    """The audio tower and projection of one of LAION's checkpoints, frozen."""

    def __init__(self, branch: Any, projection: nn.Module, settings: Mapping[str, Any]) -> None:
        super().__init__(int(settings["sample_rate"]), int(settings["clip_samples"]))
        self.branch = freeze(branch)
        self.projection = freeze(projection)
        with torch.no_grad():
            tokens, embedding = self._tower(*self._prepare(np.zeros(self.window, np.float32)))
        _, self.num_tokens, self.token_dim = tokens.shape
        self.embedding_dim = embedding.shape[1]
        identity = {
            "package": f"laion-clap {version('laion-clap')}",
            "framing": FRAMING,
            "settings": dict(settings),
            "weights": [weights_sha256(branch), weights_sha256(projection)],
        }
        self.sha256 = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_file(cls, path: Path) -> LaionClapEncoder:
        """Load the audio half of a checkpoint without feature fusion, e.g. 630k-audioset-best.pt.

        Raises:
            ModelError: not there, no checkpoint of this kind, more in it than tensors and numbers, or no package.
        """
        state = read_state(path)
        try:
            branch, projection, settings = _build(state)
        except ModelError:  # of the package; the checkpoint is not to blame
            raise
        except LOAD_ERRORS as error:
            raise ModelError(
                f"encoder '{path}' cannot be loaded ({first_line(error)}); "
                "give a checkpoint of LAION's CLAP without fusion, e.g. 630k-audioset-best.pt."
            ) from error
        return cls(branch, projection, settings)

    def _prepare(self, samples: np.ndarray) -> Tensors:
        """Return at most one window of samples as float32 (1, window)."""
        return (torch.from_numpy(fill(quantise(samples), self.window))[None].to(self.device),)

    def _tower(self, *inputs: Tensor) -> Tensors:
        """Return tokens (W, T, Da) and embeddings (W, De) of samples (W, window)."""
        (samples,) = inputs
        longer = torch.zeros(len(samples), 1, dtype=torch.bool, device=samples.device)
        output = self.branch({"waveform": samples, "longer": longer}, mixup_lambda=None, device=samples.device)
        tokens = output["fine_grained_embedding"][:, ::REPEATED]  # (W, T, Da)
        return tokens, nn.functional.normalize(self.projection(output["embedding"]), dim=-1)

    def _clip(self, *outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return mean_of_windows(*outputs)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the named weights of a checkpoint file; nothing that is pickled in it is executed.

    Raises:
        ModelError: not there, damaged, no weights by name, or more in it than tensors and NumPy's numbers.
    """
    if not path.is_file():
        raise ModelError(f"encoder '{path}' is not a file; give one of LAION's CLAP checkpoints, e.g. 630k-best.pt.")
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ModelError(
            f"encoder '{path}' cannot be read without executing what is pickled in it ({_complaint(error)}); "
            "give a checkpoint of tensors and numbers, as LAION published them."
        ) from error
    except (*LOAD_ERRORS, EOFError, AssertionError) as error:
        raise ModelError(
            f"encoder '{path}' is not a whole checkpoint of PyTorch ({first_line(error)}); download it again."
        ) from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"encoder '{path}' holds no weights by name; give one of LAION's CLAP checkpoints.")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def quantise(samples: np.ndarray) -> np.ndarray:
    """Return float32 samples (n,) rounded towards 0 to 16 bits and clipped to +-1."""
    return np.asarray((np.clip(samples, -1, 1) * 32767.0).astype(np.int16) / 32767.0, np.float32)


def fill(samples: np.ndarray, length: int) -> np.ndarray:
    """Return samples (n,), n <= length, repeated as a whole as often as they fit, then zeros (length,)."""
    repeated = np.tile(samples, length // len(samples))
    return np.pad(repeated, (0, length - len(repeated)))


def _complaint(error: UnpicklingError) -> str:
    """Return what PyTorch's reader found; the advice around it is to execute the file all the same."""
    found = re.search(r"(Unsupported|Trying to|Can only)[^\n]*", str(error))
    return first_line(ValueError(found[0] if found else str(error))).partition(" was not an allowed")[0]


def _build(state: Mapping[str, Tensor]) -> tuple[Any, nn.Module, dict[str, Any]]:
    """Return the package's audio branch with its weights, the projection, and the branch's settings.

    Raises:
        ModelError: the package, or what it needs, is missing.
        ValueError: the weights are of no architecture of the package, or of one with feature fusion.
        RuntimeError: weights are missing, unknown or of another shape.
    """
    branch_state, projection_state = (
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        for prefix in ("audio_branch.", "audio_projection.")
    )
    if any("fusion_model" in name for name in branch_state):
        raise ValueError("it is one with feature fusion, whose crops are random")
    folder, htsat = _package()
    width, joint = projection_state["0.weight"].shape[::-1]
    bins = branch_state["spectrogram_extractor.stft.conv_real.weight"].shape[0]  # n_fft / 2 + 1
    for file in sorted((folder / "model_configs").glob("HTSAT-*.json")):
        config = json.loads(file.read_text(encoding="utf-8"))
        if config["embed_dim"] == width and config["audio_cfg"]["window_size"] // 2 + 1 == bins:
            break
    else:
        raise ValueError(f"the package has no HTSAT of width {width} and {bins} frequencies")
    branch = htsat.create_htsat_model(SimpleNamespace(**config["audio_cfg"]))
    branch.load_state_dict(branch_state, strict=True)
    projection = nn.Sequential(nn.Linear(width, joint), nn.ReLU(), nn.Linear(joint, joint))  # as CLAP.__init__ has it
    projection.load_state_dict(projection_state, strict=True)
    return branch, projection, config["audio_cfg"]


def _package() -> tuple[Path, ModuleType]:
    """Return the folder of `laion_clap.clap_module` and its tower's module, the packages above it not imported.

    Raises:
        ModelError: it, or something that it needs, is not installed.
    """
    found = importlib.util.find_spec("laion_clap")
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"a .pt encoder needs the laion_clap package, which is not installed; {INSTALL}.")
    folder = Path(next(iter(found.submodule_search_locations))) / "clap_module"
    name = "_laion_clap_module"
    if name not in sys.modules:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    try:
        return folder, importlib.import_module(f"{name}.htsat")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another build
        raise ModelError(f"the laion_clap package cannot be used here ({first_line(error)}); {INSTALL}.") from error

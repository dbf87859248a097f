"""One seed for every random generator that a run may touch, and the number of threads that its sums are split over."""

from __future__ import annotations


def prepare(seed: int, threads: int | None = None) -> None:
    """Seed `random`, NumPy and torch, and let torch use deterministic kernels.

    Args:
        seed: any whole number; NumPy's legacy generator takes it modulo 2 ** 32.
        threads: torch's threads; None leaves the default, one per core (or `OMP_NUM_THREADS`).
    """
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    # cuDNN would otherwise pick its fastest kernels by timing them, which differs from run to run.
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if threads is not None:
        torch.set_num_threads(threads)

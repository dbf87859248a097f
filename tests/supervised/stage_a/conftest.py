from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from supervised.config import ModelConfig
from supervised.safe_model import SafeModel


@pytest.fixture
def attach(tiny_base_dir: Path, tiny_encoder_dir: Path) -> Callable[[], SafeModel]:
    def make() -> SafeModel:
        torch.manual_seed(0)
        return SafeModel.attach(ModelConfig(base=str(tiny_base_dir), encoder=str(tiny_encoder_dir)))

    return make

from __future__ import annotations

from typing import Any

import pytest

from supervised.config import ProjectorConfig
from supervised.errors import ModelError
from supervised.projectors.load import new_projector


@pytest.mark.parametrize(("kind", "name"), [("mlp", "hidden"), ("adaptive", "hidden"), ("resampler", "bottleneck")])
def test_layers_far_wider_than_the_base_are_refused(kind: Any, name: str) -> None:
    message = rf"projector\.{name} is 36, but .* a width of 2; use at most 16 times that, 32\."
    with pytest.raises(ModelError, match=message):
        new_projector(ProjectorConfig(kind=kind, **{name: 36}), 6, 2, 1.0)
    new_projector(ProjectorConfig(kind=kind, **{name: 32}), 6, 2, 1.0)

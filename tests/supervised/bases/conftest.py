"""Tiny random models of every family of AutoModelForImageTextToText, and a batch of questions with pictures for each.

A family's own configuration class is asked for its defaults, and everything in them that has a size is made small by
its name; `FAMILIES` says what else has to fit together, and what the family's pictures look like as tensors. Nothing
is downloaded; no processor is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tiny_families import ACCEPTED, CORE, FAMILIES, MIXING, NOT_SMALL, REFUSED, Family
from tiny_models import Setting, make_audio, make_base, make_inputs, make_setting
from torch import Tensor

from supervised.encoders.features import AudioFeatures


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand out families by the name of the argument."""
    if "setting" in metafunc.fixturenames:
        rest = [name for name in ACCEPTED if name not in CORE]
        values = [
            pytest.param((name, dtype), id=f"{name}-{dtype}", marks=() if name in CORE else pytest.mark.slow)
            for name in (*CORE, *rest)
            for dtype in ("float32", "bfloat16")
        ]
        metafunc.parametrize("setting", values, indirect=True, scope="module")
    for argument, names in (("accepted", ACCEPTED), ("refused", REFUSED), ("mixing", MIXING)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, names.values(), ids=names)


@pytest.fixture(scope="module")
def setting(request: pytest.FixtureRequest) -> Iterator[Setting]:
    """A family in a type of numbers; made once for all tests of it."""
    name, dtype = request.param
    made = make_setting(ACCEPTED[name], dtype)
    yield made
    assert not made.model.stack._forward_pre_hooks


@pytest.fixture
def not_small() -> dict[str, str]:
    """Families without a tiny model, and why."""
    return NOT_SMALL


@pytest.fixture
def families() -> list[Family]:
    """All families with a tiny model."""
    return FAMILIES


@pytest.fixture
def make() -> Callable[..., Setting]:
    """Make a setting of one's own."""
    return make_setting


@pytest.fixture
def base_of() -> Callable[[Family], Any]:
    """Make a base alone."""
    return make_base


@pytest.fixture
def questions() -> Callable[..., dict[str, Tensor]]:
    """Write questions for a base."""
    return make_inputs


@pytest.fixture
def sounds() -> Callable[[int, int], AudioFeatures]:
    """Make other audio."""
    return make_audio

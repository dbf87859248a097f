from __future__ import annotations

from types import SimpleNamespace

import pytest

from supervised.base import refuse_encoder


@pytest.mark.parametrize("what", ["Stage A", "An outcome table"])
def test_encoder_decoders_are_refused_where_they_are_not_supported(what: str) -> None:
    base = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=True))
    with pytest.raises(ValueError, match=rf"{what} needs a base with a decoder alone.*through SafeModel"):
        refuse_encoder(base, what)

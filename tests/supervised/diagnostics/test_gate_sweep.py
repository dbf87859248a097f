from __future__ import annotations

import numpy as np

from supervised.diagnostics.gate_sweep import sweep


def test_every_gate_is_compared_with_the_first() -> None:
    retention = np.array([True, True, True, True, False, False])
    scores = [np.array([1.0, 1, 1, 0, 0, 0]), np.array([1.0, 0, 0, 1, 1, 0])]
    result = sweep((0.0, 1.0), scores, retention)
    first, second = result.figures()
    assert first == {"gate": 0.0, "audio_accuracy": 0.0, "retention_score": 0.75, "drop": 0.0, "harm": 0.0}
    # Two of four retention questions were right and are wrong now, one the other way round.
    assert second == {"gate": 1.0, "audio_accuracy": 0.5, "retention_score": 0.5, "drop": 0.25, "harm": 0.5}
    assert result.drop == 0.25

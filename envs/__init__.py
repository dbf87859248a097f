"""The decision problem: state features, latency model, outcome table, reward, and the environments over them.

Importing the package registers `safe_rl/AudioGate-v0` with gymnasium (string entry points: nothing else is imported).
"""

from gymnasium.envs.registration import register

register(
    id="safe_rl/AudioGate-v0",
    entry_point="envs.audio_gate:AudioGateEnv",
    vector_entry_point="envs.vector:AudioGateVectorEnv",
)

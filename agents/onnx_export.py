"""A policy as one ONNX file: raw features go in, one float32 input [n, D] each; probabilities float32 [n, A] come out.

The graph is written from the policy's arrays with its normalisation inside; any ONNX runtime takes it. onnx and
onnxruntime are the optional extra [export].
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.gate_policy import GatePolicy
from envs.normaliser import CLIP
from supervised.errors import ConfigError
from supervised.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Mapping

GATE = "gate.onnx"
OUTPUT = "probabilities"
_NODES = {"tanh": "Tanh", "relu": "Relu"}
OPSET, IR_VERSION = 17, 8  # of 2022: old enough for any runtime in use, and all that the graph needs


def require_onnx() -> None:
    """Refuse to go on where the extra is not installed.

    Raises:
        ConfigError: says how to install it, and how to do without.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"gate.onnx needs onnx and onnxruntime, and {error.name} is not installed; "
            f"run `pip install 'safe-rl-audio[export]'`, or give --distill.onnx false."
        ) from error


def onnx_model(policy: GatePolicy) -> Any:
    """Return a policy as a checked ONNX model.

    Raises:
        ConfigError: the extra [export] is not installed.
    """
    require_onnx()
    from onnx import TensorProto, checker, helper, numpy_helper

    constants: dict[str, np.ndarray] = {
        "mean": np.concatenate([policy.normaliser.mean[name] for name in policy.normaliser.widths]),
        "std": np.concatenate([policy.normaliser.std[name] for name in policy.normaliser.widths]),
        "low": np.array(-CLIP, np.float32),
        "high": np.array(CLIP, np.float32),
    }
    nodes = [
        helper.make_node("Concat", list(policy.normaliser.widths), ["features"], axis=1),  # [n, D]
        helper.make_node("Sub", ["features", "mean"], ["shifted"]),
        helper.make_node("Div", ["shifted", "std"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "low", "high"], ["hidden_0"]),
    ]
    for i, (weight, bias) in enumerate(policy.layers):
        constants |= {f"weight_{i}": weight, f"bias_{i}": bias}
        nodes.append(helper.make_node("Gemm", [f"hidden_{i}", f"weight_{i}", f"bias_{i}"], [f"linear_{i}"], transB=1))
        if i < len(policy.layers) - 1:
            nodes.append(helper.make_node(_NODES[policy.activation], [f"linear_{i}"], [f"hidden_{i + 1}"]))  # [n, H]
    nodes.append(helper.make_node("Softmax", [f"linear_{len(policy.layers) - 1}"], [OUTPUT], axis=1))  # [n, A]
    graph = helper.make_graph(
        nodes,
        "gate",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
            for name, width in policy.normaliser.widths.items()
        ],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", len(policy.actions)])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="safe-rl-audio",
        doc_string="Raw features of n questions to the probability of every action.",
    )
    helper.set_model_props(model, {"actions": json.dumps(list(policy.actions))})
    checker.check_model(model, full_check=True)
    return model


def export_onnx(path: Path | str, policy: GatePolicy) -> None:
    """Write a policy as an ONNX file, whole or not at all.

    Raises:
        ConfigError: the extra [export] is not installed.
    """
    content = onnx_model(policy).SerializeToString()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


class OnnxGate:
    """An exported policy in onnxruntime, on one thread of the CPU.

    Raises:
        ConfigError: the extra [export] is not installed.
    """

    def __init__(self, path: Path | str) -> None:
        require_onnx()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the network is too small to be shared out
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def probabilities(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the probability of every action, float32 [n, A], for raw features, one array [n, D] each."""
        fed = {entry.name: np.asarray(features[entry.name], np.float32) for entry in self.session.get_inputs()}
        return np.asarray(self.session.run([OUTPUT], fed)[0])

"""Layers of an ONNX network in 8-bit whole numbers, and which of them cost most."""

import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_ms.export.onnx_packages import import_onnx_package
from keras_ms.terminal.progress import Progress

# what holds the weights and nearly all of the arithmetic; what lies between stays in float
OPERATIONS = ("Conv", "MatMul", "Gemm")
# whole numbers end where these do, so behind a layer they cost nothing
_BOUNDS = ("Clip", "Relu")
# images by which layers are compared: more change little and take longer
_COMPARED_IMAGES = 8
# that has a scale for each channel of a tensor
_LEAST_OPSET = 13


def with_named_nodes(network: Any) -> Any:
    """A copy in which every node has a name of its own, and every tensor a shape where known."""
    onnx = import_onnx_package("onnx")
    copy = onnx.shape_inference.infer_shapes(network)
    taken: set[str] = set()
    for number, node in enumerate(copy.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}"
        taken.add(node.name)
    return copy


def layers_of(network: Any) -> list[str]:
    """Names of the nodes that can be quantised, from the input to the output."""
    weights = {tensor.name for tensor in network.graph.initializer}
    return [
        node.name
        for node in network.graph.node
        # a product of two activations, as in attention, has no weights
        if node.op_type in OPERATIONS and weights & set(node.input)
    ]


def _without_weights(network):
    layers = set(layers_of(network))
    return [
        node.name
        for node in network.graph.node
        if node.op_type in OPERATIONS and node.name not in layers
    ]


def calibrated(network: Any, images: np.ndarray) -> Any:
    """The least and the greatest value of each tensor on the images, for `quantised`.

    Args:
        network: onnx.ModelProto with the input `image`.
        images: of the type of the input.
    """
    onnx = import_onnx_package("onnx")
    calibrate: Any = import_onnx_package("onnxruntime.quantization.calibrate")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        onnx.save(network, file)
        calibrator = calibrate.create_calibrator(
            str(file), [*OPERATIONS, *_BOUNDS], augmented_model_path=str(Path(folder) / "all.onnx")
        )
        calibrator.collect_data(_Reader(iter(images)))
        return calibrator.compute_data()


class _Reader:
    """Images one by one, as onnxruntime asks for them."""

    def __init__(self, images: Iterator[np.ndarray]) -> None:
        self.images = images

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {"image": image[None]}


def check_int8(network: Any, name: str) -> None:
    """Raises ValueError for a network of an opset that has no scale for each channel.

    Args:
        network: onnx.ModelProto.
        name: of its file.
    """
    opset = next(one.version for one in network.opset_import if one.domain in ("", "ai.onnx"))
    if opset < _LEAST_OPSET:
        raise ValueError(
            f"Expected a file of opset {_LEAST_OPSET} or later for int8 numbers, a scale for each "
            f"channel. Received: {name} of opset {opset}. Export it anew with a later `opset`, or "
            "take float16"
        )


def quantised(network: Any, ranges: Any, in_float: Collection[str] = ()) -> Any:
    """The network with the weights of its layers in int8, a scale for each channel.

    Activations are uint8. All 8 bits are used: with 7, which processors without instructions for
    8-bit networks would need for exact products, the embeddings are several times further away.

    Args:
        network: of `with_named_nodes`.
        ranges: of `calibrated`.
        in_float: names of layers that stay as they are.
    """
    onnx = import_onnx_package("onnx")
    quantization: Any = import_onnx_package("onnxruntime.quantization")
    copy = onnx.ModelProto()
    copy.CopyFrom(network)
    quantizer = quantization.QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=quantization.QuantType.QInt8,
        activation_qType=quantization.QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[*in_float, *_without_weights(network)],
        op_types_to_quantize=[*OPERATIONS, *_BOUNDS],
        extra_options={},
    )
    quantizer.quantize_model()
    return quantizer.model.model


def most_harmful(
    network: Any, in_int8: Any, images: np.ndarray, progress: Progress | None = None
) -> list[str]:
    """The layers, those first whose return to float brings the embeddings nearest to float.

    Args:
        network: of `with_named_nodes`.
        in_int8: of `quantised`, all layers.
        images: of the type of the input.
        progress: told how many layers were compared. Defaults to None: nothing is told.
    """
    images, layers = images[:_COMPARED_IMAGES], layers_of(network)
    exact, nearness = _embeddings(network, images), {}
    for number, name in enumerate(layers, 1):
        embeddings = _embeddings(_with_float_layer(in_int8, network, name), images)
        nearness[name] = float((exact * embeddings).sum())
        if progress is not None:
            progress(number, len(layers))
    return sorted(layers, key=lambda name: -nearness[name])


def _with_float_layer(in_int8, network, name):
    """A copy of the int8 network whose layer takes float values and weights, for comparison."""
    onnx = import_onnx_package("onnx")
    copy = onnx.ModelProto()
    copy.CopyFrom(in_int8)
    producers = _producers(copy)
    (layer,) = (node for node in copy.graph.node if node.name == name)
    (exact,) = (node for node in network.graph.node if node.name == name)
    for position, tensor in enumerate(layer.input):
        again = producers.get(tensor)
        if again is None or again.op_type != "DequantizeLinear":
            continue
        before = producers.get(again.input[0])
        wanted = exact.input[position]
        bound = _producers(network).get(wanted)
        if before is None:  # weights
            layer.input[position] = wanted
            _add_constants(copy, network, [wanted])
        elif bound is None or bound.op_type not in _BOUNDS:
            layer.input[position] = before.input[0]
        else:
            # it is left out in int8, whose whole numbers end there
            there = copy.graph.node.add()
            there.CopyFrom(bound)
            there.name, there.output[0] = f"{name}/bound", f"{name}/bounded"
            there.input[0] = before.input[0]
            layer.input[position] = there.output[0]
            _add_constants(copy, network, there.input[1:])
    return copy


def _producers(network):
    return {name: node for node in network.graph.node for name in node.output}


def _add_constants(copy, network, names):
    """Constants of the network that quantisation may have removed."""
    known = {tensor.name for tensor in copy.graph.initializer} | set(_producers(copy))
    missing = set(names) - known
    for tensor in network.graph.initializer:
        if tensor.name in missing:
            copy.graph.initializer.append(tensor)
    for node in network.graph.node:
        if node.op_type == "Constant" and node.output[0] in missing:
            copy.graph.node.append(node)


def _embeddings(network, images):
    rows = runner_of(network)(images)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def runner_of(network: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a batch to embeddings, both NumPy arrays."""
    onnxruntime = import_onnx_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        network.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(["embedding"], {"image": images})[0]

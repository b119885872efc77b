"""Layers of an ONNX network in 8-bit whole numbers: ranges of their values, and what each costs."""

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_ms.export.onnx_packages import import_onnx_package

# what holds the weights and nearly all of the arithmetic; what lies between stays in float
OPERATIONS = ("Conv", "MatMul", "Gemm")
# whole numbers end where these do, so behind a layer they cost nothing
_BOUNDS = ("Clip", "Relu")
# images by which layers are compared: more change little and take longer
_COMPARED_IMAGES = 16


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


def most_harmful(network: Any, in_int8: Any, images: np.ndarray) -> list[str]:
    """The layers, those first that add most noise of their own.

    Noise is the mean square of the difference to the float network, over the mean square of its
    values, at the output of each layer; what is there already in a layer's inputs is not its own.

    Args:
        network: of `with_named_nodes`.
        in_int8: of `quantised`, all layers.
        images: of the type of the input.
    """
    outputs = _outputs(network)
    producers = {name: node for node in network.graph.node for name in node.output}
    layers = layers_of(network)
    tensors = [outputs[name] for name in layers]
    noise, power = np.zeros(len(tensors)), np.zeros(len(tensors))
    there = {name for node in in_int8.graph.node for name in node.output}
    # what a layer's output is once it was rounded to whole numbers and is float again
    again = [f"{name}_DequantizeLinear_Output" for name in tensors]
    rounded_tensors = [new if new in there else name for new, name in zip(again, tensors)]
    float_values, int8_values = _session(network, tensors), _session(in_int8, rounded_tensors)
    for image in images[:_COMPARED_IMAGES]:
        pairs = zip(float_values(image), int8_values(image))
        for number, (exact, rounded) in enumerate(pairs):
            noise[number] += np.square(exact - rounded, dtype=np.float64).mean()
            power[number] += np.square(exact, dtype=np.float64).mean()
    share = dict(zip(tensors, noise / np.maximum(power, 1e-30)))

    def before(tensor, seen):
        """The largest noise among the layers that a tensor is made from."""
        node = producers.get(tensor)
        if node is None or tensor in seen:
            return 0.0
        seen.add(tensor)
        return max((share.get(name, None) or before(name, seen) for name in node.input), default=0)

    own = {name: share[outputs[name]] - before(outputs[name], set()) for name in layers}
    return sorted(layers, key=lambda name: -own[name])


def _outputs(network):
    """The output of each layer, by its name: behind a bound, where that alone reads it."""
    readers: dict[str, list] = {}
    for node in network.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {}
    for node in network.graph.node:
        (first, *_), found = node.output, readers.get(node.output[0], [])
        bounded = len(found) == 1 and found[0].op_type in _BOUNDS
        outputs[node.name] = found[0].output[0] if bounded else first
    return outputs


def _session(network, tensors):
    """A function from an image to values inside a network."""
    onnx = import_onnx_package("onnx")
    onnxruntime = import_onnx_package("onnxruntime")
    shown = onnx.ModelProto()
    shown.CopyFrom(network)
    del shown.graph.output[:]
    for tensor in tensors:
        shown.graph.output.append(onnx.ValueInfoProto(name=tensor))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # fused, layers would lose their outputs
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda image: session.run(tensors, {"image": image[None]})

"""From a Keras model to ONNX: everything that concerns the converter, tf2onnx.

tf2onnx reads a TensorFlow graph that holds operations and constants only. What Keras traces holds
more, and some operations that tf2onnx passes over; both are put right here, for all layers alike.
"""

import logging
import os
import re
import warnings
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from keras_ms.export.inference_model import InferenceModel
from keras_ms.export.onnx_packages import import_onnx_package


def onnx_model(wrapped: InferenceModel, opset: int) -> Any:
    """The inference mode of a model as ONNX: input `image`, output `embedding`, open sizes named.

    Args:
        wrapped: `InferenceModel`.
        opset: version of ONNX's operator set.

    Returns:
        onnx.ModelProto that onnx's checker passed.

    Raises:
        ImportError: a package of the extra `onnx` is missing.
        ValueError: an operation that ONNX does not have or that tf2onnx cannot write; the layer
            that uses it is named.
    """
    import onnx
    import tensorflow as tf

    spec = tf.TensorSpec((None, *wrapped.input_shape), wrapped.input_dtype, name="image")
    # without autograph, which Keras does not need and which writes files of its own
    function = tf.function(
        lambda image: {"embedding": wrapped(image)}, input_signature=[spec], autograph=False
    )
    faults = []
    try:
        with _quiet_tf2onnx(faults) as tf2onnx:
            traced = function.get_concrete_function()
            graph, image, embedding = _constant_graph(tf2onnx, traced)
            proto, _ = tf2onnx.convert.from_graph_def(
                graph,
                input_names=[image],
                output_names=[embedding],
                tensors_to_rename={image: "image", embedding: "embedding"},
                opset=opset,
                custom_op_handlers=_HANDLERS,
            )
        unknown = list(_unknown_nodes(proto.graph, opset))
        if not unknown:
            _name_dimensions(proto.graph, wrapped)
            onnx.checker.check_model(proto, full_check=True)
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(_refusal(wrapped.model, opset, faults, error)) from error
    if unknown:
        raise ValueError(_refusal(wrapped.model, opset, _with_reasons(unknown, faults)))
    return proto


def _name_dimensions(graph, wrapped):
    """Names the open sizes; the converter calls them unk__27 and the like."""
    open_sizes = {1: "height", 2: "width"} if len(wrapped.input_shape) == 3 else {}
    shapes = {"image": wrapped.input_shape, "embedding": wrapped.output_shape}
    for tensor in (*graph.input, *graph.output):
        dimensions = tensor.type.tensor_type.shape.dim
        dimensions[0].dim_param = "batch"
        for axis, size in enumerate(shapes[tensor.name], 1):
            if size is None:
                dimensions[axis].dim_param = open_sizes[axis]
            else:
                dimensions[axis].dim_value = size


# --- the graph that tf2onnx is given


def _constant_graph(tf2onnx, concrete):
    """A traced function as a GraphDef without variables, captured tensors and compiled calls.

    Returns:
        (graph, name of the input tensor, name of the output tensor).
    """
    names = concrete.inputs[0].name, concrete.outputs[0].name
    captured = {
        inside.op.name: outside.numpy()
        for outside, inside in concrete.graph.captures
        if hasattr(outside, "numpy") and outside.dtype != "resource"  # no variable and no table
    }
    graph = tf2onnx.tf_loader.from_function(concrete, *([name] for name in names))
    for node in graph.node:
        if node.op == "Placeholder" and node.name in captured:
            _make_constant(node, captured[node.name])
    _inline_compiled_calls(graph)
    return graph, *names


def _inline_compiled_calls(graph):
    """Lets TensorFlow put functions that XLA was to compile where they are called.

    Keras has grouped convolutions compiled. TensorFlow keeps such functions as calls, which ONNX
    does not have; without these marks its optimizer puts their operations in the place.
    """
    for function in graph.library.function:
        for nodes in (function, *function.node_def):
            for mark in ("_XlaMustCompile", "_noinline"):
                nodes.attr.pop(mark, None)
    for node in graph.node:
        node.attr.pop("_XlaMustCompile", None)


def _make_constant(node, value):
    import tensorflow as tf

    constant = tf.compat.v1.NodeDef(name=node.name, op="Const")
    constant.attr["dtype"].type = node.attr["dtype"].type
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    node.CopyFrom(constant)


# --- operations that tf2onnx does not know, made of those that ONNX has


def _made_of(formula):
    """A handler that replaces a node of one input x.

    Args:
        formula: function of (make, x, one), where `make(operation, *inputs)` adds a node and
            returns its output, to the operation and the inputs of the last node.
    """

    def handle(ctx, node, name, args):
        (x,), outputs = node.input, node.output
        dtype = _NUMPY_TYPES[ctx.get_dtype(x)]
        shapes, dtypes = node.output_shapes, node.output_dtypes
        ctx.remove_node(name)
        one = ctx.make_const(f"{name}/one", np.ones((), dtype)).output[0]
        operation, *inputs = formula(lambda kind, *of: ctx.make_node(kind, of).output[0], x, one)
        ctx.make_node(operation, inputs, outputs=outputs, name=name, shapes=shapes, dtypes=dtypes)

    return handle, []


_NUMPY_TYPES = {1: np.float32, 10: np.float16, 11: np.float64}  # by the number that ONNX gives them
_HANDLERS = {
    "Erfc": _made_of(lambda make, x, one: ("Sub", one, make("Erf", x))),  # of Keras's GELU
    "Expm1": _made_of(lambda make, x, one: ("Sub", make("Exp", x), one)),  # of CELU
    "Log1p": _made_of(lambda make, x, one: ("Log", make("Add", x, one))),
}


# --- what is said where it fails


class _Fault(NamedTuple):
    """A node that did not become ONNX, and why, as far as the converter said so."""

    operation: str
    node: str
    reason: str = ""


def _unknown_nodes(graph, opset):
    """The nodes that are no operation of this opset, those of loops and branches included."""
    import onnx

    for node in graph.node:
        if not onnx.defs.has(node.op_type, max_inclusive_version=opset, domain=node.domain):
            yield _Fault(node.op_type, node.name)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _unknown_nodes(attribute.g, opset)


def _with_reasons(unknown, faults):
    reasons = {fault.node: fault.reason for fault in faults}
    return [fault._replace(reason=reasons.get(fault.node, "")) for fault in unknown]


# how a layer of Keras may be kept, by the operation that it asks for
_WAYS_OUT = {"ScaleAndTranslate": "Resizing without antialias and 'lanczos' can be written. "}


def _refusal(model, opset, faults, error=None):
    begin = f"The model {model.name!r} cannot be written as ONNX with opset {opset}: "
    if not faults:
        return (
            f"{begin}the converter tf2onnx fails without naming a layer "
            f"({type(error).__name__}: {error}). Export a SavedModel instead."
        )
    users, reasons = {}, {}
    for fault in faults:
        user = _user(model, fault.node)
        users.setdefault(user, set()).add(fault.operation)
        reasons.setdefault(user, fault.reason)
    causes = "; ".join(
        f"{user} uses {', '.join(sorted(operations))}, which "
        + (f"tf2onnx fails to write ({reasons[user]})" if reasons[user] else "ONNX does not have")
        for user, operations in users.items()
    )
    operations = set.union(*users.values())
    ways_out = "".join(words for name, words in _WAYS_OUT.items() if name in operations)
    return f"{begin}{causes}. {ways_out}Replace what is named, or export a SavedModel."


def _user(model, node_name):
    """The innermost layer whose name is part of a node's, in words; else the node."""
    layers = {layer.name: layer for layer in model._flatten_layers(include_self=False)}
    for part in reversed(node_name.split("/")):
        # a scope that is entered again takes a number
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in layers:
                return f"the layer {name!r} ({type(layers[name]).__name__})"
    return f"the node {node_name!r}"


class _Faults(logging.Handler):
    """Collects what tf2onnx logs as errors and does not raise."""

    def __init__(self, faults):
        super().__init__(logging.ERROR)
        self.faults = faults

    def emit(self, record: Any) -> None:
        reason = str(record.exc_info[1]) if record.exc_info else ""
        if record.msg.startswith("Tensorflow op [") and len(record.args) == 2:
            self.faults.append(_Fault(record.args[1], record.args[0]))
        elif record.msg.startswith("Failed to convert node") and record.args:
            self.faults.append(_Fault("an operation", record.args[0], reason))


@contextmanager
def _quiet_tf2onnx(faults):
    """Imports tf2onnx without its warnings and log lines, and undoes what the import changes.

    Args:
        faults: list that takes a `_Fault` for every node that tf2onnx gives up.
    """
    converter, tensorflow = logging.getLogger("tf2onnx"), logging.getLogger("tensorflow")
    levels = converter.level, tensorflow.level
    propagates, tf_level = converter.propagate, os.environ.get("TF_CPP_MIN_LOG_LEVEL")
    handler = _Faults(faults)
    with warnings.catch_warnings():
        # it reads numpy aliases that numpy deprecates
        warnings.simplefilter("ignore")
        try:
            tf2onnx = import_onnx_package("tf2onnx")
            import_onnx_package("tf2onnx.convert")
            converter.addHandler(handler)
            converter.propagate = False
            converter.setLevel(logging.ERROR)
            # TensorFlow calls its functions that freeze graphs old, and tf2onnx calls them
            tensorflow.setLevel(logging.ERROR)
            yield tf2onnx
        finally:
            converter.removeHandler(handler)
            converter.propagate = propagates
            converter.setLevel(levels[0])
            tensorflow.setLevel(levels[1])
            # importing tf2onnx.convert sets this variable for the whole process
            if tf_level is None:
                os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
            else:
                os.environ["TF_CPP_MIN_LOG_LEVEL"] = tf_level

"""Layers that embedders are made of: exported to ONNX with the model's outputs, or refused by name.

`export_onnx` itself compares the written file with the model, in onnxruntime, and raises where
they differ: here it is enough that it returns.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_ms.export import ExportMismatchError, export_onnx

pytest.importorskip("onnx", reason='needs pip install -e ".[onnx]"')
pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

IMAGES, SEQUENCE, VOLUME = (12, 12, 4), (10, 8), (4, 6, 6, 2)
TABLE = ops.convert_to_tensor(np.random.default_rng(5).normal(size=IMAGES).astype("float32"))


class Function(layers.Layer):
    """A layer of one function."""

    def __init__(self, function, name="my_own_layer"):
        super().__init__(name=name)
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


class Compiled(layers.Layer):
    """A layer with a function that XLA compiles."""

    @tf.function(jit_compile=True)
    def compiled(self, inputs):
        return tf.nn.relu(inputs) + 1.0

    def call(self, inputs):
        return self.compiled(inputs)


class Tables(layers.Layer):
    """A layer that holds tensors, in lists and dicts, and is called with a tensor from outside."""

    def __init__(self):
        super().__init__()
        self.tables = {"first": [TABLE + 1.0]}

    def call(self, inputs):
        return inputs * self.tables["first"][0] + TABLE


def embedder(layer, shape=IMAGES):
    """A model with `layer` in it, inputs of about -1 to 1 and an output of four numbers."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    found = layer(layers.Rescaling(1 / 127.5, offset=-1.0)(inputs))
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(found)))


def normalization():
    """Statistics of every pixel and channel, more than TensorFlow writes into a graph itself."""
    layer = layers.Normalization(axis=(1, 2, 3))
    layer.adapt(np.random.default_rng(0).uniform(-1, 1, (8, *IMAGES)).astype("float32"))
    return layer


def attention(layer):
    return lambda x: layer(x, x)


ACTIVATIONS = (
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu "
    "log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus "
    "softsign sparse_plus sparse_sigmoid sparsemax squareplus tanh tanh_shrink"
).split()

LAYERS = {
    "gelu by tanh": (Function, [lambda x: ops.gelu(x, approximate=True)], IMAGES),
    "erfc": (Function, [tf.math.erfc], IMAGES),
    "expm1 and log1p": (Function, [lambda x: ops.log1p(ops.abs(ops.expm1(x)))], IMAGES),
    "glu": (Function, [ops.glu], IMAGES),
    "erf": (Function, [ops.erf], IMAGES),
    "PReLU": (layers.PReLU, [], IMAGES),
    "groups": (lambda: layers.Conv2D(8, 3, groups=2), [], IMAGES),
    "groups, strides": (lambda: layers.Conv2D(8, 3, 2, "same", groups=4), [], IMAGES),
    "groups, dilated": (lambda: layers.Conv2D(8, 3, groups=2, dilation_rate=2), [], IMAGES),
    "groups of a sequence": (lambda: layers.Conv1D(8, 3, groups=2), [], SEQUENCE),
    "Conv1D": (lambda: layers.Conv1D(6, 3, padding="causal", dilation_rate=2), [], SEQUENCE),
    "Conv3D": (lambda: layers.Conv3D(3, 3), [], VOLUME),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, 2, depth_multiplier=2), [], IMAGES),
    "depthwise, dilated": (lambda: layers.DepthwiseConv2D(3, dilation_rate=2), [], IMAGES),
    "separable": (lambda: layers.SeparableConv2D(6, 3), [], IMAGES),
    "transposed": (lambda: layers.Conv2DTranspose(6, 3, 2, "same"), [], IMAGES),
    "adaptive average": (lambda: layers.AdaptiveAveragePooling2D(5), [], IMAGES),
    "adaptive maximum": (lambda: layers.AdaptiveMaxPooling2D(5), [], IMAGES),
    "average": (lambda: layers.AveragePooling2D(3, 2, "same"), [], IMAGES),
    "LayerNormalization": (lambda: layers.LayerNormalization(axis=(1, 2)), [], IMAGES),
    "GroupNormalization": (lambda: layers.GroupNormalization(2), [], IMAGES),
    "RMSNormalization": (layers.RMSNormalization, [], IMAGES),
    "SpectralNormalization": (
        lambda: layers.SpectralNormalization(layers.Conv2D(4, 3)), [], IMAGES,
    ),
    "UnitNormalization": (layers.UnitNormalization, [], IMAGES),
    "Normalization": (normalization, [], IMAGES),
    "held tensors": (Tables, [], IMAGES),
    "compiled": (Compiled, [], IMAGES),
    "attention": (lambda: attention(layers.MultiHeadAttention(2, 4)), [], SEQUENCE),
    "attention, causal": (
        lambda: lambda x: layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True),
        [], SEQUENCE,
    ),
    "attention, no flash": (
        lambda: attention(layers.MultiHeadAttention(2, 4, flash_attention=False)), [], SEQUENCE,
    ),
    "grouped queries": (lambda: attention(layers.GroupQueryAttention(4, 4, 2)), [], SEQUENCE),
    "EinsumDense": (lambda: layers.EinsumDense("abc,cd->abd", (10, 6)), [], SEQUENCE),
    "LSTM": (lambda: layers.Bidirectional(layers.LSTM(5)), [], SEQUENCE),
    "GRU": (lambda: layers.GRU(5), [], SEQUENCE),
    "Resizing": (lambda: layers.Resizing(7, 9, crop_to_aspect_ratio=True), [], IMAGES),
    "enlarged": (lambda: layers.CenterCrop(16, 14), [], IMAGES),
    "random layers": (
        lambda: lambda x: layers.RandomGrayscale()(layers.RandomRotation(0.1)(x)),
        [], (12, 12, 3),
    ),
    "loop": (Function, [lambda x: ops.fori_loop(0, 3, lambda i, y: y * 1.1, x)], IMAGES),
}  # fmt: skip


def test_activations(tmp_path):
    """All in one file, whose every output is compared."""
    inputs = keras.Input(IMAGES)
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    found = [layers.Flatten()(layers.Activation(name)(x)) for name in ACTIVATIONS]
    export_onnx(keras.Model(inputs, layers.Concatenate()(found)), tmp_path / "m.onnx")


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, tmp_path):
    build, arguments, shape = LAYERS[name]
    export_onnx(embedder(build(*arguments), shape), tmp_path / "m.onnx")


@pytest.mark.parametrize("opset", [11, 18])
def test_other_opsets(opset, tmp_path):
    layer = keras.Sequential([layers.Conv2D(8, 3, groups=2), layers.Activation("gelu"), Compiled()])
    export_onnx(embedder(layer), tmp_path / "m.onnx", opset=opset)


def test_a_vision_transformer(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 8, strides=8)(layers.Rescaling(1 / 255)(inputs))
    x = layers.Reshape((16, 16))(x)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 8)(y, y)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(16)(layers.Dense(32, "gelu")(y))
    x = layers.Dense(8)(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, layers.UnitNormalization()(x))
    assert export_onnx(model, tmp_path / "m.onnx") <= 1e-5


@pytest.mark.slow
def test_convnext(tmp_path):
    """A block a stage and few channels: every layer of it, in less than a tenth of the time."""
    from keras.src.applications.convnext import ConvNeXt

    keras.utils.set_random_seed(0)
    model = ConvNeXt(
        [1] * 4, [8, 16, 24, 32], include_top=False, pooling="avg", input_shape=(32, 32, 3)
    )
    export_onnx(model, tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "layer, shape, named",
    [
        (Function(ops.erfinv), IMAGES, r"'my_own_layer' \(Function\) uses Erfinv"),
        (Function(tf.math.lgamma), IMAGES, r"'my_own_layer' \(Function\) uses Lgamma"),
        (layers.Discretization(bin_boundaries=[0.0], name="bins"), SEQUENCE,
         r"'bins' \(Discretization\) uses Bucketize"),
        (layers.MelSpectrogram(name="mel"), (4000,), r"'mel' \(MelSpectrogram\) uses .*RFFT"),
        (layers.Resizing(5, 5, antialias=True, name="small"), IMAGES,
         r"'small' \(Resizing\) uses ScaleAndTranslate.*without antialias"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_layer_at_fault(layer, shape, named, tmp_path):
    # a Resizing that is not at fault stands beside
    innocent = layers.Resizing(12, 12, name="innocent")
    before = keras.Sequential([innocent]) if len(shape) == 3 else layers.Identity()
    with pytest.raises(ValueError, match=f"cannot be written as ONNX.*{named}") as raised:
        export_onnx(embedder(keras.Sequential([before, layer]), shape), tmp_path / "m.onnx")
    assert "innocent" not in str(raised.value)
    assert ("Resizing" in str(raised.value)) == isinstance(layer, layers.Resizing)
    assert not list(tmp_path.iterdir())


def test_a_difference_names_the_layers_known_for_it(tmp_path):
    model = embedder(layers.Resizing(5, 7, interpolation="area", name="shrink"))
    with pytest.raises(ExportMismatchError, match=r"'shrink' \(Resizing with 'area'\)"):
        export_onnx(model, tmp_path / "m.onnx")


def test_the_model_keeps_its_tensors(tmp_path):
    layer = Tables()
    model = embedder(layer)
    export_onnx(model, tmp_path / "m.onnx")
    assert tf.is_tensor(layer.tables["first"][0])
    normal = normalization()
    export_onnx(embedder(normal), tmp_path / "m.onnx")
    assert tf.is_tensor(normal.mean)

"""Small models for the tests of exported files, and how those are run and read."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_ms.export import export_onnx, export_saved_model

onnx = pytest.importorskip("onnx", reason='needs pip install -e ".[onnx]"')
onnxruntime = pytest.importorskip("onnxruntime")

WRITERS = {"saved_model": export_saved_model, "model.onnx": export_onnx}
# of small_embedder, without a Preprocessing
INPUT_ALONE = {
    "height": 16, "width": 16, "dtype": "float32", "values": [0, 255], "colours": "RGB",
    "layout": "NHWC",
}  # fmt: skip


def small_embedder(size=16, input_dtype="float32", batch_size=None, **backbone_call):
    """A nested backbone with two alike branches, and every kind of layer that has a training mode.

    The branches have weights of the same shapes: a copy that swaps them gives other outputs.
    """
    keras.utils.set_random_seed(0)
    features = layers.Input((None, None, 3))
    branches = []
    for _ in range(2):
        branch = layers.Conv2D(4, 3, use_bias=False)(features)
        branches.append(layers.ReLU()(layers.BatchNormalization()(branch)))
    backbone = keras.Model(features, layers.Concatenate()(branches), name="backbone")

    image = layers.Input((size, size, 3), name="image", dtype=input_dtype, batch_size=batch_size)
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.RandomFlip()(layers.CenterCrop(8, 8)(layers.Resizing(12, 12)(x)))
    x = layers.GlobalAveragePooling2D()(backbone(x, **backbone_call))
    x = layers.Dense(5)(layers.Dropout(0.5)(layers.BatchNormalization()(x)))
    model = keras.Model(image, layers.UnitNormalization(dtype="float32")(x))
    # statistics and scales far from 1 and 0, so that training mode gives other outputs
    random = np.random.default_rng(1)
    model.set_weights(
        [random.uniform(0.3, 2.0, w.shape) - 0.5 * (w.ndim > 1) for w in model.get_weights()]
    )
    return model


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution = layers.Conv2D(4, 3, activity_regularizer="l2", dtype=self.dtype_policy)
        self.normalisation = layers.BatchNormalization(dtype=self.dtype_policy)
        self.pooling = layers.GlobalAveragePooling2D(dtype="float32")

    def build(self, input_shape):
        self.convolution.build(input_shape)
        self.normalisation.build((None, None, None, 4))
        self.built = True

    def call(self, images):
        return self.pooling(self.normalisation(self.convolution(images / 255.0)))


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["embedding"], {"image": images})[0]


def facts_of(path):
    """What a file says about itself, with its rule as a dict."""
    if path.is_dir():
        return json.loads((path / "assets.extra/keras_ms.json").read_text())
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    if "preprocessing_rule" in facts:
        facts["preprocessing_rule"] = json.loads(facts["preprocessing_rule"])
    return facts


def files_under(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*"))


def features(weights=3000):
    inputs = layers.Input((10,))
    return keras.Model(inputs, layers.Dense(10)(layers.Dense(weights // 20)(inputs)))


def open_sizes():
    inputs = layers.Input((None, None, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    return keras.Model(inputs, layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3)(x)))

"""Exported files: the model's outputs, in inference mode, whole or not at all."""

import errno
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_ms.export import (
    ExportMismatchError,
    Preprocessing,
    export_onnx,
    export_saved_model,
    parity,
    read_preprocessing,
    verify_export,
)
from keras_ms.export.parity import check_images

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


class TwoArguments(keras.Model):
    def call(self, first, second):
        return first + second


@pytest.fixture
def model():
    return small_embedder()


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


# --- what is written


def test_onnx_names_types_and_metadata(model, tmp_path):
    path = tmp_path / "new folder" / "m.onnx"
    facts = {"training_data": "glyphs, seed 0", "recall_at_1": 0.625, "licence": "none"}
    assert export_onnx(model, path, metadata=facts) <= 1e-6

    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    shapes = {}
    for tensor in (*proto.graph.input, *proto.graph.output):
        assert tensor.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        sizes = tensor.type.tensor_type.shape.dim
        shapes[tensor.name] = [size.dim_param or size.dim_value for size in sizes]
    assert shapes == {"image": ["batch", 16, 16, 3], "embedding": ["batch", 5]}
    assert {o.version for o in proto.opset_import if o.domain == ""} == {17}
    from keras_ms import __version__

    found = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(found.pop("preprocessing_rule")) == INPUT_ALONE
    assert found == {
        "preprocessing": "Images of 16 x 16 pixels (width x height); how to resize is not "
        "recorded. Pass float32 values 0-255, not normalised, of shape (batch, height, width, "
        "channels), NHWC, with 3 channels in the order red, green, blue.",
        "embedding_dimension": "5",
        "training_data": "glyphs, seed 0",
        "recall_at_1": "0.625",
        "keras_ms_version": __version__,
        "licence": "none",
    }


def test_onnx_gives_the_models_outputs(model, tmp_path):
    export_onnx(model, tmp_path / "m.onnx")
    for count in (1, 2, 16):
        images = check_images(count, (16, 16, 3), seed=100 + count)
        expected = np.asarray(model(images, training=False))
        np.testing.assert_allclose(run_onnx(tmp_path / "m.onnx", images), expected, atol=1e-6)
    # Without training=False, Keras's preprocessing layers switch to training mode, so this model
    # is one that model.export gets wrong. (It also moves the statistics, so it comes last.)
    assert np.abs(np.asarray(model(images)) - expected).max() > 1e-2


def test_saved_model_is_the_model_without_keras(model, tmp_path):
    metadata = {"recall_at_1": 0.5}
    assert export_saved_model(model, tmp_path / "sm", metadata=metadata) == 0.0
    images = check_images(4, (16, 16, 3), seed=7)
    np.save(tmp_path / "images.npy", images)
    code = """
import sys
sys.modules["keras"] = sys.modules["keras_ms"] = None  # neither can be imported
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1] + "/sm")
images = tf.constant(np.load(sys.argv[1] + "/images.npy"))
for name in ("serve", "serving_default"):
    signature = loaded.signatures[name]
    (spec,) = signature.structured_input_signature[1].values()
    assert (spec.name, spec.shape[0]) == ("image", None), spec
    np.save(f"{sys.argv[1]}/{name}.npy", signature(image=images)["embedding"].numpy())
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert run.returncode == 0, run.stderr
    expected = np.asarray(model(images, training=False))
    for name in ("serve", "serving_default"):
        # the signature is a graph, and may fuse what the model does layer by layer
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, atol=1e-6)
    card = json.loads((tmp_path / "sm/assets.extra/keras_ms.json").read_text())
    assert card["recall_at_1"] == "0.5" and card["embedding_dimension"] == "5"


# --- which models


def _sequential_called_and_trained():
    model = keras.Sequential(
        [layers.Conv2D(3, 3), layers.BatchNormalization(), layers.GlobalMaxPooling2D()]
    )
    model(np.zeros((2, 8, 8, 3), "float32"))
    model.compile("adam", "mse")
    model.fit(check_images(4, (8, 8, 3), 0) / 255, np.zeros((4, 3)), verbose=0)
    return model


def _subclassed():
    model = Subclassed()
    model(np.zeros((2, 8, 8, 3), "float32"))
    return model


def _features(weights=3000):
    inputs = layers.Input((10,))
    return keras.Model(inputs, layers.Dense(10)(layers.Dense(weights // 20)(inputs)))


def _sequences():
    inputs = layers.Input((6, 4))
    return keras.Model({"s": inputs}, {"e": layers.Bidirectional(layers.LSTM(3))(inputs)})


def _open_sizes():
    inputs = layers.Input((None, None, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    return keras.Model(inputs, layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3)(x)))


def _adapted_normalization():
    normalization = layers.Normalization()
    normalization.adapt(check_images(4, (8, 8, 3), 0))
    inputs = layers.Input((8, 8, 3))
    return keras.Model(inputs, layers.Flatten()(normalization(inputs)))


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
@pytest.mark.parametrize(
    "build",
    [
        _sequential_called_and_trained,
        _subclassed,
        _features,
        _sequences,
        _open_sizes,
        _adapted_normalization,
        lambda: small_embedder(batch_size=4),
    ],
    ids=[
        "sequential",
        "subclassed",
        "features",
        "sequences",
        "open sizes",
        "normalization",
        "fixed batch",
    ],
)
@pytest.mark.parametrize("name", WRITERS)
def test_takes_any_model(build, name, tmp_path):
    model = build()
    difference = WRITERS[name](model, tmp_path / name, image_size=(20, 24))
    found = verify_export(model, tmp_path / name, batch_sizes=(5,), image_size=(24, 20))
    # ONNX: outputs up to some hundred, of which 1e-5; SavedModel: a graph may divide otherwise
    assert max(difference, found) <= (1e-6 if name == "saved_model" else 5e-3)


def test_integer_images_stay_integers(tmp_path):
    model = small_embedder(input_dtype="uint8")
    export_onnx(model, tmp_path / "m.onnx")
    export_saved_model(model, tmp_path / "sm")
    images = check_images(2, (16, 16, 3), seed=0).astype("uint8")
    expected = np.asarray(model(images, training=False))
    np.testing.assert_allclose(run_onnx(tmp_path / "m.onnx", images), expected, atol=1e-6)
    assert verify_export(model, tmp_path / "sm", images=images, batch_sizes=(2,)) == 0


def test_open_sizes_are_named(tmp_path):
    export_onnx(_open_sizes(), tmp_path / "m.onnx")
    sizes = onnx.load(tmp_path / "m.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [s.dim_param or s.dim_value for s in sizes] == ["batch", "height", "width", 3]
    assert "any x any pixels" in facts_of(tmp_path / "m.onnx")["preprocessing"]
    assert read_preprocessing(tmp_path / "m.onnx") == Preprocessing(exif_orientation=None)


@pytest.mark.parametrize("backbone_call", [{}, {"training": False}], ids=str)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_exports_as_float32(policy, backbone_call, tmp_path):
    reference = small_embedder(**backbone_call)
    keras.config.set_dtype_policy(policy)
    try:
        mixed = small_embedder(**backbone_call)
        mixed.set_weights(reference.get_weights())
        export_onnx(mixed, tmp_path / "m.onnx")
        export_saved_model(mixed, tmp_path / "sm")
        assert keras.config.dtype_policy().name == policy
    finally:
        keras.config.set_dtype_policy("float32")
    images = check_images(3, (16, 16, 3), seed=5)
    expected = np.asarray(reference(images, training=False))
    np.testing.assert_allclose(run_onnx(tmp_path / "m.onnx", images), expected, atol=1e-6)
    # the float32 model itself, not only one near the mixed one
    assert verify_export(reference, tmp_path / "sm") == 0
    assert mixed.get_layer("backbone").compute_dtype == policy.removeprefix("mixed_")


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_librarys_own_embedder(policy, tmp_path):
    from keras_ms.models.embedding import build_embedder

    keras.config.set_dtype_policy(policy)
    try:
        embedder = build_embedder(
            "small", image_size=64, embedding_size=32, frozen_batch_norm=True, seed=0
        )
    finally:
        keras.config.set_dtype_policy("float32")
    assert export_saved_model(embedder, tmp_path / "sm") == 0
    assert export_onnx(embedder, tmp_path / "m.onnx") <= 1e-6
    images = check_images(2, (64, 64, 3), seed=0)
    embeddings = run_onnx(tmp_path / "m.onnx", images)
    assert embeddings.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    # float16 arithmetic is this close to the float32 file; other weights would be far off
    np.testing.assert_allclose(embeddings, embedder(images, training=False), atol=2e-2)


def test_mixed_precision_reaches_wrapped_layers(tmp_path):
    inputs = layers.Input((6, 4))
    lstm = layers.LSTM(3, dtype="mixed_bfloat16")
    model = keras.Model(inputs, layers.Bidirectional(lstm, dtype="mixed_bfloat16")(inputs))
    assert export_onnx(model, tmp_path / "m.onnx") <= 1e-6


def test_training_goes_on_after_an_export(model, tmp_path):
    model.compile(keras.optimizers.SGD(0.1), "mse")
    images, targets = check_images(4, (16, 16, 3), 0), np.ones((4, 5))
    model.fit(images, targets, verbose=0)
    before = model.get_weights()
    export_saved_model(model, tmp_path / "sm")
    export_onnx(model, tmp_path / "m.onnx")
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)
    model.fit(images, targets, verbose=0)
    assert any((old != new).any() for old, new in zip(before, model.get_weights()))


def test_nothing_global_changes_and_nothing_is_printed(model, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    monkeypatch.delitem(sys.modules, "tf2onnx.convert", raising=False)
    level = logging.getLogger("tf2onnx").level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(model, tmp_path / "m.onnx")
    export_saved_model(model, tmp_path / "sm")
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "2"
    assert logging.getLogger("tf2onnx").level == level
    assert capfd.readouterr().out == ""


# --- what is refused


def _one_input_two_outputs():
    inputs = layers.Input((3,))
    return keras.Model(inputs, [layers.Dense(2)(inputs), inputs])


def _two_inputs():
    inputs = [layers.Input((3,)), layers.Input((4,))]
    return keras.Model(inputs, layers.Concatenate()(inputs))


def _two_arguments():
    model = TwoArguments()
    model(np.zeros((2, 3)), np.zeros((2, 3)))
    return model


def _one_row_a_batch():
    inputs = layers.Input((3,))
    return keras.Model(inputs, layers.Lambda(lambda x: keras.ops.mean(x, 0, keepdims=True))(inputs))


def _subclassed_in_float16():
    model = Subclassed(dtype="mixed_float16")
    model(np.zeros((2, 8, 8, 3), "float32"))
    return model


def _open_sequence():
    inputs = layers.Input((None, 4))
    return keras.Model(inputs, layers.LSTM(3)(inputs))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: "model.keras", "Expected a keras.Model"),
        (lambda: keras.Sequential([layers.Dense(2)]), "never been called"),
        (Subclassed, "never been called"),
        (_two_inputs, "one input. Received the model .* with 2 inputs"),
        (_two_arguments, "one input, called as"),
        (_one_input_two_outputs, "one output. Received a model with 2"),
        (_one_row_a_batch, r"one output row an image.*\(1, 3\)"),
        (_subclassed_in_float16, "could not be copied in float32"),
        (_open_sequence, "known sizes"),
    ],
)
def test_refuses_models_it_cannot_export(build, message, name, tmp_path):
    with pytest.raises(ValueError, match=message):
        WRITERS[name](build(), tmp_path / name)
    assert files_under(tmp_path) == []


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "options, message",
    [
        ({"tolerance": -1e-5}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"metadata": [("a", 1)]}, "metadata"),
        ({"metadata": {1: "a"}}, "metadata"),
    ],
)
def test_refuses_bad_options(options, message, name, model, tmp_path):
    with pytest.raises(ValueError, match=message):
        WRITERS[name](model, tmp_path / name, **options)


@pytest.mark.parametrize("opset", [9, 19, "17"])
def test_refuses_unsupported_opsets(opset, model, tmp_path):
    with pytest.raises(ValueError, match="opset"):
        export_onnx(model, tmp_path / "m.onnx", opset=opset)


@pytest.mark.parametrize("opset", [11, 13, 15, 18])
def test_writes_other_opsets(opset, model, tmp_path):
    assert export_onnx(model, tmp_path / "m.onnx", opset=opset) <= 1e-6
    (domain,) = [o for o in onnx.load(tmp_path / "m.onnx").opset_import if o.domain == ""]
    assert domain.version == opset


def test_refuses_a_layer_that_onnx_renders_differently(tmp_path):
    inputs = layers.Input((16, 16, 3))
    area = layers.Resizing(9, 9, interpolation="area")(inputs)
    model = keras.Model(inputs, layers.UnitNormalization()(layers.Flatten()(area)))
    with pytest.raises(ExportMismatchError, match=r"largest difference .* is 0\.\d+, allowed"):
        export_onnx(model, tmp_path / "m.onnx")
    assert files_under(tmp_path) == []
    assert 0.01 < export_onnx(model, tmp_path / "m.onnx", tolerance=1.0) < 1.0


def test_refuses_a_layer_that_onnx_lacks(tmp_path):
    inputs = layers.Input((16, 16, 3))
    x = layers.Resizing(9, 9, antialias=True)(inputs)
    with pytest.raises(ValueError, match="cannot be written as ONNX with opset 17"):
        export_onnx(keras.Model(inputs, layers.Flatten()(x)), tmp_path / "m.onnx")
    assert files_under(tmp_path) == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_refused_file_leaves_the_good_one(name, model, tmp_path, monkeypatch):
    WRITERS[name](model, tmp_path / name)
    before = files_under(tmp_path)
    wrong = small_embedder()
    wrong.set_weights([w * 1.01 for w in wrong.get_weights()])

    # the file runs as the good model did: the new model's outputs differ from it
    runner, good = parity._runner, tmp_path / name
    monkeypatch.setattr(parity, "_runner", lambda path: runner(good))
    with pytest.raises(ExportMismatchError, match="the largest difference .* is"):
        WRITERS[name](wrong, tmp_path / name)
    monkeypatch.undo()
    assert files_under(tmp_path) == before
    assert verify_export(model, tmp_path / name) <= 1e-6


@pytest.mark.parametrize("name", WRITERS)
def test_refuses_outputs_that_are_not_finite(name, model, tmp_path):
    model.layers[-2].bias.assign([np.nan, 0, 0, 0, 0])
    with pytest.raises(ExportMismatchError, match="not finite"):
        WRITERS[name](model, tmp_path / name)
    assert files_under(tmp_path) == []


# --- how the file is to be fed


@pytest.mark.parametrize("name", WRITERS)
def test_the_file_says_how_it_is_fed(name, model, tmp_path):
    rule = Preprocessing(16, resize_to=18, before_resizing="cut to a square around the ink.")
    WRITERS[name](model, tmp_path / name, preprocessing=rule)
    facts = facts_of(tmp_path / name)
    assert facts["preprocessing_rule"] == INPUT_ALONE | {
        "exif_orientation": True,
        "grey": "repeated to 3 channels",
        "transparency": "ignored",
        "before_resizing": "cut to a square around the ink.",
        "shorter_side": 18,
        "longer_side": "in proportion, whole pixels, halves to even",
        "filter": "bilinear",
        "antialias": True,
        "pixel_values": "whole",
        "crop": "centre",
        "odd_pixel": "cut off right or below",
    }
    assert facts["preprocessing"] == (
        "Decode the picture to RGB, turned as the EXIF orientation says; grey is repeated to "
        "3 channels, transparency ignored. Before resizing: cut to a square around the ink. "
        "Resize the image to a shorter side of 18 pixels, the longer one in proportion and "
        "rounded to whole pixels (halves to even), bilinear with antialiasing as Pillow's "
        "BILINEAR, values rounded to whole ones. Cut 16 x 16 pixels (width x height) out of the "
        "centre, from the left (width - 16) // 2 and the top (height - 16) // 2 on. Pass float32 "
        "values 0-255, not normalised, of shape (batch, height, width, channels), NHWC, with 3 "
        "channels in the order red, green, blue."
    )
    assert read_preprocessing(tmp_path / name) == rule


@pytest.mark.parametrize("name", WRITERS)
def test_a_rule_takes_what_the_model_says(name, tmp_path):
    WRITERS[name](
        small_embedder(input_dtype="uint8"), tmp_path / name,
        preprocessing=Preprocessing(resize_to=18, exif_orientation=False),
    )  # fmt: skip
    facts = facts_of(tmp_path / name)
    assert facts["preprocessing_rule"]["dtype"] == "uint8"
    assert "as stored, the EXIF orientation ignored" in facts["preprocessing"]
    found = read_preprocessing(tmp_path / name)
    assert found == Preprocessing(16, resize_to=18, exif_orientation=False)
    # a model of any size takes that of the rule
    WRITERS[name](_open_sizes(), tmp_path / name, preprocessing=Preprocessing(24, resize_to=27))
    assert read_preprocessing(tmp_path / name) == Preprocessing(24, resize_to=27)


def _grey():
    inputs = layers.Input((8, 12, 1))
    return keras.Model(inputs, layers.Flatten()(inputs))


@pytest.mark.parametrize("name", WRITERS)
def test_models_that_no_rule_fits(name, model, tmp_path):
    WRITERS[name](_features(), tmp_path / name)
    assert facts_of(tmp_path / name)["preprocessing"] == "float32, 10"
    assert read_preprocessing(tmp_path / name) is None
    WRITERS[name](_grey(), tmp_path / name)
    rule = INPUT_ALONE | {"height": 8, "width": 12, "colours": "grey"}
    facts = facts_of(tmp_path / name)
    assert facts["preprocessing_rule"] == rule
    assert "12 x 8 pixels (width x height)" in facts["preprocessing"]
    unknown = Preprocessing((8, 12), exif_orientation=None)
    assert read_preprocessing(tmp_path / name) == unknown
    # words of the user's own, alone
    words = {"preprocessing": "BGR, mean 104, 117, 124 taken off"}
    WRITERS[name](model, tmp_path / name, metadata=words)
    assert facts_of(tmp_path / name)["preprocessing"] == words["preprocessing"]
    assert read_preprocessing(tmp_path / name) is None


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "build, options, message",
    [
        (small_embedder, {"preprocessing": "squash"}, "as keras_ms.Preprocessing.*'squash'"),
        (small_embedder, {"preprocessing": Preprocessing(32, 36)}, r"\(16, 16\).*image_size=32"),
        (small_embedder, {"preprocessing": Preprocessing(resize_to=15)}, "`resize_to` of at least"),
        (_features, {"preprocessing": Preprocessing(10, 12)}, "a model of RGB images"),
        (_grey, {"preprocessing": Preprocessing(resize_to=12)}, "a model of RGB images"),
        (_open_sizes, {"preprocessing": Preprocessing(resize_to=12)}, "needs an `image_size`"),
        (
            small_embedder,
            {"preprocessing": Preprocessing(16), "metadata": {"preprocessing": "BGR"}},
            "once",
        ),
        (small_embedder, {"metadata": {"preprocessing_rule": {}}}, "once"),
    ],
)
def test_refuses_rules_that_do_not_fit(build, options, message, name, tmp_path):
    with pytest.raises(ValueError, match=message):
        WRITERS[name](build(), tmp_path / name, **options)
    assert files_under(tmp_path) == []


@pytest.mark.parametrize(
    "values, message",
    [
        ({"image_size": 0}, "image_size"),
        ({"image_size": (1, 2, 3)}, r"\(height, width\)"),
        ({"image_size": 16, "resize_to": 15}, "`resize_to` of at least 16"),
        ({"image_size": (16, 20), "resize_to": 18}, "`resize_to` of at least 20"),
        ({"image_size": 16, "resize_to": 17.5}, "whole number"),
        ({"exif_orientation": "yes"}, "True, False or None"),
        ({"before_resizing": None}, "as text"),
    ],
)
def test_rules_that_say_nothing_sensible(values, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**values)


def test_a_rule_of_another_version_is_not_guessed_at(model, tmp_path):
    export_saved_model(model, tmp_path / "sm", preprocessing=Preprocessing(16, 18))
    file = tmp_path / "sm" / "assets.extra/keras_ms.json"
    facts = json.loads(file.read_text())
    for changed in ({"filter": "bicubic"}, {"height": "many"}, {"shorter_side": 3}):
        rule = facts["preprocessing_rule"] | changed
        file.write_text(json.dumps(facts | {"preprocessing_rule": rule}))
        with pytest.raises(ValueError, match="`preprocessing_rule` in sm as this version"):
            read_preprocessing(tmp_path / "sm")
    file.write_text(json.dumps(facts | {"preprocessing_rule": "squash"}))
    with pytest.raises(ValueError, match="Received: 'squash'"):
        read_preprocessing(tmp_path / "sm")
    # files of earlier versions hold none, and those of other programs not even the file
    file.write_text(json.dumps({"preprocessing": "RGB, 0-255, float32, NHWC, 16x16"}))
    assert read_preprocessing(tmp_path / "sm") is None
    file.unlink()
    assert read_preprocessing(tmp_path / "sm") is None
    with pytest.raises(FileNotFoundError, match="No exported model"):
        read_preprocessing(tmp_path / "nothing")
    with pytest.raises(ValueError, match="Expected an ONNX file"):
        read_preprocessing(__file__)


# --- the check itself


def test_comparison_finds_what_only_larger_batches_show(model, tmp_path):
    from keras_ms.export.inference_model import inference_model

    wrapped = inference_model(model)
    right = lambda images: np.asarray(model(images, training=False))  # noqa: E731
    assert parity.compare(wrapped, right).difference == 0
    first_row = lambda images: np.repeat(right(images[:1]), len(images), 0)  # noqa: E731
    reversed_rows = lambda images: right(images)[::-1]  # noqa: E731
    for wrong in (first_row, reversed_rows):
        assert parity.compare(wrapped, wrong, batch_sizes=(1,)).difference == 0
        assert parity.compare(wrapped, wrong).difference > 1e-3
    assert parity.compare(wrapped, lambda images: right(images) * np.nan).difference == np.inf
    with pytest.raises(ExportMismatchError, match="returns shape"):
        parity.compare(wrapped, lambda images: right(images)[:1])
    with pytest.raises(ExportMismatchError, match="fails on 1 images: no kernel"):
        parity.compare(wrapped, _fails)


def _fails(images):
    raise RuntimeError("no kernel")


def test_verify_export_wants_a_file_and_enough_images(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="m.onnx"):
        verify_export(model, tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(ExportMismatchError, match="cannot load"):
        verify_export(model, tmp_path / "m.onnx")
    export_onnx(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="at least 3 images"):
        verify_export(model, tmp_path / "m.onnx", images=check_images(2, (16, 16, 3), 0))


# --- the disk


def test_names_that_are_not_ascii_in_the_c_locale(model, tmp_path):
    model.save(tmp_path / "m.keras")
    words = ["export", str(tmp_path / "m.keras"), "--to", str(tmp_path / "ärger")]
    run = subprocess.run(
        [sys.executable, "-m", "keras_ms.cli", *words], capture_output=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr.decode(errors="replace")
    assert verify_export(model, tmp_path / "ärger" / "embedder.onnx") <= 1e-6
    assert verify_export(model, tmp_path / "ärger" / "saved_model") <= 1e-6


@pytest.mark.parametrize("name", WRITERS)
def test_unwritable_folder(name, model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Cannot write .* Choose a folder"):
        WRITERS[name](model, tmp_path / "file" / name)
    assert files_under(tmp_path) == ["file"]


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_keeps_the_good_file(name, model, tmp_path, monkeypatch):
    WRITERS[name](model, tmp_path / name)
    before = files_under(tmp_path)

    def full(*args, **kwargs):
        if name == "saved_model":  # TensorFlow's writers raise errors of their own
            import tensorflow as tf

            raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr("tensorflow.saved_model.save", full)
    with pytest.raises(OSError, match="disk is full.* needs .* MB .*Free some space") as raised:
        WRITERS[name](model, tmp_path / name)
    assert raised.value.errno == errno.ENOSPC
    assert files_under(tmp_path) == before
    monkeypatch.undo()
    assert verify_export(model, tmp_path / name) <= 1e-6


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip(f"may not mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_really_full_disk(name, model, tiny_disk):
    WRITERS[name](model, tiny_disk / name)
    before = files_under(tiny_disk)
    with pytest.raises(OSError, match="disk is full"):
        WRITERS[name](_features(200_000), tiny_disk / name)
    assert files_under(tiny_disk) == before
    assert verify_export(model, tiny_disk / name) <= 1e-6


def test_saved_model_replaces_only_saved_models(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="something else than a SavedModel"):
        export_saved_model(model, tmp_path)
    assert files_under(tmp_path) == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    export_saved_model(model, tmp_path / "empty")
    export_saved_model(model, tmp_path / "empty")


# --- optional packages


@pytest.mark.parametrize("package", ["onnx", "tf2onnx", "onnxruntime"])
def test_missing_package_names_the_extra(package, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ImportError, match=r'pip install -e "\.\[onnx\]"'):
        export_onnx(model, tmp_path / "m.onnx")
    assert files_under(tmp_path) == []
    export_saved_model(model, tmp_path / "sm")


def test_onnx_loads_only_when_it_is_used():
    code = (
        "import sys, keras_ms.export; "
        "assert not {'onnx', 'tf2onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

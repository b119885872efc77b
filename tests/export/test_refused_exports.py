"""Models, options and files that are refused, with nothing left behind."""

import sys

import keras
import numpy as np
import pytest
from keras import layers
from small_exports import (
    WRITERS,
    Subclassed,
    files_under,
    small_embedder,
)

from keras_ms.export import (
    ExportMismatchError,
    export_onnx,
    export_saved_model,
    parity,
    verify_export,
)
from keras_ms.export.parity import check_images


@pytest.fixture
def model():
    return small_embedder()


class TwoArguments(keras.Model):
    def call(self, first, second):
        return first + second


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
    runner, good = parity.loaded_for_comparison, tmp_path / name
    monkeypatch.setattr(parity, "loaded_for_comparison", lambda path: runner(good))
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


@pytest.mark.parametrize("package", ["onnx", "tf2onnx", "onnxruntime"])
def test_missing_package_names_the_extra(package, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ImportError, match=r'pip install -e "\.\[onnx\]"'):
        export_onnx(model, tmp_path / "m.onnx")
    assert files_under(tmp_path) == []
    export_saved_model(model, tmp_path / "sm")

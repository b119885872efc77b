"""What exported files hold, and that writing them changes nothing else."""

import json
import logging
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from small_exports import INPUT_ALONE, onnx, run_onnx, small_embedder

from keras_ms.export import export_onnx, export_saved_model
from keras_ms.export.fingerprint import model_fingerprint
from keras_ms.export.parity import check_images
from keras_ms.export.runner import load_runner


@pytest.fixture
def model():
    return small_embedder()


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
        "model_fingerprint": model_fingerprint(model),
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


@pytest.mark.parametrize("opset", [11, 13, 15, 18])
def test_writes_other_opsets(opset, model, tmp_path):
    assert export_onnx(model, tmp_path / "m.onnx", opset=opset) <= 1e-6
    (domain,) = [o for o in onnx.load(tmp_path / "m.onnx").opset_import if o.domain == ""]
    assert domain.version == opset


@pytest.mark.slow
def test_onnx_loads_only_when_it_is_used():
    code = (
        "import sys, keras_ms.export; "
        "assert not {'onnx', 'tf2onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_folder_with_brackets_is_no_pattern(model, tmp_path):
    path = tmp_path / "a [x] *?" / "sm"
    assert export_saved_model(model, path) <= 1e-6
    images = check_images(2, (16, 16, 3), seed=3)
    expected = np.asarray(model(images, training=False))
    np.testing.assert_allclose(load_runner(path).run(images), expected, atol=1e-6)

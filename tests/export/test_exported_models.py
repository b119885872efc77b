"""Which models are exported, with the outputs they have in inference mode."""

import keras
import numpy as np
import pytest
from keras import layers
from small_exports import (
    WRITERS,
    Subclassed,
    facts_of,
    features,
    onnx,
    open_sizes,
    run_onnx,
    small_embedder,
)

from keras_ms.export import (
    Preprocessing,
    export_onnx,
    export_saved_model,
    read_preprocessing,
    verify_export,
)
from keras_ms.export.parity import check_images


@pytest.fixture
def model():
    return small_embedder()


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


def _sequences():
    inputs = layers.Input((6, 4))
    return keras.Model({"s": inputs}, {"e": layers.Bidirectional(layers.LSTM(3))(inputs)})


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
        features,
        _sequences,
        open_sizes,
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
    export_onnx(open_sizes(), tmp_path / "m.onnx")
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


@pytest.mark.parametrize(
    "policy", ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
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

"""The head's start at the axes of its features: against NumPy in float64, and in exported files."""

import keras
import numpy as np
import pytest
import small_runs
import tensorflow as tf

from keras_ms import initialize_head
from keras_ms.export.onnx_file import export_onnx
from keras_ms.models.embedding import build_embedder, split_embedder, without_normalization
from keras_ms.models.head_start import STARTS, head_axes, usable_starts, with_squared_norm

small_is_tiny = small_runs.small_is_tiny

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(12), 5)
# classes apart in some directions, images of one class in others
FEATURES = (
    RNG.normal(size=(12, 20))[LABELS] * np.linspace(3, 0.1, 20)
    + RNG.normal(size=(60, 20)) * np.linspace(0.2, 2, 20)
    + 5.0
).astype("float32")


def literal_axes(features, labels, size, start):
    """Kernel and bias as the docstring says, every sum written out; columns up to their sign."""
    rows = [np.asarray(row, "float64") for row in features]
    mean = sum(rows) / len(rows)
    total = sum(np.outer(row - mean, row - mean) for row in rows) / len(rows)
    white = np.eye(len(mean))
    if start == "whitened":
        within = np.zeros_like(total)
        for label in set(labels.tolist()):
            own = [row for row, other in zip(rows, labels) if other == label]
            centre = sum(own) / len(own)
            within += sum(np.outer(row - centre, row - centre) for row in own)
        within /= len(rows)
        shrunk = 0.5 * within + 0.5 * np.trace(within) / len(mean) * np.eye(len(mean))
        variances, axes = np.linalg.eigh(shrunk)
        white = axes @ np.diag(variances**-0.5) @ axes.T
    variances, axes = np.linalg.eigh(white @ total @ white)
    kernel = white @ axes[:, np.argsort(-variances)[:size]]
    kernel *= np.sqrt(size / (kernel**2).sum())
    return kernel, -mean @ kernel


def assert_same_up_to_signs(kernel, bias, expected, expected_bias, tolerance=1e-5):
    signs = np.sign((kernel * expected).sum(axis=0))
    np.testing.assert_allclose(kernel * signs, expected, atol=tolerance)
    np.testing.assert_allclose(bias * signs, expected_bias, atol=10 * tolerance)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("size", [1, 7, 20])
def test_both_starts_are_those_of_the_literal_formula(start, size):
    kernel, bias = head_axes(FEATURES, LABELS, size, start)
    assert kernel.dtype == bias.dtype == np.float32
    assert kernel.shape == (20, size) and bias.shape == (size,)
    assert_same_up_to_signs(kernel, bias, *literal_axes(FEATURES, LABELS, size, start))
    # in the mean the columns have norm 1: the learning rates of the other starts suit
    assert np.mean(np.sum(kernel**2, axis=0)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("start", STARTS)
def test_more_rows_than_are_held_in_float64_at_a_time(start, monkeypatch):
    whole = head_axes(FEATURES, LABELS, 6, start)
    monkeypatch.setattr("keras_ms.models.head_start._PART", 7)
    assert_same_up_to_signs(*head_axes(FEATURES, LABELS, 6, start), *whole)


def test_without_training_pca_ranks_as_the_centred_features_do():
    kernel, bias = head_axes(FEATURES, None, 20, "pca")
    centred = FEATURES - FEATURES.mean(axis=0, dtype="float64")
    embedded = FEATURES @ kernel + bias
    np.testing.assert_allclose(embedded @ embedded.T, centred @ centred.T, atol=2e-3)


def test_the_whitened_start_shrinks_what_differs_within_classes():
    kernel, _ = head_axes(FEATURES, LABELS, 5, "whitened")
    centres = np.stack([FEATURES[LABELS == label].mean(axis=0) for label in range(12)])
    noise = FEATURES - centres[LABELS]

    def ratio(matrix):
        between = (centres - centres.mean(axis=0)) @ matrix
        return np.mean(between**2) / np.mean((noise @ matrix) ** 2)

    assert ratio(kernel) > 1.5 * ratio(head_axes(FEATURES, LABELS, 5, "pca")[0])


@pytest.mark.parametrize("start", STARTS)
def test_the_order_of_images_and_the_names_of_classes_do_not_matter(start):
    order = RNG.permutation(60)
    names = (2**40 - 7 * LABELS)[order][:, None]
    expected = head_axes(FEATURES, LABELS, 6, start)
    assert_same_up_to_signs(*head_axes(FEATURES[order], names, 6, start), *expected)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_the_dtype_of_the_same_values_does_not_matter(start, dtype):
    values = FEATURES.astype("float16").astype("float32")
    expected = head_axes(values, LABELS, 6, start)
    assert_same_up_to_signs(*head_axes(values.astype(dtype), LABELS, 6, start), *expected)


def test_features_far_from_zero_lose_nothing():
    """A float32 sum of squares would hold no more than the offset."""
    far = np.random.default_rng(1).integers(-4, 5, (500, 6)) * [8, 6, 4, 3, 2, 1]
    expected = head_axes(far.astype("float32"), None, 3, "pca")[0]
    kernel, bias = head_axes((far + 2.0**20).astype("float32"), None, 3, "pca")
    assert_same_up_to_signs(kernel, np.zeros(3), expected, np.zeros(3))
    assert np.isfinite(bias).all()


# --- degenerate features -------------------------------------------------------------------------


def test_fewer_images_than_dimensions_give_finite_axes_of_norm_1():
    kernel, bias = head_axes(FEATURES[:4], LABELS[:4], 20, "pca")
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(20), atol=1e-5)
    embedded = FEATURES[:4] @ kernel + bias
    centred = FEATURES[:4] - FEATURES[:4].mean(axis=0)
    np.testing.assert_allclose(embedded @ embedded.T, centred @ centred.T, atol=1e-3)
    whitened = head_axes(FEATURES[:6], LABELS[:6], 20, "whitened")
    assert all(np.isfinite(array).all() for array in whitened)


def test_one_class_and_some_singletons():
    one = head_axes(FEATURES[:5], LABELS[:5], 3, "whitened")
    assert_same_up_to_signs(*one, *literal_axes(FEATURES[:5], LABELS[:5], 3, "whitened"))
    labels = np.array([0, 0, 0, 1, 2, 3])
    mixed = head_axes(FEATURES[:6], labels, 3, "whitened")
    assert_same_up_to_signs(*mixed, *literal_axes(FEATURES[:6], labels, 3, "whitened"))


def test_constant_features_have_a_finite_start():
    kernel, bias = head_axes(np.full((8, 4), 3.0, "float32"), None, 2, "pca")
    assert np.isfinite(kernel).all()
    np.testing.assert_allclose(3.0 * kernel.sum(axis=0) + bias, 0, atol=1e-6)


@pytest.mark.parametrize(
    "features, labels, size, start, message",
    [
        (FEATURES, LABELS, 6, "lda", r"start.*pca.*whitened.*lda"),
        (FEATURES, LABELS, 21, "pca", "as many dimensions.*20.*21.*orthogonal"),
        (np.zeros((3, 8193), "float32"), None, 4, "pca", "8,193 features.*8,192.*orthogonal"),
        (FEATURES[:1], LABELS[:1], 2, "pca", "at least 2 rows.*1 rows"),
        (FEATURES, None, 6, "whitened", "class of each of the 60 images.*none"),
        (FEATURES, LABELS[:9], 6, "whitened", "60 images.*9 labels"),
        (FEATURES, np.arange(60), 6, "whitened", "classes of one image each.*start='pca'"),
        (FEATURES[LABELS * 5], LABELS, 6, "whitened", "classes of equal images.*start='pca'"),
    ],
)
def test_what_has_no_axes_is_refused(features, labels, size, start, message):
    with pytest.raises(ValueError, match=message):
        head_axes(features, labels, size, start)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("start", STARTS)
def test_nan_and_infinity_are_refused(value, start):
    features = FEATURES.copy()
    features[41, 3] = value
    with pytest.raises(ValueError, match="finite"):
        head_axes(features, LABELS, 6, start)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("squared_norm", [0.5, 10.0])
def test_a_head_of_another_norm_ranks_alike(start, squared_norm, monkeypatch):
    monkeypatch.setattr("keras_ms.models.head_start._PART", 7)
    plain = head_axes(FEATURES, LABELS, 6, start)
    kernel, bias = with_squared_norm(*plain, FEATURES, squared_norm)
    assert kernel.dtype == bias.dtype == np.float32
    embeddings = FEATURES.astype(np.float64) @ kernel + bias
    assert np.mean(np.sum(embeddings**2, axis=1)) == pytest.approx(squared_norm, rel=1e-5)
    factor = kernel[0, 0] / plain[0][0, 0]
    assert factor > 0
    np.testing.assert_allclose(kernel, factor * plain[0], rtol=1e-5)
    np.testing.assert_allclose(bias, factor * plain[1], rtol=1e-5)


def test_a_head_of_embeddings_that_are_0_stays():
    head = np.zeros((20, 3), "float32"), np.zeros(3, "float32")
    assert with_squared_norm(*head, FEATURES, 10.0) == head


# --- in the embedder -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 255, (24, 32, 32, 3)).astype("float32")


@pytest.fixture
def embedder():
    return build_embedder("small", image_size=32, embedding_size=6, seed=0)


@pytest.mark.parametrize("start", STARTS)
def test_batches_of_images_features_and_the_head_give_the_same(embedder, images, start):
    labels = np.arange(24) % 4
    features_model, head = split_embedder(embedder)
    features = features_model.predict_on_batch(images)
    initialize_head(head, features, labels, start=start)
    kernel, bias = embedder.get_layer("embedding").get_weights()
    expected = literal_axes(features, labels, 6, start)
    assert_same_up_to_signs(kernel, bias, *expected, tolerance=1e-4)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(10)
    initialize_head(embedder, batches, start=start)
    again = embedder.get_layer("embedding").get_weights()
    assert_same_up_to_signs(*again, kernel, bias, tolerance=1e-4)


def test_a_head_begins_with_the_norm_that_is_asked_for(embedder, images):
    features_model, head = split_embedder(embedder)
    features = features_model.predict_on_batch(images)
    initialize_head(embedder, features, np.arange(24) % 4, start="whitened", squared_norm=10.0)
    embeddings = without_normalization(head).predict_on_batch(features)
    assert np.mean(np.sum(np.square(embeddings), axis=1)) == pytest.approx(10, rel=1e-4)


@pytest.mark.parametrize("squared_norm", [0, -1.0, float("nan"), float("inf")])
def test_a_norm_that_is_none_is_refused(embedder, squared_norm):
    with pytest.raises(ValueError, match="`squared_norm` > 0"):
        initialize_head(embedder, np.zeros((5, 128)), squared_norm=squared_norm)


def test_features_of_another_size_are_refused(embedder):
    for features in (np.zeros((5, 7)), np.zeros(128), np.zeros((2, 4, 128))):
        with pytest.raises(ValueError, match=r"\(N, 128\)"):
            initialize_head(embedder, features)


def test_the_exported_files_compute_the_same(embedder, images, tmp_path):
    initialize_head(embedder, [(images, np.arange(24) % 4)], start="whitened")
    expected = embedder.predict(images, verbose=0)
    features = split_embedder(embedder)[0].predict(images, verbose=0).astype("float64")
    kernel, bias = embedder.get_layer("embedding").get_weights()
    literal = features @ kernel + bias
    literal /= np.linalg.norm(literal, axis=1, keepdims=True)
    np.testing.assert_allclose(expected, literal, atol=1e-5)

    embedder.save(tmp_path / "embedder.keras")
    reloaded = keras.saving.load_model(tmp_path / "embedder.keras", compile=False)
    np.testing.assert_allclose(reloaded.predict(images, verbose=0), expected, atol=1e-6)

    embedder.export(tmp_path / "saved_model", verbose=False)
    reloaded = tf.saved_model.load(tmp_path / "saved_model")
    np.testing.assert_allclose(reloaded.serve(images), expected, atol=1e-5)

    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(embedder, tmp_path / "embedder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "embedder.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("spread, usable", [(0, ("pca",)), (1e-7, ("pca",)), (1e-2, STARTS[::-1])])
def test_starts_that_are_called_usable_can_be_computed(spread, usable):
    # of equal images rounding leaves some difference
    means = RNG.normal(size=(12, 20))[LABELS]
    features = (means + spread * RNG.normal(size=means.shape)).astype("float32")
    found = usable_starts(features, LABELS, 8)
    assert sorted(found) == sorted(usable)
    for start in STARTS:
        if start in found:
            assert np.isfinite(head_axes(features, LABELS, 8, start)[0]).all()
        else:
            with pytest.raises(ValueError, match="differ in their features"):
                head_axes(features, LABELS, 8, start)

"""The embedder: pooling, head, freezing, precision, saving, splitting."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_ms.models.backbones import BACKBONES, Backbone
from keras_ms.models.embedding import build_embedder, split_embedder
from keras_ms.models.normalisation import NORMALISATIONS

SIZE = 32
IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3)).astype("uint8")


def _tiny(input_shape, weights):
    """A network with what matters here: convolution, batch normalisation, dropout."""
    images = keras.Input(input_shape)
    x = keras.layers.Conv2D(8, 3, strides=2, name="convolution")(images)
    x = keras.layers.BatchNormalization(momentum=0.5, name="norm")(x)
    x = keras.layers.Dropout(0.5, name="drop")(keras.layers.ReLU(name="relu")(x))
    return keras.Model(images, x, name="tiny")


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
    normalisation = NORMALISATIONS["minus_one_to_one"]
    monkeypatch.setitem(BACKBONES, "tiny", Backbone(_tiny, normalisation))


def embedder_of(backbone="tiny", **options):
    return build_embedder(backbone, image_size=SIZE, embedding_size=6, seed=0, **options)


def spread(embedder, seed=1):
    """Give batch statistics and biases values that a mistake would show."""
    generator = np.random.default_rng(seed)
    embedder.set_weights(
        [
            weight + generator.uniform(0.05, 0.2, weight.shape).astype(weight.dtype)
            if weight.dtype.kind == "f"
            else weight
            for weight in embedder.get_weights()
        ]
    )
    return embedder


def statistics(embedder):
    norm = embedder.get_layer("backbone").layers[-1].get_layer("norm")
    # a folded one holds the convolution's weights behind its own
    return [
        weight.numpy() for weight in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    ]


def fit(model, inputs, *, steps=3):
    targets = np.random.default_rng(2).normal(size=(len(inputs), 6))
    model.compile(keras.optimizers.SGD(0.5), "mse", run_eagerly=True)
    model.fit(inputs, targets, epochs=steps, verbose=0)


def test_layers_shapes_and_dtypes():
    embedder = embedder_of()
    names = [layer.name for layer in embedder.layers]
    assert names == ["image", "backbone", "pool", "embedding", "l2"]
    assert embedder.input_shape == (None, SIZE, SIZE, 3)
    assert embedder.input.dtype == "float32"
    assert embedder.output_shape == (None, 6)
    assert type(embedder).__module__.startswith("keras.")
    assert embedder.get_layer("embedding").use_bias


def test_embeddings_have_norm_one_for_any_dtype_of_image():
    embedder = spread(embedder_of())
    from_bytes = embedder.predict(IMAGES, verbose=0)
    from_floats = embedder.predict(IMAGES.astype("float32"), verbose=0)
    np.testing.assert_allclose(from_bytes, from_floats, atol=1e-6)
    assert from_bytes.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(from_bytes, axis=1), 1, atol=1e-6)


def test_height_and_width_may_differ():
    embedder = build_embedder("tiny", image_size=(24, 40), embedding_size=3)
    assert embedder.predict(np.zeros((2, 24, 40, 3), "uint8"), verbose=0).shape == (2, 3)


@pytest.mark.parametrize(
    "pooling, pool",
    [
        ("avg", lambda maps: maps.mean(axis=(1, 2))),
        ("max", lambda maps: maps.max(axis=(1, 2))),
        ("avg+max", lambda maps: maps.mean(axis=(1, 2)) + maps.max(axis=(1, 2))),
        ("none", lambda maps: maps.reshape(len(maps), -1)),
    ],
)
def test_whole_head_equals_numpy(pooling, pool):
    embedder = spread(embedder_of(pooling=pooling))
    maps = embedder.get_layer("backbone").predict(IMAGES, verbose=0).astype("float64")
    kernel, bias = (weight.numpy() for weight in embedder.get_layer("embedding").weights)
    expected = pool(maps) @ kernel + bias
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.predict(IMAGES, verbose=0), expected, atol=1e-5)


def test_zero_vector_stays_finite_in_value_and_gradient():
    layer = embedder_of().get_layer("l2")
    zeros = tf.zeros((2, 6))
    with tf.GradientTape() as tape:
        tape.watch(zeros)
        value = layer(zeros)
    assert np.array_equal(value, np.zeros((2, 6)))
    assert np.isfinite(tape.gradient(value, zeros)).all()


def test_calls_without_training_argument_are_inference():
    embedder = spread(embedder_of())
    expected = embedder.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(embedder(IMAGES), expected, atol=1e-6)
    np.testing.assert_allclose(embedder(IMAGES, training=False), expected, atol=1e-6)
    assert np.abs(embedder(IMAGES, training=True) - expected).max() > 1e-3  # dropout, statistics


# Freezing


def test_frozen_batch_norm_trains_gamma_and_beta_only():
    embedder = spread(embedder_of(frozen_batch_norm=True))
    before = statistics(embedder)
    fit(embedder, IMAGES)
    changed = [not np.array_equal(*pair) for pair in zip(before, statistics(embedder))]
    assert changed == [True, True, False, False]


def test_batch_norm_learns_its_statistics_from_scratch():
    embedder = spread(embedder_of())
    before = statistics(embedder)
    fit(embedder, IMAGES)
    assert not any(np.array_equal(*pair) for pair in zip(before, statistics(embedder)))


@pytest.mark.parametrize("frozen_batch_norm", [False, True])
def test_frozen_backbone_is_the_same_in_training_and_afterwards(tmp_path, frozen_batch_norm):
    embedder = spread(embedder_of(freeze_backbone=True, frozen_batch_norm=frozen_batch_norm))
    assert [weight.path for weight in embedder.trainable_weights] == [
        "embedding/kernel",
        "embedding/bias",
    ]
    before = embedder.get_layer("backbone").get_weights()
    expected = embedder.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(embedder(IMAGES, training=True), expected, atol=1e-6)

    embedder.save(tmp_path / "embedder.keras")
    reloaded = keras.models.load_model(tmp_path / "embedder.keras")
    for model in (embedder, reloaded):
        fit(model, IMAGES)
        for old, new in zip(before, model.get_layer("backbone").get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        assert np.abs(model.predict(IMAGES, verbose=0) - expected).max() > 1e-4


# Precision, seeds, initializers


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_still_gives_unit_norm_float32(policy):
    expected = spread(embedder_of()).predict(IMAGES, verbose=0)
    old_policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        embedder = spread(embedder_of(pooling="avg"))
    finally:
        keras.mixed_precision.set_dtype_policy(old_policy)
    embeddings = embedder.predict(IMAGES, verbose=0)
    assert embedder.get_layer("backbone").output.dtype == policy.removeprefix("mixed_")
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(embeddings, expected, atol=0.02)


def test_seed_repeats_the_initial_weights_and_leaves_random_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first, again = embedder_of(), embedder_of()
    assert random.random() == expected
    other = build_embedder("tiny", image_size=SIZE, embedding_size=6, seed=1)
    for one, two in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    kernels = [model.get_layer("embedding").kernel.numpy() for model in (first, other)]
    assert not np.array_equal(*kernels)
    kernels = [
        model.get_layer("backbone").layers[-1].get_layer("convolution").kernel.numpy()
        for model in (first, other)
    ]
    assert not np.array_equal(*kernels)


def test_global_seed_repeats_the_initial_weights():
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        weights.append(build_embedder("tiny", image_size=SIZE).get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_head_initializers():
    def kernel(**options):
        embedder = build_embedder("tiny", image_size=SIZE, embedding_size=2000, seed=0, **options)
        assert not embedder.get_layer("embedding").bias.numpy().any()
        return embedder.get_layer("embedding").kernel.numpy()

    official = kernel(head_initializer="official")
    np.testing.assert_allclose(official.std(), np.sqrt(2 / 2000), rtol=0.05)
    assert np.abs(official).max() > 3 * official.std()  # untruncated
    orthogonal = kernel(head_initializer="orthogonal")
    np.testing.assert_allclose(orthogonal @ orthogonal.T, np.eye(8), atol=1e-5)
    assert not kernel(head_initializer=keras.initializers.Zeros()).any()


# Saving and splitting


def test_saved_embedder_reloads_to_the_same_answers(tmp_path):
    embedder = spread(embedder_of(pooling="avg+max", frozen_batch_norm=True))
    embedder.save(tmp_path / "embedder.keras")
    reloaded = keras.models.load_model(tmp_path / "embedder.keras", safe_mode=True)
    np.testing.assert_allclose(
        reloaded.predict(IMAGES, verbose=0), embedder.predict(IMAGES, verbose=0), atol=1e-6
    )


@pytest.mark.slow
def test_bgr_embedder_reloads_too(tmp_path):
    embedder = embedder_of("bn_inception", output_layer="conv2_3x3_reduce_relu")
    embedder.save(tmp_path / "embedder.keras")
    reloaded = keras.models.load_model(tmp_path / "embedder.keras", safe_mode=True)
    np.testing.assert_allclose(reloaded(IMAGES), embedder(IMAGES), atol=1e-6)
    assert np.abs(embedder(IMAGES[..., ::-1]) - embedder(IMAGES)).max() > 1e-3


def test_split_shares_the_layers(tmp_path):
    embedder = spread(embedder_of(freeze_backbone=True))
    features_model, head_model = split_embedder(embedder)
    features = features_model.predict(IMAGES, verbose=0)
    assert features.shape == (4, 8)
    before = embedder.predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(head_model.predict(features, verbose=0), before)

    fit(head_model, features)
    after = embedder.predict(IMAGES, verbose=0)
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_array_equal(head_model.predict(features, verbose=0), after)
    np.testing.assert_array_equal(features_model.predict(IMAGES, verbose=0), features)

    embedder.save(tmp_path / "embedder.keras")
    reloaded = keras.models.load_model(tmp_path / "embedder.keras")
    np.testing.assert_allclose(reloaded.predict(IMAGES, verbose=0), after, atol=1e-6)


def test_a_reloaded_embedder_splits(tmp_path):
    embedder = spread(embedder_of(pooling="max"))
    embedder.save(tmp_path / "embedder.keras")
    reloaded = keras.models.load_model(tmp_path / "embedder.keras")
    features_model, head_model = split_embedder(reloaded)
    np.testing.assert_allclose(
        head_model.predict(features_model.predict(IMAGES, verbose=0), verbose=0),
        embedder.predict(IMAGES, verbose=0),
        atol=1e-6,
    )


def test_only_embedders_split():
    with pytest.raises(ValueError, match="takes a model of build_embedder.*convolution"):
        split_embedder(_tiny((8, 8, 3), None))


@pytest.mark.parametrize("most, expected", [(2048, 24), (23, 16)])
def test_every_feature_is_a_dimension_up_to_a_number_of_them(most, expected, monkeypatch):
    monkeypatch.setattr("keras_ms.models.embedding._MOST_DIMENSIONS", 16)
    monkeypatch.setattr("keras_ms.models.embedding._MOST_FEATURES", most)
    images = keras.Input((SIZE, SIZE, 3))
    wide = keras.Model(images, keras.layers.Conv2D(24, 1)(images))
    embedders = [build_embedder(wide, embedding_size=size) for size in ("features", None, 40)]
    assert [embedder.output_shape[1] for embedder in embedders] == [expected, 16, 40]


# Errors


@pytest.mark.parametrize(
    "options, message",
    [
        ({"embedding_size": 0}, "`embedding_size` of at least 1, a whole number. Received: 0"),
        ({"embedding_size": 1.5}, "`embedding_size`.*Received: 1.5"),
        ({"embedding_size": "all"}, "`embedding_size`.*Received: 'all'"),
        ({"pooling": "mean"}, "Invalid value for `pooling`.*'avg', 'max', 'avg.max'.*'mean'"),
        ({"image_size": 0}, "image_size must be .* Received: 0"),
        ({"image_size": (32,)}, "image_size must be .*height, width"),
        ({"head_initializer": "orthogonl"}, "Invalid value for `head_initializer`.*orthogonl"),
        ({"backbone": "tinny"}, "Unknown backbone. Nearest: tiny"),
        ({"backbone": "bn_inception", "image_size": 240}, "223–230 and 255–262"),
    ],
)
def test_what_arrived_and_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        build_embedder(**{"backbone": "tiny", "image_size": SIZE, **options})


# Real images


@pytest.mark.slow
def test_features_of_birds_agree_with_the_reference_features(shared_data, shared_weights):
    reference = np.load(shared_data / "cub200_2010_inception_mixed8.npz")
    paths = sorted((shared_data / "cub200_2010").glob("*/*.jpg"))
    assert [int(path.parent.name[:3]) - 1 for path in paths] == reference["labels"].tolist()
    rows = [0, 1, 3000, 6032]
    images = np.stack([np.asarray(Image.open(paths[row]).convert("RGB")) for row in rows])

    embedder = build_embedder(
        "inception_v3",
        weights=shared_weights / "inception_v3_mixed8.weights.h5",
        output_layer="mixed8",
        freeze_backbone=True,
        seed=0,
    )
    features_model, head_model = split_embedder(embedder)
    features = features_model.predict(images, verbose=0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    expected = reference["features"][rows].astype("float32")
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert (features * expected).sum(axis=1).min() > 0.999
    # The figure means something: different birds are further apart than that.
    assert (features[0] * expected[2:]).sum(axis=1).max() < 0.95
    assert embedder.count_params() == 10_674_848 + 1280 * 512 + 512
    assert [tuple(weight.shape) for weight in embedder.trainable_weights] == [(1280, 512), (512,)]


@pytest.mark.filterwarnings("error:The structure of")
def test_what_is_saved_takes_a_batch_as_it_is(tmp_path):
    """Not a list of one batch, of which Keras would warn."""
    from types import SimpleNamespace

    from keras_ms.run.model import save_deployed

    embedder = build_embedder("small", image_size=16, embedding_size=4)
    models = SimpleNamespace(embedder=embedder, strategy=None)
    save_deployed(models, tmp_path / "embedder.keras")
    images = np.zeros((2, 16, 16, 3), np.float32)
    loaded = keras.saving.load_model(tmp_path / "embedder.keras")
    np.testing.assert_array_equal(loaded(images), embedder(images))

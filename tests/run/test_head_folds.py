"""Heads trained for each fold over the training classes, and what they are measured on."""

import math

import keras
import numpy as np
import pytest

from keras_ms import MultiSimilarityLoss, NPairLoss
from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.models.head_start import head_axes
from keras_ms.run.embedder import embedder_of
from keras_ms.run.head_folds import ALPHAS, HeadFolds, class_folds
from keras_ms.run.settings import Settings

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(12), 4)
FEATURES = (
    RNG.normal(size=(12, 10))[LABELS] * np.linspace(2, 0.2, 10)
    + RNG.normal(size=(48, 10)) * np.linspace(0.3, 2, 10)
).astype("float32")
KERNEL = np.linalg.qr(RNG.normal(size=(10, 10)))[0][:, :4].astype("float32")


# --- the folds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes, num_folds", [(3, 0), (4, 2), (8, 2), (9, 3), (10, 3), (12, 3), (100, 3)]
)
def test_folds_hold_every_class_out_once(classes, num_folds):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(classes), 3)) * 7 + 2**40
    folds = class_folds(labels, seed=0)
    assert len(folds) == num_folds
    if not folds:
        return
    assert all(fold.dtype == bool and fold.shape == labels.shape for fold in folds)
    np.testing.assert_array_equal(sum(fold.astype(int) for fold in folds), 1)
    held = [set(labels[fold].tolist()) for fold in folds]
    assert sum(len(classes) for classes in held) == classes  # no class is in two folds
    sizes = [len(classes) for classes in held]
    assert min(sizes) >= 2 and max(sizes) - min(sizes) <= 1


def test_a_class_of_one_image_is_never_held_out():
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8])
    held = np.sum(class_folds(labels, seed=0), axis=0)
    np.testing.assert_array_equal(held, [1] * 8 + [0] * 5)
    assert class_folds(np.array([0, 0, 1, 1, 2, 2, 3, 4, 5]), seed=0) == []


def test_the_seed_decides_the_division():
    same = [np.array(class_folds(LABELS, seed=3)) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert not np.array_equal(same[0], class_folds(LABELS, seed=4))


# --- the heads -----------------------------------------------------------------------------------


def heads(features=FEATURES[None], labels=LABELS, folds=None, **options):
    options = {
        "embedding_size": 4,
        "loss": MultiSimilarityLoss(),
        "normalize": True,
        "optimizer": keras.optimizers.Adam,
        "schedule": keras.optimizers.schedules.CosineDecay(1.0, 6),
        "batches": lambda features, labels: balanced_batches(
            (features, labels), classes_per_batch=4, images_per_class=3, seed=0
        ),
        "steps": 6,
        "starts": ("pca", "whitened"),
        "rates": (1e-3, 2e-2),
        "alphas": (0.0, 0.25, 1.0),
        "random_start": lambda start: KERNEL,
        "ks": (1, 2),
        **options,
    }
    return HeadFolds(features, labels, folds or class_folds(labels, 0), **options)


@pytest.fixture(scope="module")
def shared():
    return heads()


@pytest.fixture(scope="module")
def measured(shared):
    return {training: shared.measure(*training) for training in shared.trainings()}


def test_every_fold_start_and_rate_is_trained_once(shared):
    expected = {(f, s, r) for f in range(3) for s in ("pca", "whitened") for r in (1e-3, 2e-2)}
    assert len(shared.trainings()) == 12 and set(shared.trainings()) == expected


def test_alpha_0_is_the_start_of_the_classes_that_are_not_held_out(shared, measured):
    for (fold, start, _), found in measured.items():
        held = shared.folds[fold]
        kernel, bias = head_axes(FEATURES[~held], LABELS[~held], 4, start)
        expected = recall_at_k(FEATURES[held] @ kernel + bias, LABELS[held], (1, 2))
        assert found[0] == (0.0, dict(expected))


def test_the_grid_is_measured_in_its_order(measured):
    assert all([alpha for alpha, _ in found] == [0.0, 0.25, 1.0] for found in measured.values())
    assert all(set(recall) == {1, 2} for found in measured.values() for _, recall in found)
    assert ALPHAS[0] == 0.0 and ALPHAS[-1] == 1.0 and sorted(set(ALPHAS)) == list(ALPHAS)


def test_trained_weights_and_those_between_are_measured_on_the_held_out_classes(shared):
    fold, start, rate = 1, "pca", 2e-2
    found = shared.measure(fold, start, rate)
    held = shared.folds[fold]
    begin = head_axes(FEATURES[~held], LABELS[~held], 4, start)
    end = shared._layer.get_weights()  # of the training just done
    assert np.abs(end[0] - begin[0]).max() > 0.01
    for alpha, recalls in found:
        kernel, bias = ((1 - alpha) * s + alpha * e for s, e in zip(begin, end))
        expected = recall_at_k(FEATURES[held] @ kernel + bias, LABELS[held], (1, 2))
        assert recalls == pytest.approx(dict(expected))


@pytest.mark.slow
@pytest.mark.release
def test_the_order_of_the_trainings_does_not_matter(shared, measured):
    """No moment of Adam, no step of the schedule and no rate is left from the training before."""
    for training in reversed(shared.trainings()):
        assert shared.measure(*training) == measured[training]
        weights = shared._layer.get_weights()
    fresh = heads()
    assert fresh.measure(*shared.trainings()[0]) == measured[shared.trainings()[0]]
    for value, expected in zip(fresh._layer.get_weights(), weights):
        np.testing.assert_array_equal(value, expected)


def test_a_training_is_that_of_fit_at_its_rate(shared):
    """The rate is a factor of the schedule: the same weights as from an optimizer of that rate."""
    fold, start, rate = 0, "whitened", 2e-2
    shared.measure(fold, start, rate)
    found = shared._layer.get_weights()
    held = ~shared.folds[fold]
    inputs = keras.Input((10,))
    layer = keras.layers.Dense(4)
    model = keras.Model(inputs, keras.layers.UnitNormalization()(layer(inputs)))
    layer.set_weights(head_axes(FEATURES[held], LABELS[held], 4, start))
    schedule = keras.optimizers.schedules.CosineDecay(rate, 6)
    model.compile(keras.optimizers.Adam(schedule), MultiSimilarityLoss(), jit_compile=False)
    batches = balanced_batches(
        (FEATURES[held], LABELS[held]), classes_per_batch=4, images_per_class=3, seed=0
    )
    model.fit(batches, steps_per_epoch=6, shuffle=False, verbose=0)
    for value, expected in zip(found, layer.get_weights()):
        np.testing.assert_allclose(value, expected, atol=1e-5)


def test_the_choice_averages_over_all_images_of_the_folds(shared, measured):
    choice = shared.choice(measured)
    assert choice.by == "3 folds over 12 training classes"
    assert len(choice.candidates) == 2 * 2 * 3
    for candidate in choice.candidates:
        hits = sum(
            dict(measured[fold, candidate.start, candidate.learning_rate])[candidate.alpha][1]
            * held.sum()
            for fold, held in enumerate(shared.folds)
        )
        assert candidate.recall[1] == pytest.approx(hits / 48, abs=1e-12)
        assert candidate.steps == 6
    assert choice.chosen.value == max(candidate.value for candidate in choice.candidates)
    assert choice.chosen.value >= choice.at_start().value


def test_pooled_features_are_searched_within_each_fold(shared):
    expected = sum(
        recall_at_k(FEATURES[held], LABELS[held], (1,))[1] * held.sum() for held in shared.folds
    )
    assert shared.pooled_features()[1] == pytest.approx(expected / 48)


def test_folds_of_unequal_size_count_by_their_images():
    labels = np.repeat(np.arange(4), [2, 2, 3, 9])
    features = RNG.normal(size=(16, 10)).astype("float32")
    folds = [np.isin(labels, [0, 1]), np.isin(labels, [2, 3])]
    found = heads(features[None], labels, folds).pooled_features()[1]
    parts = [recall_at_k(features[held], labels[held], (1,))[1] for held in folds]
    assert found == pytest.approx((4 * parts[0] + 12 * parts[1]) / 16)


# --- other settings ------------------------------------------------------------------------------


def two_class_batches(features, labels):
    return balanced_batches((features, labels), classes_per_batch=4, images_per_class=2, seed=0)


def test_a_loss_of_dot_products_trains_before_the_normalisation():
    one = heads(loss=NPairLoss(), normalize=False, starts=("pca",), rates=(1e-2,),
                batches=two_class_batches)  # fmt: skip
    found = one.measure(0, "pca", 1e-2)
    assert all(math.isfinite(recall[1]) for _, recall in found)
    assert not any("normalization" in layer.name for layer in one._model.layers)
    assert any("normalization" in layer.name for layer in heads()._model.layers)


def test_a_random_start_is_the_kernel_of_the_head_as_it_was_built():
    one = heads(starts=("orthogonal",), rates=(1e-3,))
    found = dict(one.measure(0, "orthogonal", 1e-3))
    held = one.folds[0]
    expected = recall_at_k(FEATURES[held] @ KERNEL, LABELS[held], (1, 2))
    assert found[0.0] == dict(expected)


@pytest.mark.slow
@pytest.mark.release
def test_views_are_trained_on_and_the_plain_one_is_measured():
    views = np.stack([FEATURES, FEATURES + 1.0, FEATURES * np.linspace(1, 4, 10, dtype="float32")])
    seen = []

    def batches(features, labels):
        seen.append(features)
        return balanced_batches(
            (features, labels),
            views=features.ndim == 3,
            classes_per_batch=4,
            images_per_class=3,
            seed=0,
        )

    one = heads(views, batches=batches, starts=("pca",), rates=(1e-3,))
    held = one.folds[0]
    found = one.measure(0, "pca", 1e-3)
    np.testing.assert_array_equal(seen[0], views[:, ~held])
    kernel, bias = head_axes(FEATURES[~held], LABELS[~held], 4, "pca")
    assert found[0][1] == dict(recall_at_k(FEATURES[held] @ kernel + bias, LABELS[held], (1, 2)))
    plain = heads(starts=("pca",), rates=(1e-3,))
    plain.measure(0, "pca", 1e-3)
    assert not np.array_equal(one._layer.get_weights()[0], plain._layer.get_weights()[0])


@pytest.mark.slow
@pytest.mark.release
def test_a_rate_that_diverges_is_nan_and_not_chosen():
    one = heads(starts=("pca",), rates=(1e-3, 1e38), alphas=(0.0, 0.5, 1.0))
    found = {training: one.measure(*training) for training in one.trainings()}
    for fold in range(3):
        values = [recall[1] for _, recall in found[fold, "pca", 1e38]]
        assert math.isfinite(values[0]) and math.isnan(values[-1])
        # and leaves nothing behind for the next
        assert one.measure(fold, "pca", 1e-3) == found[fold, "pca", 1e-3]
    choice = one.choice(found)
    assert math.isfinite(choice.chosen.value)
    last = [c for c in choice.candidates if c.learning_rate == 1e38 and c.alpha == 1.0]
    assert math.isnan(last[0].recall[1]) and last[0].value == -1


@pytest.mark.parametrize("constant", [True, False])
def test_every_schedule_is_multiplied_by_the_rate(constant):
    steps = keras.optimizers.schedules.PiecewiseConstantDecay([2], [1.0, 0.1])
    one = heads(schedule=1.0 if constant else steps, starts=("pca",), rates=(0.5,))
    one.measure(0, "pca", 0.5)
    rate = one._model.optimizer._learning_rate
    values = [float(keras.ops.convert_to_numpy(rate(step))) for step in (0, 5)]
    assert values == pytest.approx([0.5, 0.5] if constant else [0.5, 0.05])


def test_groups_are_held_out_as_a_whole():
    groups = np.array(["Greek", "Latin", "Thai", "Greek"])[LABELS % 4]
    folds = class_folds(LABELS, seed=0, groups=groups)
    np.testing.assert_array_equal(np.sum(folds, axis=0), 1)
    assert len(folds) == 2
    for held in folds:
        assert not set(groups[held]) & set(groups[~held])
    assert class_folds(LABELS, seed=0, groups=np.full(len(LABELS), "Greek")) == []
    # a fold of one class would find it whatever it has learned
    alone = np.where(LABELS == LABELS.max(), "Thai", "Greek")
    assert class_folds(LABELS, seed=0, groups=alone) == []


# --- real features -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.release
def test_what_is_chosen_beats_the_features_on_classes_that_nobody_saw(shared_data):
    """CUB-200 2010, Inception features: 0.511 without a head, 0.62 as measured in docs."""
    with np.load(shared_data / "cub200_2010_inception_mixed8.npz") as arrays:
        features, labels = arrays["features"].astype("float32"), arrays["labels"].astype("int64")
    train = labels < 100
    size, loss = 512, MultiSimilarityLoss()

    def batches(rows, classes):
        return balanced_batches((rows, classes), classes_per_batch=16, images_per_class=5)

    def head_of(folds):
        return HeadFolds(
            features[train][None], labels[train], folds, embedding_size=size, loss=loss,
            normalize=True, optimizer=keras.optimizers.Adam, schedule=1.0, batches=batches,
            steps=40, starts=("pca", "whitened"), rates=(5e-4,), alphas=(0.0, 0.5, 1.0),
            random_start=None, ks=(1,),
        )  # fmt: skip

    found = head_of(class_folds(labels[train], seed=0))
    choice = found.choice({key: found.measure(*key) for key in found.trainings()})
    assert choice.chosen.recall[1] > choice.pooled_features[1] + 0.03
    assert choice.chosen.start == "whitened"
    kernel, bias = head_axes(features[train], labels[train], size, choice.chosen.start)
    frozen = recall_at_k(features[~train], labels[~train], (1,))[1]
    started = recall_at_k(features[~train] @ kernel + bias, labels[~train], (1,))[1]
    assert frozen == pytest.approx(0.511, abs=0.002)
    assert started > frozen + 0.05


def test_of_few_images_every_feature_is_kept():
    def size(num_images, **values):
        values = {"backbone": "mobilenet_v2", "image_size": 32, "freeze_backbone": True} | values
        return embedder_of(Settings.from_values(**values), num_images).output_shape[1]

    assert [size(1279), size(1280)] == [1280, 512]
    assert size(10, embedding_size=64) == 64
    assert size(10, freeze_backbone=False) == 128  # from scratch
    assert size(10, backbone="small") == 128

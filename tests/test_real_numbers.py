"""Settings are finite numbers everywhere: what is none gets the same words, by its name."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_ms
from keras_ms.arguments import real_number
from keras_ms.curriculum.density import check_density_options
from keras_ms.curriculum.label_noise import outlier_rows
from keras_ms.evaluation.class_bootstrap import class_bootstrap
from keras_ms.hdml.networks import check_settings
from keras_ms.hdml.tuples import NPairTuples, TripletTuples
from keras_ms.models.averaged_views import Views
from keras_ms.models.blocks import layer_decay_factors
from keras_ms.models.pooling import GeneralizedMean
from keras_ms.optimizers import WarmUp

LABELS = np.repeat([0, 1, 2, 3], 2)
ROWS = np.eye(8, dtype="float32")
IMAGES = keras_ms.ImageList(
    paths=[str(number) for number in range(8)],
    labels=LABELS,
    class_names=list("abcd"),
    split=["train"] * 8,
    images=np.zeros((8, 6, 6, 1), np.uint8),
)
HDML = {"mode": "official", "alpha": 1.0, "beta": 1.0, "lambda_g": 0.5, "average_steps": 1}
MEAN = keras.losses.MeanSquaredError()


def recall(value):
    return keras_ms.RecallAtK((ROWS, LABELS), ks=(1,), at_start={1: value})


def batches(**given):
    shape = {"classes_per_batch": 2, "images_per_class": 2}
    return keras_ms.balanced_batches(IMAGES, **shape, **given)


def hdml(**given):
    check_settings(**(HDML | given))


two_sided = partial(keras_ms.LiftedStructureLoss, two_sided=True)
# where None means something
NONE_IS_TAKEN = {"epsilon", "cutoff", "weight_decay", (keras_ms.LiftedStructureLoss, "threshold")}
NONE_IS_TAKEN |= {(two_sided, "margin")}

# the argument, what takes it, and a value that it takes
TAKERS = [
    ("threshold", keras_ms.ContrastiveLoss, 0.5),
    ("alpha", keras_ms.MultiSimilarityLoss, 2),
    ("beta", keras_ms.MultiSimilarityLoss, 2),
    ("threshold", keras_ms.MultiSimilarityLoss, 2),
    ("epsilon", keras_ms.MultiSimilarityLoss, 0),
    ("margin", keras_ms.TripletLoss, 0),
    ("margin", keras_ms.CircleLoss, 0),
    ("gamma", keras_ms.CircleLoss, 1),
    ("temperature", keras_ms.SupervisedContrastiveLoss, 1),
    ("scale", keras_ms.ProxyNCALoss, 1),
    ("alpha", keras_ms.ProxyAnchorLoss, 32),
    ("margin", keras_ms.ProxyAnchorLoss, -1),
    ("epsilon", keras_ms.MinedAnchors, 0.5),
    ("angle", keras_ms.AngularLoss, 60),
    ("alpha", keras_ms.BinomialDevianceLoss, 1),
    ("beta", keras_ms.BinomialDevianceLoss, 1),
    ("threshold", keras_ms.BinomialDevianceLoss, 0),
    ("threshold", keras_ms.LiftedStructureLoss, 1),
    ("margin", two_sided, 1),
    ("regularization", keras_ms.NPairLoss, 0),
    ("margin", keras_ms.MarginLoss, 0),
    ("boundary", keras_ms.MarginLoss, 1),
    ("cutoff", keras_ms.MarginLoss, 1),
    ("beta", keras_ms.HierarchicalTripletLoss, 0.5),
    ("factors[1]", lambda **n: keras_ms.CompositeLoss([MEAN, MEAN], [1, *n.values()]), -0.5),
    ("weight_decay", keras_ms.GroupedAdam, 0),
    ("coupled_l2", keras_ms.GroupedAdam, 0.5),
    ("learning_rate_factors[1]", lambda **n: keras_ms.GroupedAdam(0.1, [1, *n.values()]), 0),
    ("schedule", partial(WarmUp, steps=2), 0.5),
    ("regularization", NPairTuples, 0),
    ("margin", TripletTuples, 1),
    ("alpha", hdml, 1),
    ("beta", hdml, 1),
    ("lambda_g", hdml, 1),
    ("rotation", partial(Views, mirror=True), 180),
    ("zoom", partial(Views, mirror=True), 0.5),
    ("p", GeneralizedMean, 3),
    ("decay", lambda decay: layer_decay_factors(keras.Sequential(), decay), 1),
    ("confidence", lambda **n: class_bootstrap(np.ones(8), LABELS, num_resamples=1, **n), 0.5),
    ("distance_quantile", lambda **n: check_density_options("count", max_dimension=None, **n), 0.5),
    ("fraction", lambda **n: outlier_rows(10, 100, **n), 0.5),
    ("at_start[1]", lambda **n: recall(*n.values()), 1),
    ("crop_scale[0]", lambda **n: batches(crop_scale=(*n.values(), 1)), 1),
    ("crop_ratio[1]", lambda **n: batches(crop_ratio=(0.5, *n.values())), 1),
]  # fmt: skip


@pytest.mark.parametrize("name, take, good", TAKERS, ids=[name for name, *_ in TAKERS])
def test_what_is_no_finite_number_is_refused_by_name(name, take, good):
    wrong = ["0.5", True, np.bool_(True), np.nan, np.inf, -np.inf, [0.5], 1j, 10**400]
    wrong += [keras.Variable(0.5), tf.constant(0.5)]
    for value in [*wrong, *([] if NONE_IS_TAKEN & {(take, name), name} else [None])]:
        with pytest.raises(ValueError) as raised:
            take(**{name: value})
        assert f"Expected `{name}`" in str(raised.value)
        assert "finite number" in str(raised.value)
        assert f"Received: {name}={value!r}" in str(raised.value)
    for kind in (float, np.float32, np.float64, np.array):
        take(**{name: kind(good)})
    if float(good).is_integer():
        take(**{name: int(good)})
        take(**{name: np.int8(good) if good < 128 else np.int16(good)})


@pytest.mark.parametrize(
    "bounds, inside, outside",
    [
        ({"least": 0}, (0, 5), (-1e-9,)),
        ({"above": 0}, (1e-9, 5), (0, -1)),
        ({"most": 1}, (-9, 1), (1.1,)),
        ({"least": 0, "below": 1}, (0, 0.9), (1, -0.1)),
        ({"above": 0, "most": 60}, (1, 60), (0, 61)),
    ],
)
def test_bounds_are_kept_and_named(bounds, inside, outside):
    signs = {"least": ">=", "above": ">", "most": "<=", "below": "<"}
    words = " and ".join(f"{signs[bound]} {value}" for bound, value in bounds.items())
    assert [real_number("it", value, **bounds) for value in inside] == list(inside)
    for value in outside:
        with pytest.raises(ValueError, match=f"Expected `it` {words}, a finite number: so. Rec"):
            real_number("it", value, **bounds, reason="so")


def test_what_is_kept_is_a_float():
    for given in (np.array(2, "int8"), np.float16(2), 2):
        assert type(real_number("it", given)) is float


@pytest.mark.parametrize(
    "shard", [2, None, "02", (0.5, 2), (0, 2.5), (2, 2), (-1, 2), (0, 3), (0,)]
)
def test_a_shard_is_two_whole_numbers(shard):
    shape = {"classes_per_batch": 2, "images_per_class": 2, "shard": shard}
    with pytest.raises(ValueError, match="`shard"):
        keras_ms.balanced_batches((ROWS, LABELS), **shape)


def test_a_shard_of_whole_floats_is_taken():
    shape = {"classes_per_batch": 2, "images_per_class": 2, "shard": (0.0, 2.0)}
    assert keras_ms.balanced_batches((ROWS, LABELS), **shape).element_spec[1].shape == (2,)


def test_numbers_of_other_places_are_refused_by_name():
    with pytest.raises(ValueError, match="`seed`.*whole number"):
        keras_ms.build_embedder("small", image_size=32, seed="a")
    with pytest.raises(ValueError, match="`num_resamples`.*whole number"):
        keras_ms.evaluate_embeddings(ROWS, LABELS, num_resamples=1.5)
    embedder = keras_ms.build_embedder("small", image_size=32)
    with pytest.raises(ValueError, match="`freeze_blocks`.*whole number"):
        keras_ms.models.frozen_layers.freeze_blocks(embedder.get_layer("backbone"), "all")
    with pytest.raises(ValueError, match="2 finite numbers, one a loss.*Received: factors=0.5"):
        keras_ms.CompositeLoss([MEAN, MEAN], 0.5)

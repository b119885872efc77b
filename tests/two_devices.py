"""Run as a program by test_replicas.py: TensorFlow's devices are chosen before its first step.

Prints JSON: for each case the largest difference between two logical devices and one. With the
word every-loss, those of 20 steps of `fit` of every loss too, which takes some minutes.
"""

import contextlib
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from backend_values import losses  # noqa: E402

import keras_ms  # noqa: E402

SIZE, CLASSES = 253, 20
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(SIZE, 6)).astype("float32")
# ids that a cast to float32, or to 32 bits, would confuse
LABELS = 2**40 + RNG.integers(CLASSES, size=SIZE)
WEIGHTS = RNG.uniform(0.2, 2.0, size=SIZE).astype("float32")


def made(kind):
    """The loss with its defaults; the hierarchical triplet loss has no default for its tree."""
    if kind is keras_ms.HierarchicalTripletLoss:
        return kind(keras_ms.ClassTree.build(INPUTS, LABELS))
    return kind()


def start():
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, two)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@keras.saving.register_keras_serializable(package="keras_ms_tests")
class MaskSome(keras.layers.Layer):
    """Masks the items whose first feature is below -1, more of them in one part than another."""

    supports_masking = True

    def call(self, inputs):
        return inputs

    def compute_mask(self, inputs, mask=None):
        return inputs[:, 0] > -1.0


def fitted(strategy, optimizer, loss, weights=None, masked=False, batch_size=64, recall=False):
    """How far 20 steps of `fit` move the weights, and the history. Of 64, the last batch of an
    epoch has 61 items."""
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        source = keras.Input((6,))
        hidden = keras.layers.Dense(8, activation="relu")(MaskSome()(source) if masked else source)
        model = keras.Model(source, keras.layers.Dense(4)(hidden))
        model.layers[-1].supports_masking = model.layers[-2].supports_masking = True
        model.compile(optimizer(), loss, metrics=[keras_ms.MinedAnchors()])
        model.optimizer.build(model.trainable_variables)  # else fit traces its step twice
    before = model.get_weights()
    history = model.fit(
        INPUTS, LABELS, sample_weight=weights, batch_size=batch_size, epochs=5,
        shuffle=False, verbose=0,
        callbacks=[keras_ms.RecallAtK((INPUTS, LABELS), ks=(1,))] if recall else [],
    ).history  # fmt: skip
    return [after - start for after, start in zip(model.get_weights(), before)], history


REDUCTIONS = ["sum_over_batch_size", "mean_with_sample_weight", "sum"]
SEVEN = slice(0, 7)


def logged(strategy, loss, masked, proxies):
    """What `fit` and `evaluate` log of 7 items in batches of 4: parts of 2 and 1 at the end."""
    keras.utils.set_random_seed(0)
    labels = np.array([0, 1, 0, 1, 0, 0, 1])
    with strategy.scope() if strategy else contextlib.nullcontext():
        source = keras.Input((6,))
        dense = keras.layers.Dense(4)
        dense.supports_masking = True
        outputs = dense(MaskSome()(source) if masked else source)
        model = keras.Model(source, keras_ms.Proxies(3)(outputs) if proxies else outputs)
        model.compile(keras.optimizers.SGD(0.05), loss)
        model.optimizer.build(model.trainable_variables)
    given = INPUTS[SEVEN], labels
    options = {"batch_size": 4, "verbose": 0, "sample_weight": WEIGHTS[SEVEN]}
    before = model.evaluate(*given, **options)
    loss = model.fit(*given, **options, shuffle=False).history["loss"][0]
    weights = np.concatenate([np.ravel(each) for each in model.get_weights()])
    return before, loss, weights


def compare_logs(strategy, make, masked=False, proxies=False):
    one, two = (logged(where, make(), masked, proxies) for where in (None, strategy))
    return {
        name: float(np.max(np.abs(a - b)) / np.max(np.abs(a)))
        for name, a, b in zip(("evaluate", "loss", "weights"), one, two)
    }


def unknown_label(strategy):
    """The error of a label without a proxy, in the part of the second device."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras_ms.Proxies(3)])
        model.compile("sgd", keras_ms.ProxyAnchorLoss())
    try:
        model.fit(INPUTS[:4], np.array([0, 1, 2, 3]), batch_size=4, verbose=0)
    except tf.errors.InvalidArgumentError as error:
        return str(error)
    return "none"


def compare_fits(strategy, *arguments, **options):
    one, one_history = fitted(None, *arguments, **options)
    two, two_history = fitted(strategy, *arguments, **options)
    return {
        "moved": max(float(np.abs(a).max()) for a in one),
        "weights": max(float(np.abs(a - b).max()) for a, b in zip(one, two)),
        **{
            name: float(np.max(np.abs(np.subtract(values, two_history[name])) / np.abs(values)))
            for name, values in one_history.items()
        },
    }


def compare_gradients(strategy, loss):
    """Of one step on parts of 13 and 10 items: the sum of the replicas' values, and gradients."""
    rows, labels, weights = INPUTS[:23], LABELS[:23] % 5 + 2**40, WEIGHTS[:23]
    parts = [slice(0, 13), slice(13, 23)]

    def step(rows, labels, weights):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            value = loss(labels, rows, weights)
        return value, tape.gradient(value, rows)

    def of_replica(array):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(array[parts[context.replica_id_in_sync_group]])
        )

    values, gradients = strategy.run(
        step, args=(of_replica(rows), of_replica(labels), of_replica(weights))
    )
    value, gradient = step(*map(tf.constant, (rows, labels, weights)))
    together = tf.concat(strategy.experimental_local_results(gradients), axis=0)
    scale = float(tf.reduce_max(tf.abs(gradient)))
    return {
        "value": float(abs(sum(strategy.experimental_local_results(values)) - value) / abs(value)),
        "gradient": float(tf.reduce_max(tf.abs(together - gradient))) / scale,
    }


def main():
    strategy = start()
    results = {
        "gradients": {name: compare_gradients(strategy, made(kind)) for name, kind in losses()}
    }
    # its gradient with respect to the embeddings is a sparse one
    one_pair = keras_ms.NPairLoss(one_pair_per_class=True)
    results["gradients"]["NPairLoss, a pair a class"] = compare_gradients(strategy, one_pair)
    loss = keras_ms.MultiSimilarityLoss

    def sgd():
        return keras.optimizers.SGD(0.1)

    def adam():
        return keras.optimizers.Adam(0.01)

    results["fits"] = {
        "sgd": compare_fits(strategy, sgd, loss(), WEIGHTS, recall=True),
        "adam": compare_fits(strategy, adam, loss()),
        "sum": compare_fits(strategy, sgd, loss(reduction="sum"), WEIGHTS),
        "weighted mean of masked items": compare_fits(
            strategy, sgd, loss(reduction="mean_with_sample_weight"), WEIGHTS, masked=True
        ),
        "hierarchical triplet": compare_fits(
            strategy, sgd, made(keras_ms.HierarchicalTripletLoss), WEIGHTS
        ),
        # the last batch, of one item, leaves nothing for the second device
        "empty part": compare_fits(strategy, sgd, loss(), batch_size=84),
    }
    composite = keras_ms.CompositeLoss
    results["logs"] = {
        **{
            f"{reduction}, masked": compare_logs(
                strategy, lambda reduction=reduction: loss(reduction=reduction), masked=True
            )
            for reduction in REDUCTIONS
        },
        "composite": compare_logs(
            strategy,
            lambda: composite([loss(), keras_ms.HistogramLoss(reduction="sum")], [1.0, 0.5]),
        ),
        "proxy_nca": compare_logs(strategy, keras_ms.ProxyNCALoss, proxies=True),
        "proxy_anchor, weighted mean": compare_logs(
            strategy,
            lambda: keras_ms.ProxyAnchorLoss(reduction="mean_with_sample_weight"),
            proxies=True,
        ),
    }
    results["unknown label"] = unknown_label(strategy)
    if sys.argv[1:] == ["every-loss"]:
        # the largest losses are sums over pairs: at the rate above, a difference of 1e-7 in the
        # initial weights of a single device grows to 1e-2
        results["every loss"] = {
            name: compare_fits(strategy, lambda: keras.optimizers.SGD(0.005), made(kind), WEIGHTS)
            for name, kind in losses()
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()

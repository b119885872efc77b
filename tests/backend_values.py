"""Values and gradients of every public pair loss, and metrics, on the backend of KERAS_BACKEND.

Imported by test_backends.py; run as a program by it, `backend_values.py FILE.npz`, on the others.
"""

import inspect
import sys

import keras
import numpy as np
from keras import ops

import keras_ms
from keras_ms.evaluation import best_positive_ranks, precision_at_r
from keras_ms.losses.pair_loss import PairLoss

SIZE, DIMENSION, CLASSES = 30, 8, 6
RNG = np.random.default_rng(3)
# neighbours in float32, told apart in 32 bits, the integers that every backend has
LABELS = (2**24 + RNG.integers(CLASSES, size=SIZE)).astype("int32")
EMBEDDINGS = (
    RNG.normal(size=(CLASSES, DIMENSION))[LABELS - 2**24] + RNG.normal(size=(SIZE, DIMENSION))
).astype("float32")
WEIGHTS = RNG.uniform(0.2, 2.0, size=SIZE).astype("float32")
# the first 20 items against a memory of the other 10
ANCHORS = 20


def losses():
    """Names and classes of the public pair losses that have defaults for all settings."""
    for name, kind in sorted(vars(keras_ms).items(), key=lambda item: item[0]):
        if inspect.isclass(kind) and issubclass(kind, PairLoss):
            parameters = inspect.signature(kind).parameters.values()
            if all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in parameters):
                yield name, kind


def as_this_backend_trains(function, embeddings):
    """The value and the gradient of a function of embeddings; JAX compiles it."""
    if keras.backend.backend() == "jax":
        import jax

        value, gradient = jax.jit(jax.value_and_grad(function))(embeddings)
    elif keras.backend.backend() == "torch":
        import torch

        leaf = torch.tensor(embeddings, requires_grad=True)
        value = function(leaf)
        value.backward()
        value, gradient = value.detach(), leaf.grad
    else:
        import tensorflow as tf

        leaf = tf.constant(embeddings)
        with tf.GradientTape() as tape:
            tape.watch(leaf)
            value = function(leaf)
        gradient = tape.gradient(value, leaf)
    return ops.convert_to_numpy(value), ops.convert_to_numpy(gradient)


def values():
    """dict from "loss, path, value" and "loss, path, gradient" to arrays."""
    found = {}

    def add(name, function, embeddings=EMBEDDINGS):
        found[f"{name}, value"], found[f"{name}, gradient"] = as_this_backend_trains(
            function, embeddings
        )

    for name, kind in losses():
        # its tree has no default
        needs_tree = kind is keras_ms.HierarchicalTripletLoss
        given = {"tree": keras_ms.ClassTree.build(EMBEDDINGS, LABELS)} if needs_tree else {}
        loss = kind(**given)
        add(f"{name}, dense", lambda rows, loss=loss: loss(LABELS, rows, WEIGHTS))
        if loss.whole_batch:
            continue
        in_blocks = kind(block_size=7, **given)
        add(f"{name}, blocks", lambda rows, loss=in_blocks: loss(LABELS, rows, WEIGHTS))

        def against_memory(rows, loss=loss):
            keys = loss.label_keys(LABELS[:ANCHORS], rows)
            memory = loss.label_keys(LABELS[ANCHORS:], EMBEDDINGS[ANCHORS:]), EMBEDDINGS[ANCHORS:]
            return ops.sum(loss.per_anchor(keys, rows, memory))

        add(f"{name}, memory", against_memory, EMBEDDINGS[:ANCHORS])
    for kind in (keras_ms.ProxyNCALoss, keras_ms.ProxyAnchorLoss):
        proxies = keras_ms.Proxies(CLASSES)
        proxies.build((None, DIMENSION))
        proxies.set_weights([EMBEDDINGS[:CLASSES]])
        add(
            f"{kind.__name__}, dense",
            lambda rows, loss=kind(), proxies=proxies: loss(LABELS - 2**24, proxies(rows), WEIGHTS),
        )
    rows = ops.convert_to_tensor(EMBEDDINGS)
    found["best_positive_ranks"] = best_positive_ranks(rows, LABELS)
    found["precision_at_r"] = np.stack(precision_at_r(rows, LABELS))
    found["fit, weights"] = fitted()
    found["fit of masked items, weights"] = fitted(masked=True)
    found["fit, averaged weights"], found["fit, recall"] = fine_tuned()
    return found


def fine_tuned():
    """The averaged weights after 20 steps with all that GroupedAdam has, and what they reach."""
    layers = [keras.layers.Dense(6, use_bias=True), keras.layers.Dense(4, use_bias=False)]
    model = keras.Sequential([keras.Input((DIMENSION,)), *layers])
    random = np.random.default_rng(5)
    model.set_weights([random.normal(size=w.shape) for w in model.weights])
    optimizer = keras_ms.GroupedAdam(
        keras_ms.WarmUp(keras.optimizers.schedules.CosineDecay(0.05, 20), 5),
        [0.5, 0.5, 1.0],
        weight_decay=0.1,
        decayed=keras_ms.decayed_kernels(model.trainable_variables),
        global_clipnorm=0.5,
        use_ema=True,
        ema_momentum=0.8,
    )
    model.compile(optimizer, keras_ms.MultiSimilarityLoss())
    recall = keras_ms.RecallAtK((EMBEDDINGS, LABELS), ks=(1,))
    model.fit(
        EMBEDDINGS, LABELS, batch_size=SIZE, epochs=20, shuffle=False, verbose=0,
        callbacks=[keras_ms.WithAveragedWeights([recall])],
    )  # fmt: skip
    weights = np.concatenate([w.reshape(-1) for w in model.get_weights()])
    return weights, np.array([recalls[1] for _, recalls in recall.history])


def fitted(distribution=None, masked=False):
    """The weights after 20 steps of `fit`; of items of which some are masked, if wanted."""
    if distribution is not None:
        keras.distribution.set_distribution(distribution)
    model = keras.Sequential([keras.Input((DIMENSION,)), keras.layers.Dense(4, use_bias=False)])
    inputs = EMBEDDINGS
    if masked:
        # without their mask they would be items of a class, and of the mean
        inputs = np.where(np.arange(SIZE)[:, None] % 3 == 0, np.float32(0), EMBEDDINGS)
        dense = model.layers[-1]
        dense.supports_masking = True
        model = keras.Sequential([keras.Input((DIMENSION,)), keras.layers.Masking(0.0), dense])
    model.set_weights([np.random.default_rng(4).normal(size=(DIMENSION, 4))])
    model.compile(keras.optimizers.Adam(0.01), keras_ms.MultiSimilarityLoss())
    model.fit(
        inputs, LABELS, sample_weight=WEIGHTS, batch_size=SIZE, epochs=20, shuffle=False,
        verbose=0,
    )  # fmt: skip
    return model.get_weights()[0]


def main(file):
    found = values()
    if keras.backend.backend() == "jax":
        devices = keras.distribution.list_devices()
        found["devices"] = len(devices)
        everywhere = keras.distribution.DataParallel(devices=devices)
        found["fit on all devices, weights"] = fitted(everywhere)
    np.savez(file, **found)


if __name__ == "__main__":
    main(sys.argv[1])

# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A loss of your own
#
# A loss on pairs answers two questions: **which pairs** of a batch count, and **how much** does
# each. In this notebook you write both answers yourself, check them, train with them, and look at
# what your loss does to every pair.
#
# Nothing is downloaded: the pictures are characters drawn from fonts.
#
# ```
# pip install -e ".[notebooks]"
# ```

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from keras import layers, ops

import keras_ms
from keras_ms.mining import mine_multi_similarity

# %% [markdown]
# ## The pictures
#
# Test classes are whole scripts that training never sees.

# %%
glyphs = keras_ms.draw_glyphs(image_size=32, images_per_class=12)
train, test = glyphs.subset("train"), glyphs.subset("test")
print(glyphs)

# %% [markdown]
# ## A loss is a weighting of pairs
#
# Let S be the cosine similarities of the images of a batch. A loss L on pairs trains the network
# only through its derivatives ∂L/∂S, one number for each pair: above 0 the pair is pushed apart,
# below 0 it is pulled together. Two losses with the same derivatives train the same network. This
# view is called General Pair Weighting (Wang et al., CVPR 2019).
#
# So instead of a loss you may write its weights. Ours, in one sentence: *a pair counts as much as
# it is wrong*. Two images of a class should be at least 0.9 similar, two of different classes at
# most 0.4; the further off, the larger the weight.


# %%
@keras.saving.register_keras_serializable(package="notebook")
def weigh_by_error(pairs, least=0.9, most=0.4):
    too_far = ops.relu(least - pairs.similarity)
    too_near = ops.relu(pairs.similarity - most)
    pushed = ops.where(pairs.negative, 2 * too_near, 0.0)
    return ops.where(pairs.positive, -2 * too_far, pushed)


# %% [markdown]
# `pairs.similarity`, `pairs.positive` and `pairs.negative` are matrices: a row for each image,
# the *anchor*, and a column for each image that it is compared with.
#
# `WeightedPairLoss` makes a Keras loss of it. The decorator above lets Keras save it with a
# model.

# %%
own = keras_ms.WeightedPairLoss(weigh_by_error)

# %% [markdown]
# The other question, which pairs, is answered by a *miner*, a second argument. `own` takes all
# pairs; this takes those that the Multi-Similarity loss looks at. Try it below in the place of
# `own`.

# %%
mined = keras_ms.WeightedPairLoss(weigh_by_error, mine_multi_similarity)

# %% [markdown]
# ## Check it
#
# These weights are the derivatives of a loss that can be written down: the squares of the errors,
# Σ max(0, 0.9 − S)² + Σ max(0, S − 0.4)². Let TensorFlow differentiate that, and compare. Twenty
# random vectors of five classes will do.

# %%
random = np.random.default_rng(0)
labels = np.arange(20) // 4
vectors = random.normal(size=(20, 8)) + 1.5 * np.eye(8)[labels]
found = keras_ms.pair_weights(own, vectors, labels)

similarity = tf.Variable(found.similarity)
with tf.GradientTape() as tape:
    too_far = tf.nn.relu(0.9 - similarity[found.positive])
    too_near = tf.nn.relu(similarity[found.negative] - 0.4)
    by_hand = (tf.reduce_sum(too_far**2) + tf.reduce_sum(too_near**2)) / len(labels)
derivative = tf.convert_to_tensor(tape.gradient(by_hand, similarity)).numpy()

difference = np.abs(derivative - found.weights).max()
print(f"largest weight {np.abs(found.weights).max():.4f}, largest difference {difference:.1e}")
assert difference < 1e-6

# %% [markdown]
# The same must come out one level deeper, at the embeddings, which is where a network is trained:


# %%
def gradient(loss_of, rows):
    rows = tf.Variable(rows, dtype=tf.float32)
    with tf.GradientTape() as tape:
        value = loss_of(rows)
    return tape.gradient(value, rows).numpy()


def squared_errors(rows):
    rows = tf.math.l2_normalize(rows, axis=1)
    all_pairs = tf.matmul(rows, rows, transpose_b=True)
    too_far = tf.nn.relu(0.9 - all_pairs[found.positive])
    too_near = tf.nn.relu(all_pairs[found.negative] - 0.4)
    return (tf.reduce_sum(too_far**2) + tf.reduce_sum(too_near**2)) / len(labels)


ours = gradient(lambda rows: own(labels, rows), vectors)
theirs = gradient(squared_errors, vectors)
print(f"largest difference of a gradient: {np.abs(ours - theirs).max():.1e}")
assert np.abs(ours - theirs).max() < 1e-5

# %% [markdown]
# You need no such formula: weights may depend on anything, also where no loss with these
# derivatives is known. Where there is one, this check finds a wrong sign at once.
#
# ## Train with it, beside Multi-Similarity
#
# The value of a `WeightedPairLoss` is Σ weight · S. It has the right gradient and says nothing
# about progress, so we watch Recall@1 instead: the share of test images whose nearest other image
# shows the same character.


# %%
def build_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(64, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(128, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(64),
        ]
    )


def trained(loss):
    model = build_model()
    model.compile(keras.optimizers.Adam(2e-3), loss=loss)
    recall = keras_ms.RecallAtK((test.images, test.labels), ks=(1,))
    # 32 classes with 4 images of each in every batch
    batches = keras_ms.balanced_batches(
        train, classes_per_batch=32, images_per_class=4, crop_scale=None, flip=False
    )
    model.fit(
        batches,
        steps_per_epoch=50,
        epochs=8,
        callbacks=[recall],
        shuffle=False,  # the batches are drawn at random already
        verbose=0,
    )
    return model, [values[1] for _, values in recall.history]


# %%
losses = {"own": own, "Multi-Similarity": keras_ms.MultiSimilarityLoss()}
results = {name: trained(loss) for name, loss in losses.items()}
for name, (_, recalls) in results.items():
    print(f"{name}: Recall@1 {recalls[0]:.3f} before, {recalls[-1]:.3f} after training")

# %%
for name, (_, recalls) in results.items():
    plt.plot(50 * np.arange(len(recalls)), recalls, marker="o", label=name)
plt.xlabel("training steps")
plt.ylabel("Recall@1 on unseen scripts")
plt.grid(alpha=0.3)
plt.legend()
plt.show()

# %% [markdown]
# One seed on one data set does not tell which loss is better. A few seeds and a set of your own
# do.
#
# ## What each loss does to the pairs
#
# One batch of test images, embedded by the network that was trained with Multi-Similarity, and
# the weight that each loss gives every pair. Ours looks at a pair alone: its weights lie on two
# lines, and the largest are those of positive pairs far apart. Multi-Similarity also looks at the
# other pairs of the anchor: its weights are a cloud, and the largest are those of the most
# similar negative pairs.

# %%
batches = keras_ms.balanced_batches(
    test, classes_per_batch=16, images_per_class=5, crop_scale=None, flip=False
)
images, labels = next(iter(batches))
rows = results["Multi-Similarity"][0].predict(images, verbose=0)

figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), sharex=True, layout="constrained")
for axes, (name, loss) in zip(panels, losses.items()):
    seen = keras_ms.pair_weights(loss, rows, labels)
    same = labels.numpy()[:, None] == labels.numpy()[None, :]
    other = ~np.eye(len(same), dtype=bool)
    for mask, colour, kind in (
        (~same, "tab:orange", "different classes, pushed apart"),
        (same & other, "tab:blue", "same class, pulled together"),
    ):
        axes.scatter(
            seen.similarity[mask], np.abs(seen.weights[mask]), s=5, color=colour, label=kind
        )
    share = np.count_nonzero(seen.weights[other]) / np.count_nonzero(other)
    axes.set(title=f"{name}: {share:.0%} of the pairs have a weight", xlabel="similarity")
panels[0].set_ylabel("|weight|")
panels[0].legend()
plt.show()

# %% [markdown]
# ## What they find
#
# Test characters, drawn at random, with the nearest others.

# %%
keras_ms.draw_neighbours(
    test,
    {name: model.predict(test.images, verbose=0) for name, (model, _) in results.items()},
)

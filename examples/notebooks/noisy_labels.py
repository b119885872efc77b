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
# # Noisy labels
#
# Pictures that were found by their names on the web come with many wrong labels. Nobody has time
# to look at all of them. This notebook finds out
#
# 1. what wrong labels do to an embedder,
# 2. how many of them can be found without knowing which they are,
# 3. what a training gains that leaves them out, or takes them last.
#
# The pictures are characters drawn from fonts, and a share of the labels is made wrong on
# purpose: only so can we count afterwards. Nothing is downloaded.
#
# ```
# pip install -e ".[notebooks]"
# ```

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers

import keras_ms

# %% [markdown]
# ## The crawl
#
# 100 characters with 60 images of each train. 130 characters of other scripts test, with right
# labels.

# %%
glyphs = keras_ms.draw_glyphs(image_size=32, images_per_class=60)
train, test = glyphs.subset("train"), glyphs.subset("test")

random = np.random.default_rng(0)
characters = random.choice(np.unique(train.labels), 100, replace=False)
rows = np.flatnonzero(np.isin(train.labels, characters))
images, right = train.images[rows], train.labels[rows]
unseen = test.images[::5], test.labels[::5]

# %% [markdown]
# Three labels of ten are shuffled among each other. From here on `labels` is all that we are
# given, and `wrong` is used to count only.

# %%
labels = right.copy()
shuffled = random.random(len(labels)) < 0.3
labels[shuffled] = random.permutation(labels[shuffled])
wrong = labels != right
print(f"{len(labels)} images, {wrong.mean():.0%} with a wrong label")

# %% [markdown]
# ## What wrong labels do
#
# A small network, trained with the Multi-Similarity loss, once with the given labels and once
# with the right ones. That loss looks for the hardest pairs, images of one class that look
# different, and wrong labels make such pairs.


# %%
def trained(batches, loss=None):
    """A network after 300 steps, and Recall@1 on the unseen characters after every 50."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
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
            layers.UnitNormalization(),
        ]
    )
    model.compile(keras.optimizers.Adam(2e-3), loss=loss or keras_ms.MultiSimilarityLoss())
    recall = keras_ms.RecallAtK(unseen, ks=(1,))
    model.fit(
        batches,
        steps_per_epoch=50,
        epochs=6,
        callbacks=[recall],
        shuffle=False,  # the batches are drawn at random already
        verbose=0,
    )
    return model, [values[1] for _, values in recall.history]


BATCH = {"classes_per_batch": 16, "images_per_class": 8, "crop_scale": None, "flip": False}

# %%
curves = {}
_, curves["all, right labels"] = trained(keras_ms.balanced_batches((images, right), **BATCH))
_, curves["all, given labels"] = trained(keras_ms.balanced_batches((images, labels), **BATCH))
for name, recalls in curves.items():
    print(f"{name}: Recall@1 {recalls[-1]:.3f}")

# %% [markdown]
# ## Find them by density
#
# The images of a class with right labels look alike, so they lie close together in the space of a
# network's features. Wrong ones are of many kinds and lie apart. `curriculum_subsets` divides
# each class by how densely its images lie: **clean** (0), **noisy** (1) and **highly noisy** (2).
#
# It takes features that have not learned the wrong labels by heart: of a network that was trained
# on something else, or briefly on these images. We have none for characters, so we train one on
# the given labels, with the N-pair loss, which compares all pairs and looks for no hard ones.

# %%
network, curves["all, given labels, N-pair"] = trained(
    keras_ms.balanced_batches((images, labels), **BATCH), keras_ms.NPairLoss()
)
features = network.predict(images, verbose=0)
found = keras_ms.curriculum_subsets(features, labels, density="gaussian")

for number, name in enumerate(("clean", "noisy", "highly noisy")):
    inside = found.subset == number
    print(f"{name}: {inside.sum()} images, {wrong[inside].mean():.0%} of them wrong")

# %% [markdown]
# ## Train without them, or with them last
#
# Three ways to use the subsets:
#
# - **clean only** leaves all else out;
# - **curriculum** trains on the clean images first, then adds the noisy ones, then all; images
#   that are added count half (Guo et al., CurriculumNet, ECCV 2018);
# - **known** leaves out what is wrong. That is cheating, and the best that any of this could
#   reach.

# %%
clean = found.subset == 0
_, curves["clean only"] = trained(
    keras_ms.balanced_batches((images[clean], labels[clean]), **BATCH)
)
_, curves["curriculum"] = trained(
    keras_ms.curriculum_balanced_batches(
        (images, labels), found.subset, steps_per_stage=100, **BATCH
    )
)
_, curves["known"] = trained(keras_ms.balanced_batches((images[~wrong], labels[~wrong]), **BATCH))

# %%
for name, recalls in curves.items():
    style = "--" if name in ("all, right labels", "known") else "-"
    plt.plot(50 * np.arange(len(recalls)), recalls, style, marker="o", label=name)
    print(f"{name}: Recall@1 {recalls[-1]:.3f}")
plt.xlabel("training steps")
plt.ylabel("Recall@1 on unseen scripts")
plt.grid(alpha=0.3)
plt.legend()
plt.show()

# %% [markdown]
# Dashed lines know what nobody knows. Here, with 60 images a class and a network trained from
# nothing, leaving the sparse images out gains most, and adding them again takes part of it away.
#
# **Do not expect that everywhere.** On groceries with a frozen ImageNet network and 33 images a
# class a curriculum gained an embedder a tenth of a point at most, and clean images alone mostly
# lost. Wrong labels that all come from one similar class are not found at all. The page
# `docs/curriculum.md` has the tables. One seed, as here, is a demonstration and no proof.
#
# ## Look at them
#
# Whatever you train with, look. Four classes, drawn at random: their densest images, and their
# sparsest. A red frame is a wrong label; without one made on purpose you would have to judge by
# eye, which is quick, as all that is odd stands together.


# %%
def show_ends(label, axes):
    rows = np.flatnonzero(labels == label)
    rows = rows[np.argsort(-found.density[rows])]
    for place, row in zip(axes, [*rows[:6], *rows[-6:]]):
        place.imshow(images[row])
        place.set(xticks=[], yticks=[])
        for edge in place.spines.values():
            edge.set(color="crimson" if wrong[row] else "white", linewidth=4)
    axes[0].set_ylabel(
        glyphs.class_names[label].replace("letter ", "letter\n"),
        rotation=0,
        ha="right",
        va="center",
        fontsize=9,
    )


drawn = random.choice(np.unique(labels), 4, replace=False)
figure, grid = plt.subplots(4, 12, figsize=(11, 4), layout="constrained")
for label, axes in zip(drawn, grid):
    show_ends(label, axes)
grid[0, 0].set_title("densest", loc="left")
grid[0, 6].set_title("sparsest", loc="left")
plt.show()

# %% [markdown]
# With photos in folders, `keras-ms curriculum network.keras --data-dir photos` makes a page of
# all classes like this, and a table that `keras-ms train --curriculum` reads.

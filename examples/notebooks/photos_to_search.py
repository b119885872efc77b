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
# # From photos to a search
#
# You have photos in folders, one folder for each kind of thing. You want to give a new photo and
# get the ones that show the same thing, even of kinds that come later.
#
# This notebook takes a network that was trained on ImageNet, trains one layer on top of it,
# measures what that brings, and searches. It needs no GPU.
#
# ```
# pip install -e ".[onnx,lite0,search,notebooks]"
# ```

# %%
import os
import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_ms
import keras_ms.export
import keras_ms.search

keras.utils.set_random_seed(0)

# %% [markdown]
# ## The photos
#
# **Change the next line to your own folder**, and `EVERY` to 1. Below it lies a folder for each
# class, such as `photos/robin/1.jpg`. Without a change it is Cars-196, from the folder of real
# images that the tests use too.

# %%
PHOTOS = Path(os.environ.get("KERAS_MS_DATA", "../../../shared/data")) / "cars196_train160"
EVERY = 8  # take every eighth class, so that this ends in minutes; 1 takes all
MOST = 40  # photos of a class

# %%
if not PHOTOS.is_dir():
    raise FileNotFoundError(f"No folder {PHOTOS.resolve()}: write your own into PHOTOS")
photos = keras_ms.ImageList.from_folder(PHOTOS)
print(photos)

# %% [markdown]
# The first half of the classes trains, the last half tests. So the test asks the question that
# matters: does the network find things that it was **never trained on**?
#
# An `ImageList` is a few arrays, and a smaller one is made by choosing rows.

# %%
classes = np.unique(photos.labels)[::EVERY]
rows = np.concatenate([np.flatnonzero(photos.labels == label)[:MOST] for label in classes])
photos = keras_ms.ImageList(
    paths=photos.paths[rows],
    labels=photos.labels[rows],
    class_names=photos.class_names,
    split=photos.split[rows],
    name="photos",
).hold_out_validation(0.25)
print(photos)

# %% [markdown]
# ## Features, computed once
#
# The embedder is a pretrained network (EfficientNet-Lite0, from a pip package) with a linear
# layer on top, its *head*. The network stays as it is, so what it says about a photo never
# changes: we ask it once and keep the answers.

# %%
embedder = keras_ms.build_embedder(
    "efficientnet_lite0", image_size=160, weights="package", freeze_backbone=True
)
network, head = keras_ms.split_embedder(embedder)


def features(split):
    part = photos.subset(split)
    batches = keras_ms.evaluation_batches(part, 160)
    return network.predict(batches.map(lambda image, _: image), verbose=0), part.labels


train, validation, test = map(features, ("train", "validation", "test"))
print("features of the training photos:", train[0].shape)

# %% [markdown]
# ## Before
#
# **Recall@1** is the share of photos whose nearest other photo shows the same thing. By the
# features alone, without any training of ours:

# %%
before = keras_ms.recall_at_k(*test)[1]
print(f"Recall@1 of the features, {len(test[0])} photos of unseen classes: {before:.3f}")

# %% [markdown]
# ## Train the head
#
# It starts at the axes of the training features, whitened: directions in which all photos differ
# count less. Then the Multi-Similarity loss pulls photos of a class together and pushes others
# apart. A loss on pairs needs several photos of several classes in every batch; that is what
# `balanced_batches` is for.
#
# The validation classes choose: `KeepBestWeights` the epoch, and `InterpolateWeights` how far to
# go from the start to there. Trained on few classes, a head soon forgets what it knew of all
# others.

# %%
keras_ms.initialize_head(embedder, *train, start="whitened")
head.compile(keras.optimizers.Adam(5e-4), loss=keras_ms.MultiSimilarityLoss())
recall = keras_ms.RecallAtK(validation, ks=(1,))
best = keras_ms.KeepBestWeights(recall)
history = head.fit(
    keras_ms.balanced_batches(
        train, classes_per_batch=min(8, len(np.unique(train[1]))), images_per_class=5
    ),
    steps_per_epoch=50,
    epochs=6,
    callbacks=[recall, best, keras_ms.InterpolateWeights(recall, best=best)],
    shuffle=False,  # the batches are drawn at random already
    verbose=2,
)

# %% [markdown]
# ## After

# %%
embeddings = head.predict(test[0], verbose=0)
after = keras_ms.recall_at_k(embeddings, test[1])[1]
print(f"Recall@1 on unseen classes: {before:.3f} before, {after:.3f} after")

# %% [markdown]
# ## Export and embed
#
# The ONNX file runs without Keras and TensorFlow. It records how a photo is to be resized and
# cut, and is refused if its embeddings differ from the model's.

# %%
work = Path(tempfile.mkdtemp())
keras_ms.export_onnx(
    embedder,
    work / "embedder.onnx",
    preprocessing=keras_ms.Preprocessing(image_size=160, resize_to=180),
)
exported = keras_ms.export.load_embedder(work / "embedder.onnx")

# %% [markdown]
# ## Search
#
# An index keeps embeddings by the path of their photo. It remembers which model they are of, and
# refuses those of another. Here it holds the test photos but four, which are the queries.

# %%
gallery = photos.subset("test")
queries = np.random.default_rng(0).choice(len(gallery), 4, replace=False)
others = np.setdiff1d(np.arange(len(gallery)), queries)
vectors = keras_ms.export.embed_images(exported, gallery, verbose=False)

index = keras_ms.search.Index.create(
    work / "photos.index", model=exported, dimension=vectors.shape[1]
)
index.add(gallery.paths[others], vectors[others], model=exported)
found = index.search(vectors[queries], k=3, model=exported)

# %%
for query, paths, similarities in zip(gallery.paths[queries], found.paths, found.similarities):
    print("\n" + Path(query).parent.name)
    for path, similarity in zip(paths, similarities):
        print(f"   {similarity:.2f}  {Path(path).parent.name}")

# %% [markdown]
# The commands `keras-ms embed`, `keras-ms index` and `keras-ms search` do the same with folders
# of millions of photos, and write a page with the photos found.
#
# ## The picture
#
# Test photos with their five nearest, before and after. The queries are drawn at random, one of a
# class. Green with a tick is right, red with a cross is wrong.

# %%
keras_ms.draw_neighbours(
    gallery,
    {f"before: Recall@1 {before:.2f}": test[0], f"after: {after:.2f}": embeddings},
    queries=min(6, len(np.unique(gallery.labels))),
)

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
# # Deployment
#
# A trained embedder has to leave Python: into a server, a phone, a browser. This notebook writes
# the same network as
#
# - a **SavedModel**, for TensorFlow without Keras,
# - an **ONNX** file, for onnxruntime, OpenVINO and others,
# - an ONNX file that takes **photos as they are**, of any size,
# - **float16** and **int8** files, which are smaller, and are kept only if they find as well,
#
# loads each one again, and compares. Nothing is downloaded.
#
# ```
# pip install -e ".[onnx,notebooks]"
# ```

# %%
import tempfile
import time
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import tensorflow as tf
from PIL import Image

import keras_ms
import keras_ms.export

keras.utils.set_random_seed(0)
work = Path(tempfile.mkdtemp())

# %% [markdown]
# ## An embedder, trained for a minute
#
# Characters drawn from fonts, a small network, 32 by 32 pixels. Take a model of your own instead:
# any Keras model with one input and one output can be written.

# %%
glyphs = keras_ms.draw_glyphs(image_size=32, images_per_class=12)
train, test = glyphs.subset("train"), glyphs.subset("test")
embedder = keras_ms.build_embedder("small", image_size=32, embedding_size=64, pooling="none")
embedder.compile(keras.optimizers.Adam(2e-3), loss=keras_ms.MultiSimilarityLoss())
batches = keras_ms.balanced_batches(
    train, classes_per_batch=16, images_per_class=4, crop_scale=None, flip=False
)
# the batches are drawn at random already
history = embedder.fit(batches, steps_per_epoch=150, shuffle=False, verbose=2)

expected = embedder.predict(test.images, verbose=0)
recall = keras_ms.recall_at_k(expected, test.labels)[1]
print(f"Recall@1 on unseen scripts: {recall:.3f}")

# %% [markdown]
# ## Write
#
# The rule says how a photo becomes an input: its shorter side is made 32 pixels long, then the
# centre is cut out. It is written into the files, with anything else that you want to keep. Each
# function runs the new file beside the model, returns the largest difference, and writes nothing
# if that is large.

# %%
facts = {"training_data": "drawn characters", "recall_at_1": recall}
rule = keras_ms.Preprocessing(image_size=32, resize_to=32)
inside = keras_ms.Preprocessing(image_size=32, resize_to=32, inside=True)

differences = {
    "saved_model": keras_ms.export_saved_model(
        embedder, work / "saved_model", preprocessing=rule, metadata=facts
    ),
    "embedder.onnx": keras_ms.export_onnx(
        embedder, work / "embedder.onnx", preprocessing=rule, metadata=facts
    ),
    "photo_embedder.onnx": keras_ms.export_onnx(
        embedder, work / "photo_embedder.onnx", preprocessing=inside, metadata=facts
    ),
}
for name, difference in differences.items():
    print(f"{name}: largest difference {difference:.1e}")

# %% [markdown]
# ## Make it smaller
#
# Smaller numbers give *other* embeddings, which may no longer find their neighbours among those
# that the float file made. So a file has to pass a gate: Recall@1 may fall by half a point at
# most, with its own embeddings, with float queries, and with a float gallery. Give it training
# images, because it chooses by them. A file that fails is not written.

# %%
for kind in ("float16", "int8"):
    try:
        keras_ms.export.quantize_onnx(work / "embedder.onnx", train, kind=kind)
    except keras_ms.export.QuantisationRefused as refusal:
        print(f"{kind} was refused: {refusal}")

# %% [markdown]
# ## Load again, without Keras
#
# From here on onnxruntime alone is needed. The input is `image`, float32 RGB from 0 to 255.

# %%
files = ["embedder.onnx", "embedder.float16.onnx", "embedder.int8.onnx"]
sessions = {
    name: onnxruntime.InferenceSession(work / name) for name in files if (work / name).exists()
}
embeddings = {
    name: session.run(["embedding"], {"image": test.images.astype("float32")})[0]
    for name, session in sessions.items()
}

# %% [markdown]
# A file says about itself what it is:

# %%
about = sessions["embedder.onnx"].get_modelmeta().custom_metadata_map
for key in ("training_data", "recall_at_1", "preprocessing"):
    print(f"{key}: {about[key]}")

# %% [markdown]
# ## A photo as it is
#
# A JPEG of any size, decoded, is all that `photo_embedder.onnx` wants. The SavedModel even
# decodes it.

# %%
photo = Image.fromarray(test.images[0]).resize((200, 150))
photo.save(work / "photo.jpg", quality=95)

session = onnxruntime.InferenceSession(work / "photo_embedder.onnx")
picture = np.asarray(Image.open(work / "photo.jpg").convert("RGB"))
(by_onnx,) = session.run(["embedding"], {"picture": picture[None]})

loaded = tf.saved_model.load(work / "saved_model")
contents = tf.constant([(work / "photo.jpg").read_bytes()])
by_tensorflow = loaded.signatures["embed_jpeg"](contents=contents)["embedding"].numpy()

print(f"cosine of the two: {(by_onnx * by_tensorflow).sum():.6f}")

# %% [markdown]
# ## Size, time and what they find
#
# Times are of this machine, one picture at a time, the median of 200. The cosine is between a
# file's embedding of an image and Keras's. In the last column float queries search a gallery that
# the file embedded: what happens when you replace the file of a search that is running.


# %%
def milliseconds(session):
    image, times = test.images[:1].astype("float32"), []
    for _ in range(200):
        started = time.perf_counter()
        session.run(["embedding"], {"image": image})
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def mixed_recall(queries, gallery):
    similarity = queries @ gallery.T
    np.fill_diagonal(similarity, -1)  # no image finds itself
    return np.mean(test.labels[similarity.argmax(axis=1)] == test.labels)


table = {}
print(f"{'file':24}{'KB':>6}{'ms':>8}{'cosine':>9}{'Recall@1':>10}{'float queries':>15}")
for name, session in sessions.items():
    rows = embeddings[name]
    table[name] = (work / name).stat().st_size / 1000, milliseconds(session)
    size, duration = table[name]
    cosine = (rows * expected).sum(axis=1).mean()
    own = keras_ms.recall_at_k(rows, test.labels)[1]
    mixed = mixed_recall(expected, rows)
    print(f"{name:24}{size:6.0f}{duration:8.2f}{cosine:9.4f}{own:10.3f}{mixed:15.3f}")

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 2.2), sharey=True, layout="constrained")
shown = ("kilobytes", "%.0f"), ("ms a picture", "%.2f")
for axes, column, (title, digits) in zip(panels, zip(*table.values()), shown):
    axes.bar_label(axes.barh(list(table), column, color="tab:blue"), fmt=digits, padding=3)
    axes.set(title=title, xlim=(0, 1.2 * max(column)))
    axes.spines[["top", "right"]].set_visible(False)
panels[0].invert_yaxis()
plt.show()

# %% [markdown]
# ## The same neighbours?
#
# Test characters, drawn at random, with their nearest by Keras and by the smallest file.

# %%
smallest = min(table, key=lambda name: table[name][0])
keras_ms.draw_neighbours(
    test, {"Keras": expected, smallest: embeddings[smallest]}, queries=5, neighbours=5
)

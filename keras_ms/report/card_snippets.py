"""Code that feeds an exported embedder, for its card; docs/runtimes.md shows the same of most."""

VIEW = '''\
import json

import numpy as np
from PIL import Image, ImageOps


def view(path, rule):
    """The input of the model, (height, width, 3), from a photo."""
    photo = Image.open(path)
    if rule["exif_orientation"]:
        photo = ImageOps.exif_transpose(photo)
    photo = photo.convert("RGB")
    shorter = min(photo.size)
    size = [round(side * rule["shorter_side"] / shorter) for side in photo.size]
    photo = photo.resize(size, Image.Resampling.BILINEAR)
    left, top = (photo.width - rule["width"]) // 2, (photo.height - rule["height"]) // 2
    photo = photo.crop((left, top, left + rule["width"], top + rule["height"]))
    return np.asarray(photo, rule["dtype"])
'''

ONNXRUNTIME = '''\
import onnxruntime

session = onnxruntime.InferenceSession("embedder.onnx")
facts = session.get_modelmeta().custom_metadata_map  # recall_at_1, training_data, …
rule = json.loads(facts["preprocessing_rule"])


def embed(paths):
    """(photos, dimension), a row a photo."""
    image = np.stack([view(path, rule) for path in paths])
    return session.run(["embedding"], {"image": image})[0]


embedding = embed(["photo.jpg"])
'''

PHOTO_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession("photo_embedder.onnx")
photo = Image.open("photo.jpg")
if rule["exif_orientation"]:
    photo = ImageOps.exif_transpose(photo)
picture = np.asarray(photo.convert("RGB"))[np.newaxis]  # of any size
embedding = session.run(["embedding"], {"picture": picture})[0]
"""

TENSORFLOW = """\
import tensorflow as tf

rule = json.load(open("saved_model/assets.extra/keras_ms.json"))["preprocessing_rule"]
loaded = tf.saved_model.load("saved_model")  # keep it alive while its signatures are called
image = tf.constant(np.stack([view("photo.jpg", rule)]))
embedding = loaded.signatures["serving_default"](image=image)["embedding"]
"""

KERAS = """\
import keras
import keras_ms  # layers of its own, which the file may hold

model = keras.saving.load_model("embedder.keras")
embedding = model.predict(np.stack([view("photo.jpg", rule)]), verbose=0)
"""

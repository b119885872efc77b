"""Networks of KerasHub: presets read, vision towers taken, sizes changed, prefix tokens counted.

KerasHub is imported where one is asked for, and only here.
"""

import contextlib
import functools
import importlib
from typing import Any, NamedTuple

import keras

from keras_ms.models.backbone_names import HUB
from keras_ms.models.backbone_sources import (
    check_backbone_source,
    check_hub_can_be_imported,
    preset_folder,
)
from keras_ms.models.normalisation import Normalisation


class Preset(NamedTuple):
    """A preset of KerasHub, read.

    Attributes:
        network: images to a feature map, tokens or a vector.
        normalisation: of its image converter; None where the preset has none.
        image_size: (height, width) of its image converter; None where it does not say.
    """

    network: keras.Model
    normalisation: Normalisation | None
    image_size: tuple[int, int] | None


def import_keras_hub(wanted_by: str) -> Any:
    """The package keras_hub.

    Args:
        wanted_by: what needs it, for the message.

    Raises:
        ImportError: it is missing, or Python or Keras are too old for it.
    """
    check_hub_can_be_imported(wanted_by)
    return importlib.import_module("keras_hub")


def is_of_hub(network: keras.Model) -> bool:
    """Whether a network is one of KerasHub's classes."""
    return type(network).__module__.split(".")[0] == "keras_hub"


def read_preset(backbone: str) -> Preset:
    """Reads a preset with its weights, and what its image converter does to pixels.

    Args:
        backbone: "hub:" and a name of KerasHub, an address (hf://…, kaggle://…) or a folder.

    Raises:
        ValueError: no such preset, a folder that is none, a preset that is damaged.
        FileNotFoundError: no such folder.
        ImportError: KerasHub is missing, or Python or Keras are too old for it.
        OSError: a preset cannot be downloaded.
    """
    check_backbone_source(backbone)
    hub, preset = import_keras_hub(backbone), backbone.removeprefix(HUB)
    with _explained(backbone):
        network = hub.models.Backbone.from_preset(preset)
    normalisation = size = None
    try:
        converter = hub.layers.ImageConverter.from_preset(preset)
    except (FileNotFoundError, ValueError):
        pass  # without one, or a network of something else than images
    else:
        normalisation = _normalisation_of(converter)
        size = converter.image_size
    return Preset(vision_tower(network), normalisation, size and (int(size[0]), int(size[1])))


def vision_tower(network: keras.Model) -> keras.Model:
    """Of a network of images and texts, such as CLIP and SigLIP, the part for images."""
    tower = getattr(network, "vision_encoder", None)
    return tower if isinstance(tower, keras.Model) else network


def count_prefix_tokens(network: keras.Model) -> int:
    """How many tokens of a KerasHub network stand before those of the patches.

    The first of them is the class token; DeiT's distillation token and register tokens follow.
    """
    models = import_keras_hub(network.name).models
    if isinstance(network, (models.DINOV2Backbone, models.DINOV3Backbone)):
        return 1 + network.num_register_tokens
    if isinstance(network, models.DeiTBackbone):
        return 2
    if isinstance(network, models.ViTBackbone):
        return int(network.use_class_token)
    return int(isinstance(network, (models.CLIPVisionEncoder, models.MetaCLIP2VisionEncoder)))


def hold_mask_token(network: keras.Model) -> None:
    """Keeps the token of DINO's own pretraining as it is: no image reaches it, and no gradient."""
    models = import_keras_hub(network.name).models
    if isinstance(network, (models.DINOV2Backbone, models.DINOV3Backbone)):
        if network.use_mask_token:
            network.embeddings.mask_token.trainable = False


def with_image_size(network: keras.Model, size: tuple[int, int]) -> keras.Model:
    """The network for images of another size, with the same weights.

    DINOv2's positions are interpolated, as KerasHub does it; those of networks with relative or
    rotary positions, and convolutional networks, do not depend on the size.

    Args:
        network: of KerasHub.
        size: (height, width).

    Returns:
        `network` itself where it takes that size already.

    Raises:
        ValueError: it has learned a position for each patch of its own size, or cannot take `size`.
    """
    is_dinov2 = isinstance(network, import_keras_hub(network.name).models.DINOV2Backbone)
    own = tuple(network.inputs[0].shape[1:3])
    if own in (size, (None, None)) and not is_dinov2:
        return network
    config = network.get_config()
    key = "image_shape" if "image_shape" in config else "input_shape"
    changed = {**config, key: (*size, 3)}
    if is_dinov2:
        changed["position_embedding_shape"] = (*size, 3)
    refusal = (
        f"{type(network).__name__} {network.name!r} is for images of {_in_words(own)} pixels and "
        f"cannot take {_in_words(size)}"
    )
    try:
        other = type(network).from_config(changed)
    except Exception as error:
        raise ValueError(f"{refusal}: {error}. Give image_size={own[0]}") from error
    if is_dinov2:
        _copy_dinov2(network, other)
    elif [v.shape for v in network.variables] != [v.shape for v in other.variables]:
        raise ValueError(
            f"{refusal}: it has learned a position for each of its patches. Give "
            f"image_size={own[0]}, or take a network that interpolates them, such as DINOv2"
        )
    else:
        other.set_weights(network.get_weights())
    return other


def _copy_dinov2(network, other):
    """Weights into a network whose learned positions are of its own image size.

    KerasHub keeps two tables of positions, that of the preset's size and the one interpolated from
    it, which is trained. A file brings the first back, and the second from it. On saving, the
    trained table is copied into the first if the sum of all differences is positive: else it is
    lost, and one of another size loses digits on the way. Here both are of one size, and the
    trained one is written in the place of the first, which itself stays: to the callbacks that
    compare weights, it is not trained.
    """
    positions, table = other.embeddings, network.embeddings
    if positions.image_shape == table.image_shape:
        interpolated = table.interpolated_position_embeddings
    else:
        interpolated = table._interpolate_position_embeddings(
            table.position_embeddings,
            patch_size=table.patch_size,
            source_shape=table.position_embedding_shape,
            target_shape=positions.image_shape,
            antialias=table.antialias_in_interpolation,
        )
    own = positions.position_embeddings, positions.interpolated_position_embeddings
    for old, new in zip(network.variables, other.variables, strict=True):
        new.assign(interpolated if any(new is variable for variable in own) else old)
    positions.save_own_variables = functools.partial(_save_positions, positions)
    positions.load_own_variables = functools.partial(_load_positions, positions)


def _save_positions(layer, store):
    for number, variable in enumerate(_variables(layer)):
        is_unused = variable is layer.position_embeddings
        store[f"{number}"] = layer.interpolated_position_embeddings if is_unused else variable


def _load_positions(layer, store):
    for number, variable in enumerate(_variables(layer)):
        if variable is not layer.position_embeddings:
            variable.assign(store[f"{number}"])


def _variables(layer):
    """A layer's own variables in the order of files."""
    return layer._trainable_variables + layer._non_trainable_variables


def _normalisation_of(converter):
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset

    def of_channels(values):
        values = values if isinstance(values, (list, tuple)) else [values] * 3
        return tuple(float(value) for value in values)

    return Normalisation(of_channels(scale), of_channels(offset))


def _in_words(size):
    return " x ".join("any" if side is None else str(side) for side in size)


@contextlib.contextmanager
def _explained(backbone):
    """Errors of reading a preset become one that names it."""
    try:
        yield
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        text = f"{backbone} cannot be read by KerasHub: {type(error).__name__}: {words}"
        if isinstance(error, ImportError):
            raise ImportError(text) from error
        if isinstance(error, OSError) and preset_folder(backbone) is None:
            raise OSError(
                f"{text}. Check the connection, or give the folder of a preset that you have"
            ) from error
        raise ValueError(f"{text}. Check the name, or copy the folder again") from error

"""Low-rank adaptation: a transformer is fine-tuned by two thin matrices a projection."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_ms.arguments import whole_number
from keras_ms.models.blocks import walk_layers


def enable_lora(embedder: keras.Model, rank: int, *, alpha: float | None = None) -> int:
    """Trains a transformer's backbone by low-rank changes of its attention, and nothing else in it.

        kernel + alpha / rank * A @ B,   A: (inputs, rank), B: (rank, outputs), B = 0 at the start

    The query and value projections of each attention get an A and a B, by Keras's own
    `layer.enable_lora`; all other weights of the backbone are held. The optimizer then keeps its
    two moments of a few hundredths of the weights, and less can be forgotten. Call it before
    `compile`, and `merge_lora` after training.

    A projection is a Dense or EinsumDense layer; those of queries and values have a word in their
    name that begins with q or v, as "query", "v_proj" and "attention_qkv", within a layer that
    holds one for the queries.

    Reference: Hu et al.: LoRA, Low-Rank Adaptation of Large Language Models, ICLR 2022.

    Args:
        embedder: model of `keras_ms.build_embedder`, with the layer "backbone"; its head is trained
            as it is.
        rank: columns of A. 4 to 16 are usual.
        alpha: the change is scaled by alpha / rank. Defaults to None: `rank`, a scale of 1.

    Returns:
        How many projections got an A and a B.

    Raises:
        ValueError: a model without the layer "backbone", no such projections in it (it is said
            which layers there are), or one that is adapted already.

    Example:
        >>> adapted = enable_lora(embedder, rank=8)
        >>> embedder.compile(keras_ms.GroupedAdam(1e-3), keras_ms.MultiSimilarityLoss())
        >>> history = embedder.fit(batches, steps_per_epoch=100, verbose=0)
        >>> merged = merge_lora(embedder)
    """
    rank = whole_number("rank", rank)
    if "backbone" not in [layer.name for layer in embedder.layers]:
        raise ValueError(
            "enable_lora takes a model of build_embedder, with the layer 'backbone'. Received a "
            f"model with the layers {', '.join(layer.name for layer in embedder.layers)}"
        )
    backbone = embedder.get_layer("backbone")
    projections = _attention_projections(backbone)
    if not projections:
        there_are = sorted({one.name for one in walk_layers(backbone) if _is_projection(one)})
        raise ValueError(
            f"LoRA found no query or value projection in the backbone: no layer in it holds a "
            "Dense or EinsumDense with a word in its name that begins with q. It is for "
            "transformers. Dense layers "
            f"that there are: {', '.join(there_are[:10]) or 'none'}"
        )
    if any(projection.lora_enabled for projection in projections):
        raise ValueError("LoRA is enabled in this backbone already: call merge_lora first")
    for layer in walk_layers(backbone):
        # its statistics would go on moving
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    for variable in backbone.variables:
        variable.trainable = False
    for projection in projections:
        projection.enable_lora(rank, lora_alpha=alpha)
    return len(projections)


def merge_lora(model: keras.Model) -> int:
    """Adds the low-rank changes to the kernels that they are of, in place, and removes them.

    The model computes what it did, to rounding, and is a plain one: saved, exported or averaged
    with another, nothing of LoRA is left in it.

    Args:
        model: any model; the layers that it holds are changed, in the other models that have them
            too.

    Returns:
        How many projections were merged; 0 where LoRA is not enabled.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.layers[0].enable_lora(2)
        >>> merge_lora(model), merge_lora(model)
        (1, 0)
    """
    merged = 0
    for layer in walk_layers(model):
        if _is_projection(layer) and layer.lora_enabled:
            _merge(layer)
            merged += 1
    return merged


def _attention_projections(backbone) -> list[Any]:
    """The projections to queries and values of all attentions, each once."""
    found = {}
    for layer in walk_layers(backbone):
        inner = layer._flatten_layers(include_self=False, recursive=False)
        projections = [one for one in inner if _is_projection(one)]
        if any(_has_word(one, "q") for one in projections):
            found |= {id(one): one for one in projections if _has_word(one, ("q", "v"))}
    return list(found.values())


def _has_word(layer, letters):
    return any(word.startswith(letters) for word in layer.name.split("_"))


def _is_projection(layer):
    return isinstance(layer, (layers.Dense, layers.EinsumDense))


def _merge(layer):
    a, b = layer.lora_kernel_a, layer.lora_kernel_b
    # in float64: the property `kernel` is in the precision that the layer computes in
    change = _float64(a) @ _float64(b) * (layer.lora_alpha / layer.lora_rank)
    kernel = _float64(layer._kernel) + change
    layer._kernel.assign(kernel.astype(layer.variable_dtype))
    # a function that was traced with them adds nothing now
    b.assign(np.zeros(b.shape, "float32"))
    for variable in (a, b):
        layer._untrack_variable(variable)
    layer.lora_kernel_a = layer.lora_kernel_b = None
    layer.lora_rank = layer.lora_alpha = None
    layer.lora_enabled = False
    # it has been changed by training, whoever asks which weights are
    layer._kernel.trainable = layer.trainable


def _float64(variable):
    return np.asarray(ops.convert_to_numpy(variable), "float64")

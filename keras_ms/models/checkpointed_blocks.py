"""Gradient checkpointing: what a block computed is computed again for its gradient, not kept."""

import contextlib
from collections.abc import Iterator

import keras
from keras import ops

from keras_ms.models.blocks import backbone_blocks, composite_layers, walk_layers
from keras_ms.models.frozen_layers import FrozenStatisticsBatchNormalization, random_layers


def checkpointable_layers(backbone: keras.Model) -> list[keras.Layer]:
    """The layers of a backbone that gradient checkpointing acts on, a block each.

    Args:
        backbone: built `keras.Model`.

    Raises:
        ValueError: a backbone without blocks that are layers of their own, or one whose blocks drop
            at random or gather statistics: they would do so again, and otherwise, the second time.

    Example:
        >>> blocks = checkpointable_layers(embedder.get_layer("backbone"))
    """
    found = [layer for block in backbone_blocks(backbone) for layer in composite_layers(block)]
    if not found:
        raise ValueError(
            f"Gradient checkpointing would not act on the backbone {backbone.name}: Keras computes "
            "layers again, and its blocks are no layers of their own, as those of a transformer "
            "are. Leave out gradient_checkpointing, or take smaller batches"
        )
    for block in found:
        changing = [layer for layer, _ in random_layers(block)]
        changing += [layer for layer in walk_layers(block) if _gathers_statistics(layer)]
        if changing:
            raise ValueError(
                f"Gradient checkpointing would give wrong gradients: {changing[0].name} in "
                f"{block.name} draws at random or gathers statistics, and would do so anew when "
                "the block is computed again. Build the backbone without dropout and stochastic "
                "depth, and with frozen batch normalisation, or leave out gradient_checkpointing"
            )
    return found


@contextlib.contextmanager
def checkpointed_blocks(backbone: keras.Model) -> Iterator[None]:
    """Within, a training step keeps the inputs of the blocks alone and computes the rest again.

    `keras.RematScope` does so for layers that are built within it, if they are called without
    keywords. The memory of the activations falls to about one block's; a step computes the forward
    pass twice.

    Reference: Chen et al.: Training Deep Nets with Sublinear Memory Cost, 2016.

    Args:
        backbone: built `keras.Model` whose blocks are layers of their own, as those of transformers
            are; it is traced within, as by `fit`.

    Returns:
        A context, for `with`.

    Raises:
        ValueError: a backbone without blocks that are layers of their own, or one whose blocks drop
            at random or gather statistics.

    Example:

    ```python
    with checkpointed_blocks(embedder.get_layer("backbone")):
        embedder.fit(batches, steps_per_epoch=100)
    ```
    """
    blocks = checkpointable_layers(backbone)
    for block in blocks:
        block.call = _computed_again(block.call)
    try:
        yield
    finally:
        for block in blocks:
            del block.call  # what its class has is there again


def _computed_again(call):
    def again(*args, **kwargs):
        # TensorFlow takes tensors by their places alone; all else is bound
        values = keras.tree.flatten((args, kwargs))
        places = [place for place, value in enumerate(values) if ops.is_tensor(value)]

        def computed(*tensors):
            filled = list(values)
            for place, tensor in zip(places, tensors):
                filled[place] = tensor
            args_now, kwargs_now = keras.tree.pack_sequence_as((args, kwargs), filled)
            return call(*args_now, **kwargs_now)

        return keras.remat(computed)(*(values[place] for place in places))

    return again


def _gathers_statistics(layer):
    # frozen layers, and those of a class that always is, take the statistics that they have
    is_normalization = isinstance(layer, keras.layers.BatchNormalization)
    frozen = isinstance(layer, FrozenStatisticsBatchNormalization)
    return is_normalization and layer.trainable and not frozen

"""The blocks of a backbone, in order from its input, found by how it is built and not by names.

A transformer repeats a layer that is made of others; a convolutional network parts into branches
and meets again, or halves its maps. What comes before the first block is the stem, what comes after
the last one the end.
"""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from keras_ms.arguments import real_number

# a block holds at least an attention's or a branch's worth of layers with weights; a convolution
# with its normalisation is none
_LEAST_LAYERS = 3
# of the weights, for a layer within a repeated layer to be the block instead
_LEAST_SHARE = 0.5


class Block(NamedTuple):
    """A part of a backbone.

    Attributes:
        name: "stem", "end", or that of the layer which ends the block.
        layers: those that belong to it as a whole, none within another.
        variables: its weights, those of no layer of the list too.
    """

    name: str
    layers: list[keras.Layer]
    variables: list[keras.Variable]


def backbone_blocks(backbone: keras.Model) -> list[Block]:
    """The stem, the blocks and the end of a backbone.

    Blocks are what there is more of, else the third:
        - layers of one class that are made of at least three layers with weights: the encoder
          layers of a transformer. Of several such classes that which holds the most weights, and
          within it one that is repeated there and holds half of them: of stages, their blocks.
        - in a network of Keras's functional API, the parts between two tensors that everything
          passes through, where there is more than one way between them: residual blocks, inception
          modules. A layer between two of them belongs to the one after it.
        - there too, the layers whose feature maps have one size.

    Args:
        backbone: built `keras.Model`, such as `embedder.get_layer("backbone")`.

    Returns:
        List of `Block`: "stem", two blocks or more, "end". Stem and end may be without weights.

    Raises:
        ValueError: no blocks are found.

    Example:
        >>> blocks = backbone_blocks(keras_ms.build_embedder("small").get_layer("backbone"))
        >>> [block.name for block in blocks][0::4]
        ['stem', 'end']
    """
    parts = max(_repeated_layers(backbone), _parts_of_graph(backbone), key=len)
    if not parts:
        raise ValueError(
            f"No blocks were found in the backbone {backbone.name}: it has neither a layer of "
            "several layers that is repeated, nor branches that meet again or feature maps of "
            "several sizes in a network of Keras's functional API. Leave out what needs them: "
            "layer_decay, freeze_blocks, gradient_checkpointing"
        )
    names = ["stem", *(part[-1].name for part in parts[1:-1]), "end"]
    return [Block(name, *_layers_and_variables(part)) for name, part in zip(names, parts)]


def layer_decay_factors(backbone: keras.Model, decay: float) -> dict[int, float]:
    """Factors of the learning rate that fall from block to block towards the input.

        factor = decay ** (number of blocks + 1 - place), with the stem at place 0

    The last block has `decay`, the end 1, as the head behind it: what lies near the input serves
    every picture and is changed least.

    References: Clark et al.: ELECTRA, ICLR 2020; Bao et al.: BEiT, ICLR 2022, whose convention
    this is.

    Args:
        backbone: as in `backbone_blocks`.
        decay: above 0, at most 1.

    Returns:
        The factor by `id` of each variable of the backbone; empty with a decay of 1, which no
        blocks are needed for.

    Raises:
        ValueError: no blocks are found, or a decay out of its bounds.

    Example:
        >>> backbone = keras_ms.build_embedder("small").get_layer("backbone")
        >>> factors = layer_decay_factors(backbone, 0.5)
        >>> factors[id(backbone.trainable_variables[0])]
        0.0625
    """
    decay = real_number("decay", decay, above=0, most=1, reason="as 0.75")
    if decay == 1:
        return {}
    blocks = backbone_blocks(backbone)
    return {
        id(variable): decay ** (len(blocks) - 1 - place)
        for place, block in enumerate(blocks)
        for variable in block.variables
    }


def walk_layers(layer: Any) -> Iterator[Any]:
    """A layer and all layers within it, each before those that it holds, in their order."""
    yield layer
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        yield from walk_layers(inner)


def composite_layers(block: Block) -> list[keras.Layer]:
    """The layers of a block that are made of at least three layers with weights."""
    return [layer for layer in block.layers if _is_composite(layer)]


def _repeated_layers(backbone) -> list[list]:
    """Layers and weights of the stem, of each block, a repeated layer last, and of the end."""
    kinds: dict[type, list] = {}
    for layer in walk_layers(backbone):
        if layer is not backbone and _is_composite(layer):
            kinds.setdefault(type(layer), []).append(layer)
    outermost = {kind: _outermost(layers) for kind, layers in kinds.items()}
    sizes = {
        kind: sum(_size(layer.weights) for layer in layers)
        for kind, layers in outermost.items()
        if len(layers) > 1
    }
    if not sizes:
        return []
    kind = max(sizes, key=lambda one: sizes[one])
    while True:
        inner = [each for layer in outermost[kind] for each in list(walk_layers(layer))[1:]]
        within = {one: _outermost([each for each in inner if type(each) is one]) for one in sizes}
        finer = {one: sum(_size(layer.weights) for layer in within[one]) for one in sizes}
        best = max(finer, key=lambda one: (len(within[one]) > len(outermost[kind]), finer[one]))
        is_repeated = len(within[best]) > len(outermost[kind])
        if not is_repeated or finer[best] < _LEAST_SHARE * sizes[kind]:
            return _divided_at(backbone, kind)
        kind = best


def _divided_at(backbone, kind):
    parts, waiting = [[]], []

    def visit(layer):
        if type(layer) is kind:
            if len(parts) == 1:
                parts[0], waiting[:] = waiting[:], []
            parts.append([*waiting, layer])
            waiting.clear()
        elif any(type(inner) is kind for inner in walk_layers(layer)):
            waiting.extend(_own_weights(layer))
            for inner in layer._flatten_layers(include_self=False, recursive=False):
                visit(inner)
        else:
            waiting.append(layer)

    visit(backbone)
    return [*parts, waiting]


def _outermost(layers):
    within = {id(inner) for layer in layers for inner in list(walk_layers(layer))[1:]}
    return [layer for layer in layers if id(layer) not in within]


def _is_composite(layer):
    # a model may hold the blocks, and is none
    if isinstance(layer, keras.Model):
        return False
    with_weights = [inner for inner in list(walk_layers(layer))[1:] if _own_weights(inner)]
    return len(with_weights) >= _LEAST_LAYERS


def _own_weights(layer):
    inner = layer._flatten_layers(include_self=False, recursive=False)
    known = {id(weight) for each in inner for weight in each.weights}
    return [weight for weight in layer.weights if id(weight) not in known]


def _size(weights):
    return sum(math.prod(weight.shape) for weight in weights)


def _parts_of_graph(backbone) -> list[list]:
    """Operations of the stem, of each block and of the end; empty for other networks."""
    before, network, after = _innermost(backbone)
    if isinstance(network, keras.Function):
        operations = network.operations
    elif isinstance(network, keras.Sequential):
        operations = network.layers
    else:
        return []
    parts = _branching_parts(operations, network) or _map_sizes(operations)
    return [[*before, *parts[0]], *parts[1:-1], [*parts[-1], *after]] if parts else []


def _innermost(network) -> tuple[list, Any, list]:
    """The nested model that does the work: (what is before it, it, what is behind it)."""
    before, after = [], []
    while True:
        # as a layer, or held by one
        models = [
            (place, each)
            for place, layer in enumerate(network.layers)
            for each in (layer, *layer._flatten_layers(include_self=False, recursive=False))
            if isinstance(each, keras.Model)
        ]
        inner = [one for one in models if 2 * len(one[1].weights) > len(network.weights)]
        if not inner:
            return before, network, after
        place, model = inner[0]
        before, after = before + network.layers[:place], network.layers[place + 1 :] + after
        network = model


def _branching_parts(operations, network):
    """Divided at tensors that everything passes through, with several ways in each block."""
    uses = Counter(id(tensor) for one in operations for tensor in _tensors(one.input))
    uses.update(id(tensor) for tensor in _tensors(network.outputs))
    segments, current, waiting = [], [], Counter()
    for operation in operations:
        current.append(operation)
        waiting.subtract(id(tensor) for tensor in _tensors(operation.input))
        waiting.update({id(tensor): uses[id(tensor)] for tensor in _tensors(operation.output)})
        waiting = +waiting
        if len(waiting) == 1:
            segments.append(current)
            current = []
    parts, between = [[]], []
    for segment in segments:
        if len(segment) == 1 or not _has_weights(segment):
            between += segment
            continue
        if len(parts) == 1:
            parts[0], between = between, []
        parts.append(between + segment)
        between = []
    return [*parts, between + current] if len(parts) > 2 else []


def _map_sizes(operations):
    """Divided where the feature maps have another size than before."""
    parts, size = [[]], None
    for operation in operations:
        shape = [tuple(t.shape) for t in _tensors(operation.output)][0]
        if len(shape) == 4 and _tensors(operation.input) and shape[1:3] != size:
            if size is not None and _has_weights(parts[-1]):
                parts.append([])
            size = shape[1:3]
        parts[-1].append(operation)
    end = [] if _has_weights(parts[-1]) else parts.pop()
    return [*parts, end] if len(parts) > 2 else []


def _has_weights(operations):
    return any(isinstance(one, keras.Layer) and one.weights for one in operations)


def _tensors(value) -> list:
    return keras.tree.flatten(value)


def _layers_and_variables(part) -> tuple[list, list]:
    layers = [one for one in part if isinstance(one, keras.Layer)]
    variables = [one for one in part if isinstance(one, keras.Variable)]
    for layer in layers:
        variables += layer.weights
    return layers, list({id(variable): variable for variable in variables}.values())

"""The hierarchical triplet loss: all triplets, each with a margin read from the class tree."""

from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ms.arguments import Tensor, real_number
from keras_ms.htl.class_tree import ClassTree
from keras_ms.losses.pair_loss import PairLoss, checked_options, is_concrete
from keras_ms.losses.triplet import triplet_all, triplet_all_weights
from keras_ms.pairs.labels import (
    are_valid,
    invalid_keys,
    label_keys,
    positions_among,
    valid_where,
)


def violate_margins(
    keys: Tensor,
    candidate_keys: Tensor,
    *,
    tree_keys: Tensor,
    nodes: Tensor,
    thresholds: Tensor,
    spreads: Tensor,
    beta: float,
) -> Tensor:
    """The dynamic margin of every pair of items, in squared distance.

    alpha_ij = beta + d_H(y_i, y_j) - s_{y_i}

    Args:
        keys: (anchors, 5), of `PairLoss.label_keys`.
        candidate_keys: (candidates, 5).
        tree_keys: (C, 5), the keys of the tree's classes, in the order of their ids.
        nodes: (C, L + 1), as in `keras_ms.ClassTree`, but floats.
        thresholds: (L + 1,), d_l.
        spreads: (C,), s_c.
        beta: the constant part.

    Returns:
        (anchors, candidates). Meaningless where a class is not in the tree.
    """
    anchor_class, _ = positions_among(keys, tree_keys)
    candidate_class, _ = positions_among(candidate_keys, tree_keys)
    anchor_nodes = ops.take(nodes, anchor_class, axis=0)
    candidate_nodes = ops.take(nodes, candidate_class, axis=0)
    # nodes only grow, so the number of levels at which two classes differ is the first that they
    # share; level by level, no (anchors, candidates, L + 1) is made
    level = ops.zeros((), "int32")
    for number in range(nodes.shape[1]):
        differ = ops.not_equal(
            ops.expand_dims(anchor_nodes[:, number], 1),
            ops.expand_dims(candidate_nodes[:, number], 0),
        )
        level = level + ops.cast(differ, "int32")
    distance = ops.take(thresholds, level, axis=0)
    return beta + distance - ops.expand_dims(ops.take(spreads, anchor_class, axis=0), 1)


_NO_TREE = (
    "HierarchicalTripletLoss has no class tree yet. Give it one, "
    "HierarchicalTripletLoss(keras_ms.ClassTree.build(embeddings, labels)), or pass the callback "
    "keras_ms.RebuildClassTree(loss, images, labels) to fit"
)


@keras.saving.register_keras_serializable(package="keras_ms")
class HierarchicalTripletLoss(PairLoss):
    """Computes the triplet loss over all triplets, with margins from a hierarchy of the classes.

    Use it where classes are many and alike: a negative of a class that is far away in the tree
    has to be pushed further than one of a close class, and an anchor of a class that is spread
    out less far. The tree is a `keras_ms.ClassTree` of the training embeddings; the callback
    `keras_ms.RebuildClassTree` makes it anew every epoch. With `keras_ms.neighbour_batches` a
    batch holds classes with their nearest ones.

        alpha = beta + d_H(y_a, y_n) - s_{y_a}
        L_a = 1/(|P_a| |N_a|) sum_P sum_N 1/2 [|x_a - x_p|^2 - |x_a - x_n|^2 + alpha]+

    d_H is the distance of two classes in the tree, s the spread of a class. The mean over the
    anchors of a batch with equally many images of each class is the paper's loss, 1/(2Z) times
    the sum over all triplets.

    Reference: Ge, Huang, Dong, Scott: Deep Metric Learning with Hierarchical Triplet Loss,
    ECCV 2018.

    Relations: `keras_ms.TripletLoss` with mining "all" has one margin where this has one for each
    two classes.

    Args:
        tree: `keras_ms.ClassTree` with all classes that are trained on. Defaults to None: it is
            assigned later, by `assign_tree` or `RebuildClassTree`, and before the first batch.
        beta: the constant part of the margin, in squared distance, finite. Defaults to 0.1, as
            published.
        name, **options: `block_size`, `jit_compile`, `reduction` and `dtype` as in `PairLoss`.

    Corner cases:
        - A margin may be negative, where a class is spread out further than d_H + beta: as
          published, it is not clamped.
        - An item whose class is not in the tree: the loss NaN, so that it does not go unnoticed; a
          ValueError where the loss is called eagerly with TensorFlow. It is no candidate of other
          anchors: there is no margin for it.
        - A step that is compiled before there is a tree, as `RebuildClassTree` allows: NaN for
          every item until the tree comes.
        - A model that is saved keeps the levels of the tree with the loss, not the class means.
        - On the JAX backend a compiled step keeps the tree that it was compiled with.

    Raises:
        ValueError: no tree, a tree of another number of classes or levels than the one before, a
            setting out of range, labels that are not integer ids or not in the tree.

    Example:

    >>> embeddings = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    >>> tree = keras_ms.ClassTree.build(embeddings, [0, 0, 1, 1])
    >>> loss = keras_ms.HierarchicalTripletLoss(tree)
    >>> round(float(loss([0, 0, 1, 1], embeddings)), 4)
    0.2306

    `model.compile(optimizer, loss=loss)`
    """

    def __init__(
        self,
        tree: ClassTree | None = None,
        beta: float = 0.1,
        *,
        name: str = "hierarchical_triplet",
        **options: Any,
    ):
        self.beta = real_number("beta", beta, reason="of squared distance")
        self.tree = None
        self._state = None
        super().__init__(
            # the margins are in the similarities of the negatives already
            pair_loss=partial(triplet_all, margin=0.0),
            weighting=partial(triplet_all_weights, margin=0.0),
            margins=self._margins,
            name=name,
            **checked_options(self, {"tree": None, "beta": self.beta}, options),
        )
        if tree is not None:
            self.assign_tree(tree)

    def assign_tree(self, tree: ClassTree) -> None:
        """Takes the margins from this tree from now on, in a compiled `fit` that is running too.

        Args:
            tree: `keras_ms.ClassTree`. Each has as many classes and levels as the first.

        Raises:
            ValueError: something else than a tree, or one of other shapes.
        """
        if not isinstance(tree, ClassTree):
            raise ValueError(f"Expected a keras_ms.ClassTree. Received: {tree!r}")
        keys = ops.convert_to_numpy(label_keys(tree.class_ids, self.dtype))
        self._assign(keys, tree.nodes, tree.thresholds, tree.spreads)
        self.tree = tree

    def expect_tree(self, num_classes: int, levels: int) -> None:
        """Makes room for a tree that `assign_tree` brings later, so that Keras can trace a step.

        Until then there is no class, and the loss is NaN, or a ValueError where it is called
        eagerly with TensorFlow.

        Args:
            num_classes: of the tree that will come.
            levels: L of that tree.

        Raises:
            ValueError: a tree of another size was given or expected before.
        """
        nodes = np.zeros((num_classes, levels + 1))
        self._assign(invalid_keys(num_classes), nodes, nodes[0], nodes[:, 0])
        self.tree = None

    def _assign(self, *arrays):
        if self._state is None:
            # All of them floats, exact up to 2**24: TensorFlow keeps integer variables off GPUs.
            self._state = [
                keras.Variable(array, trainable=False, dtype=self.dtype) for array in arrays
            ]
            return
        sizes = [(shape[0], shape[1] - 1) for shape in (self._state[1].shape, arrays[1].shape)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                "Expected a tree of {} classes and {} levels, as the one before: the compiled "
                "step depends on them. Received: {} classes and {} levels. Make a new loss and "
                "compile again".format(*sizes[0], *sizes[1])
            )
        for variable, array in zip(self._state, arrays):
            variable.assign(array)

    def per_anchor(
        self, keys: Tensor, embeddings: Tensor, memory: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        is_known = self._is_known(keys)
        if memory is not None:
            memory = self._without_unknown(memory[0]), memory[1]
        losses = super().per_anchor(self._without_unknown(keys), embeddings, memory)
        return ops.where(is_known, losses, ops.full_like(losses, float("nan")))

    def _tree_arrays(self):
        if self._state is None:
            raise ValueError(_NO_TREE)
        return self._state

    def _is_known(self, keys):
        _, is_known = positions_among(keys, self._tree_arrays()[0])
        return ops.logical_or(is_known, ops.logical_not(are_valid(keys)))  # padding has no class

    def _without_unknown(self, keys):
        """The keys, with items that have no margin in no pair: as anchors and as candidates."""
        return valid_where(keys, self._is_known(keys))

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        value = super().__call__(y_true, y_pred, sample_weight)
        # on torch, Keras also builds a model by calling its loss with made-up labels
        if keras.backend.backend() == "tensorflow" and is_concrete(value):
            self.check_known(y_true, y_pred)
        return value

    def check_known(self, labels: Any, embeddings: Tensor) -> None:
        if self.tree is None:
            raise ValueError(_NO_TREE)
        keys = self.label_keys(labels, ops.convert_to_tensor(embeddings))
        unknown = ~ops.convert_to_numpy(self._is_known(keys))
        if unknown.any():
            labels = np.unique(ops.convert_to_numpy(labels).reshape(-1)[unknown])
            raise ValueError(
                f"{len(labels)} classes of the batch are not in the class tree of "
                f"{len(self.tree.class_ids)}; the first is {labels[0]}. Build the tree from images "
                "of all classes that are trained on, with the same ids"
            )

    def _margins(self, keys, candidate_keys):
        # similarities: a squared distance is 2 - 2 S
        tree_keys, nodes, thresholds, spreads = self._tree_arrays()
        margins = violate_margins(
            keys,
            candidate_keys,
            tree_keys=tree_keys,
            nodes=nodes,
            thresholds=thresholds,
            spreads=spreads,
            beta=self.beta,
        )
        return margins / 2

    def get_config(self) -> dict[str, Any]:
        tree = None if self.tree is None else self.tree.get_config()
        return {**super().get_config(), "tree": tree}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HierarchicalTripletLoss":
        tree = config["tree"] and ClassTree.from_config(config["tree"])
        return cls(**{**config, "tree": tree})

"""ClassTree: classes merged into a hierarchy by how far apart their embeddings are.

Built by hierarchy.py; here it is asked, saved, loaded and drawn.
"""

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_ms.arguments import Tensor
from keras_ms.files import whole_file
from keras_ms.htl.hierarchy import (
    BLOCK,
    LEVELS,
    checked_levels,
    class_means,
    class_spreads,
    level_thresholds,
    merge_nodes,
    rounded_distances,
)
from keras_ms.htl.picture import draw_levels


@dataclass(frozen=True, eq=False)
class ClassTree:
    """Classes merged into a hierarchy, level by level, by how far apart their embeddings are.

    Use it to see which classes a model confuses (`draw`, `nearest`) and to train with
    `keras_ms.HierarchicalTripletLoss`, whose margins come from it. Made by `ClassTree.build`.

    The distance d(p, q) of two classes is the mean squared Euclidean distance of their images'
    unit vectors, from 0 to 4; the spread s_c of a class is the same among its own images. At
    level l = 0 … L, nodes closer than d_l = d_0 + l (4 - d_0)/L are one node, where d_0 is the
    mean spread. The distance d_H of two classes in the tree is that of the first level that
    they share a node at.

    Memory is C × (L + 1) numbers and the means: nothing is C × C.

    Reference: Ge, Huang, Dong, Scott: Deep Metric Learning with Hierarchical Triplet Loss,
    ECCV 2018.

    Attributes:
        class_ids: int64 (C,), sorted.
        nodes: int32 (C, L + 1), the node of each class at each level; nodes only grow.
        thresholds: float64 (L + 1,), d_0 … d_L = 4.
        spreads: float64 (C,), s_c; that of a class of one image is d_0.
        means: float32 (C, dimension), mean unit vectors, or None where only the levels are known.

    Example:

    >>> embeddings = [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [-0.8, -0.6]]
    >>> tree = ClassTree.build(embeddings, [0, 0, 1, 1, 2, 2])
    >>> tree.merge_levels([0, 0], [1, 2])
    array([ 3, 14])
    """

    class_ids: np.ndarray
    nodes: np.ndarray
    thresholds: np.ndarray
    spreads: np.ndarray
    means: np.ndarray | None = None

    @classmethod
    def build(
        cls, embeddings: Tensor, labels: Tensor, levels: int = LEVELS, linkage: str = "average"
    ) -> "ClassTree":
        """The tree of these embeddings.

        Args:
            embeddings: (N, dimension), any float dtype; they are normalised here.
            labels: class ids, integers (N,) or (N, 1).
            levels: L, at least 1. Defaults to 16, as published.
            linkage: which distance of two nodes decides: `"average"` or `"single"`, as in
                `merge_nodes`. Defaults to `"average"`, the class distance as it is defined, taken
                between groups; single linkage chains: one pair of close classes joins two groups.

        Raises:
            ValueError: embeddings or labels of other shapes or dtypes, NaN, infinity or an
                embedding of zeros, no class of two images, unknown linkage, no level.
        """
        levels = checked_levels(levels, linkage)
        class_ids, means, counts = class_means(embeddings, labels)
        spreads = class_spreads(means, counts)
        thresholds = level_thresholds(spreads, counts, levels)
        nodes = merge_nodes(means, thresholds, linkage)
        return cls(class_ids, nodes, thresholds, spreads, means.astype(np.float32))

    @property
    def levels(self) -> int:
        """L, the number of levels above level 0."""
        return len(self.thresholds) - 1

    def __repr__(self) -> str:
        return (
            f"<ClassTree of {len(self.class_ids)} classes; nodes at levels 0 to {self.levels}: "
            f"{', '.join(map(str, self.num_nodes()))}>"
        )

    def num_nodes(self) -> list[int]:
        """How many nodes there are at each level: a list of L + 1 numbers, the last one 1."""
        return [int(number) for number in self.nodes.max(axis=0) + 1]

    def merge_levels(self, p: Any, q: Any) -> np.ndarray:
        """The first level at which two classes share a node; 0 … L.

        Args:
            p, q: class ids, any shapes that broadcast.

        Returns:
            int64 of the broadcast shape; 0 for a class and itself.

        Raises:
            ValueError: a class that is not in the tree.
        """
        # nodes only grow, so the levels at which two classes differ are the lowest ones
        return np.sum(self.nodes[self._positions(p)] != self.nodes[self._positions(q)], axis=-1)

    def distances(self, p: Any, q: Any) -> np.ndarray:
        """Distance in the tree, d_H(p, q) = d_l at the first level l that two classes share.

        Args:
            p, q: class ids, any shapes that broadcast.

        Returns:
            float64 of the broadcast shape, from d_0 to 4.
        """
        return self.thresholds[self.merge_levels(p, q)]

    def nearest(self, number: int) -> np.ndarray:
        """The nearest classes of every class, by d and not by the level.

        Distances are equal if they are to 6 decimals: more would be the rounding of the means.

        Args:
            number: how many, below the number of classes.

        Returns:
            class ids, int64 (C, number), from near to far.

        Raises:
            ValueError: there are not so many other classes, or the tree has no means.
        """
        if self.means is None:
            raise ValueError(
                "Expected a tree with class means. Received: one that was read from the "
                "configuration of a loss, which keeps the levels only. Build it anew or load it"
            )
        num_classes = len(self.class_ids)
        if not 0 <= number < num_classes:
            raise ValueError(
                f"Expected a number of nearest classes below {num_classes}, the classes of the "
                f"tree. Received: {number}"
            )
        positions = np.empty((num_classes, number), np.int64)
        means = self.means.astype(np.float64)
        for start in range(0, num_classes if number else 0, BLOCK):
            distances = rounded_distances(means[start : start + BLOCK], means, decimals=6)
            rows = np.arange(len(distances))
            distances[rows, start + rows] = np.inf
            # equally near ones in the order of their ids, at the last place that is left too
            last = np.partition(distances, number - 1)[:, number - 1 : number]
            closer, tied = distances < last, distances == last
            places = number - closer.sum(axis=1, keepdims=True)
            chosen = closer | (tied & (np.cumsum(tied, axis=1, dtype=np.int32) <= places))
            near = np.nonzero(chosen)[1].reshape(len(rows), number)
            order = np.argsort(np.take_along_axis(distances, near, 1), kind="stable")
            positions[start : start + BLOCK] = np.take_along_axis(near, order, 1)
        return self.class_ids[positions]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the tree as an .npz file, whole or not at all."""
        with whole_file(_npz(path)) as temporary, open(temporary, "wb") as file:
            arrays = {name: getattr(self, name) for name in self.__dataclass_fields__}
            np.savez(file, **{name: array for name, array in arrays.items() if array is not None})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ClassTree":
        """The tree that `save` wrote.

        Raises:
            ValueError: a file of something else.
        """
        with open(_npz(path), "rb") as file:
            # np.load reads other files too, and its errors speak of pickles
            if not zipfile.is_zipfile(file):
                raise ValueError(
                    f"Expected a saved ClassTree. {path} is no .npz file, or is cut off"
                )
            file.seek(0)
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    names = [name for name in cls.__dataclass_fields__ if name in arrays.files]
                    content = {name: arrays[name] for name in names}
            except (ValueError, zipfile.BadZipFile) as error:
                raise ValueError(
                    f"Expected a saved ClassTree. {path} is damaged: {error}"
                ) from None
        missing = {"class_ids", "nodes", "thresholds", "spreads"} - set(content)
        if missing:
            raise ValueError(f"Expected a saved ClassTree. {path} lacks {sorted(missing)}")
        return cls(**content)

    def get_config(self) -> dict[str, Any]:
        """The levels without the means, in terms that JSON can hold."""
        names = ("class_ids", "nodes", "thresholds", "spreads")
        return {name: getattr(self, name).tolist() for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ClassTree":
        """The tree of a `get_config`, without means."""
        return cls(
            np.asarray(config["class_ids"], np.int64),
            np.asarray(config["nodes"], np.int32).reshape(len(config["class_ids"]), -1),
            np.asarray(config["thresholds"], np.float64),
            np.asarray(config["spreads"], np.float64),
        )

    def draw(
        self, path: str | os.PathLike, class_names: Mapping[int, Any] | Sequence[Any] | None = None
    ) -> None:
        """Draws the tree, a row for each class, and writes the picture whole or not at all.

        A dot is the spread of a class; lines join where classes come to share a node.

        Args:
            path: image file, such as "class_tree.png".
            class_names: names by class id: a dict, or, where no id is negative, any sequence of
                which entry i names class i, such as `images.class_names` of an ImageList. Defaults
                to None: the ids.

        Raises:
            ValueError: a class without a name.
        """
        names = [str(class_id) for class_id in self.class_ids]
        if class_names is not None:
            # a list would take -1 for its last entry
            if self.class_ids[0] < 0 and not isinstance(class_names, Mapping):
                raise ValueError(
                    f"Expected a dict of names: class id {names[0]} is negative and no position. "
                    f"Received: {type(class_names).__name__} of {len(class_names)} names"
                )
            try:
                names = [str(class_names[class_id]) for class_id in self.class_ids.tolist()]
            except (KeyError, IndexError):
                raise ValueError(
                    f"Expected a name for each class id, {names[0]} to {names[-1]}, as a dict or "
                    f"by position. Received: {len(class_names)} names"
                ) from None
        figure = draw_levels(self.nodes, self.thresholds, self.spreads, names)
        with whole_file(path) as temporary:
            figure.savefig(temporary)

    def _positions(self, class_ids):
        class_ids = np.asarray(class_ids)
        positions = np.searchsorted(self.class_ids, class_ids).clip(max=len(self.class_ids) - 1)
        unknown = self.class_ids[positions] != class_ids
        if np.any(unknown):
            raise ValueError(
                f"Class {class_ids[unknown].flat[0]} is not in the tree of {len(self.class_ids)} "
                "classes. Build the tree from images of all classes"
            )
        return positions


def _npz(path):
    path = Path(path)
    return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")

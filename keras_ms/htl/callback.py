"""A callback that builds the class tree anew while a model trains."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_ms.arguments import class_ids, is_endless, reads_once, type_in_words, whole_number
from keras_ms.evaluation.embed import embed_batches
from keras_ms.htl.class_tree import ClassTree
from keras_ms.htl.hierarchy import LEVELS, checked_levels
from keras_ms.htl.loss import HierarchicalTripletLoss

if TYPE_CHECKING:
    from keras_ms.htl.batches import NeighbourIndices

MARGINS = ("latest", "first")


class RebuildClassTree(keras.callbacks.Callback):
    """Builds the class tree from the training embeddings before every epoch of `fit`.

    The embeddings move, and with them which classes are close. Before an epoch begins this embeds
    all training images with the current weights, builds a `keras_ms.ClassTree`, and hands it to
    the loss, whose compiled step then takes its margins, and to the order of the batches. For a
    tree every N steps make an epoch N steps long. It costs a pass of all training images through
    the model.

    The tree depends on the weights and the images alone: training that was interrupted and goes on
    from an epoch's weights (`fit(..., initial_epoch=k)`) takes the same steps as if it had not
    been, where the tree is built every epoch. With `margins="first"` a model that goes on with
    nothing but its weights has to get the first tree back before,
    `loss.assign_tree(ClassTree.load("…/first_class_tree.npz"))`; a saved model keeps it.

    Reference: Ge, Huang, Dong, Scott: Deep Metric Learning with Hierarchical Triplet Loss, ECCV
    2018.

    Relations: of the callbacks here the one that changes what is trained. `ClassTree.build` makes a
    tree once, which `HierarchicalTripletLoss.assign_tree` and `NeighbourIndices` take by hand; this
    renews it as the embeddings move.

    Args:
        loss: `keras_ms.HierarchicalTripletLoss` that the model is compiled with (after
            `keras.saving.load_model`, the model's `loss`), or None where the tree is for the
            batches only.
        images: all training images as `keras.Model.predict` takes them, in the order of `labels`:
            an array, or a finite dataset of (images) or (images, labels) that does not shuffle,
            such as `keras_ms.data.images.evaluation_batches`.
        labels: their class ids, integers (N,) or (N, 1).
        order: `keras_ms.NeighbourIndices` of the `neighbour_batches` that the model is trained
            on. Epoch k begins at its step k * steps_per_epoch: a second `fit` without
            `initial_epoch` takes the anchors of the first once more. Defaults to None: the batches
            do not depend on the tree.
        levels: levels of the tree. Defaults to None: those of the tree that the loss has, or 16,
            as published.
        linkage: "average" or "single", as in `ClassTree.build`. Defaults to "average".
        margins: `"latest"`, the loss takes its margins from every tree, as published; or `"first"`,
            it keeps those of the tree that it has already, or else of the first one, and only
            `order` follows the later ones. Margins of later trees grow with the distances that the
            training makes (docs/hierarchical_triplet.md). Defaults to "latest".
        every: epochs from one tree to the next; the first epoch of a `fit` always builds one.
            Defaults to 1, as published.
        folder: where each tree is kept as class_tree.npz, in place of the one before. With
            `margins="first"` the one that the loss takes is kept as first_class_tree.npz too; a
            tree that it had already is not. Defaults to None: nowhere.
        batch_size: images embedded at a time where they are an array. Defaults to 64.
        embedder: model that embeds the images, where that is not the one that is trained. Defaults
            to None: the trained model.
        verbose: 1 prints a line for each tree. Defaults to 0.

    Attributes:
        tree: the tree of now; None before the first epoch.

    Raises:
        ValueError: another loss, images without an end or that can be read once, labels that are
            not integer ids, a setting out of range, other levels than those of the tree that the
            loss has; in `fit`, another number of embeddings than labels, embeddings with NaN, an
            order of other classes; with `margins="first"` a later epoch and a loss that has no
            tree, or a second model.

    Example:

    >>> images, labels = np.random.rand(24, 8), np.repeat(range(6), 4)
    >>> loss = keras_ms.HierarchicalTripletLoss()
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model.compile("adam", loss=loss)
    >>> rebuild = RebuildClassTree(loss, images, labels)
    >>> history = model.fit(images, labels, callbacks=[rebuild], verbose=0)
    >>> rebuild.tree.nodes.shape
    (6, 17)
    """

    def __init__(
        self,
        loss: HierarchicalTripletLoss | None,
        images: Any,
        labels: Any,
        order: "NeighbourIndices | None" = None,
        *,
        levels: int | None = None,
        linkage: str = "average",
        margins: str = "latest",
        every: int = 1,
        folder: str | Path | None = None,
        batch_size: int = 64,
        embedder: keras.Model | None = None,
        verbose: int = 0,
    ):
        super().__init__()
        if loss is not None and not isinstance(loss, HierarchicalTripletLoss):
            raise ValueError(
                "Expected `loss` to be a keras_ms.HierarchicalTripletLoss, or None where the tree "
                f"is for the batches only. Received: {loss!r}"
            )
        if keras.backend.backend() == "jax" and loss is not None:
            raise ValueError(
                "RebuildClassTree changes the margins of a step that is compiled already, which "
                "Keras's JAX backend does not see. Use the TensorFlow or torch backend"
            )
        if embedder is not None and not isinstance(embedder, keras.Model):
            raise ValueError(
                f"Expected `embedder` as a keras.Model, or None. Received: {embedder!r}"
            )
        if margins not in MARGINS:
            raise ValueError(
                f"Invalid value for argument `margins`. Expected one of {MARGINS}. "
                f"Received: margins={margins!r}"
            )
        if reads_once(images):
            raise ValueError(
                "Expected `images` that can be read again, for the tree of each epoch. Received a "
                f"{type_in_words(images)}, which can be read once: give an array or a "
                "tf.data.Dataset, such as keras_ms.data.images.evaluation_batches"
            )
        if is_endless(images):
            raise ValueError(
                "Expected `images` to end: a tree is built from each training image once. "
                "Received a dataset that repeats forever, as batches for training do. "
                "keras_ms.data.images.evaluation_batches gives each image once, in order"
            )
        self.loss = loss
        self.margins = margins
        self.images = images
        self.labels = class_ids(labels)
        self.order = order
        self.levels = _levels_of(loss, levels, linkage)
        self.linkage = linkage
        self.every = whole_number("every", every)
        self.folder = None if folder is None else Path(folder)
        self.batch_size = whole_number("batch_size", batch_size)
        self.embedder = embedder
        self.verbose = verbose
        self.tree = None
        self._is_first = True
        self._gave_first_tree = False
        if loss is not None and loss.tree is None:
            # Keras traces the loss before it calls any callback
            loss.expect_tree(len(np.unique(self.labels)), self.levels)

    def set_model(self, model: keras.Model) -> None:
        # with the latest margins nothing is left of a model: the first epoch builds a new tree
        if self._gave_first_tree and self.embedder is None and model is not self.model:
            raise ValueError(
                "RebuildClassTree gave the loss the first class tree of another model, and "
                "margins='first' keeps it. Make a new loss and new callbacks for each model"
            )
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._is_first = True

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch and self.margins == "first" and self.loss is not None and self.loss.tree is None:
            raise ValueError(
                f"Expected the loss to have its first tree before epoch {epoch + 1}: with "
                "margins='first' another one would change what is trained. Give it the tree that "
                "the training began with, loss.assign_tree(keras_ms.ClassTree.load("
                "'…/first_class_tree.npz')), or begin anew"
            )
        if self._is_first or epoch % self.every == 0:
            self.rebuild()
            self._is_first = False
            if self.verbose:
                print(f"\nclass tree before epoch {epoch + 1}: {self.tree!r}")
        if self.order is not None:
            self.order.follow(self.tree, first_step=epoch * self.order.steps_per_epoch)

    def rebuild(self) -> None:
        """Builds the tree of the current weights, keeps it and hands it to the loss."""
        model: Any = self.model if self.embedder is None else self.embedder
        # a dataset has its own batches, and Keras refuses a size beside them
        size = self.batch_size if hasattr(self.images, "shape") else None
        embeddings = embed_batches(model, self.images, batch_size=size)
        if len(embeddings) != len(self.labels):
            raise ValueError(
                f"Expected one embedding for each of {len(self.labels)} labels. Received: "
                f"{len(embeddings)}. `images` must hold what `labels` does, once and in the same "
                "order"
            )
        self.tree = ClassTree.build(embeddings, self.labels, self.levels, self.linkage)
        if self.loss is not None and (self.margins == "latest" or self.loss.tree is None):
            self._gave_first_tree = self.margins == "first"
            self.loss.assign_tree(self.tree)
            if self.folder is not None and self.margins == "first":
                self.tree.save(self.folder / "first_class_tree.npz")
        if self.folder is not None:
            self.tree.save(self.folder / "class_tree.npz")


def _levels_of(loss, levels, linkage):
    known = None if loss is None or loss.tree is None else loss.tree.levels
    levels = checked_levels(levels if levels is not None else known or LEVELS, linkage)
    if known not in (None, levels):
        raise ValueError(
            f"Expected `levels` of {known}, as the tree that the loss has: its compiled step "
            f"depends on them. Received: levels={levels}. Leave it unset, or make a new loss"
        )
    return levels

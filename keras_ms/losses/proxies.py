"""Proxy losses: every class has a trained vector, and images are compared with those alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_ms.arguments import Tensor, real_number, whole_number
from keras_ms.pairs import replicas
from keras_ms.pairs.class_ids import check_range, checked_class_ids
from keras_ms.pairs.keras_mask import mask_of
from keras_ms.pairs.reductions import log_one_plus_sum_exp, reduced_of_none
from keras_ms.pairs.unit_vectors import cast_for_loss, normalised_rows, refuse_complex

# Labels reach a loss as float32, whose integers are exact up to here.
_MOST_CLASSES = 2**24


def proxy_nca(similarity: Tensor, own: Tensor, scale: float = 1.0) -> Tensor:
    """The Proxy-NCA loss of every image.

    L_i = -log(e^{-scale d(x_i, p_y)} / sum_{c != y} e^{-scale d(x_i, p_c)}), where the squared
    distance d of unit vectors is 2 - 2 S, so that the constants cancel.

    Args:
        similarity: (batch, classes), cosine similarity of images and proxies.
        own: (batch, classes) bool, one True a row: the image's class.
        scale: as in `ProxyNCALoss`.

    Returns:
        (batch,), same dtype as the similarities. Negative where the own proxy is near enough.
    """
    to_own = ops.sum(ops.where(own, similarity, ops.zeros_like(similarity)), axis=1, keepdims=True)
    nearer = 2.0 * scale * (similarity - to_own)
    return ops.logsumexp(ops.where(own, ops.full_like(nearer, -1e30), nearer), axis=1)


def proxy_anchor(
    similarity: Tensor, own: Tensor, alpha: float = 32.0, margin: float = 0.1
) -> Tensor:
    """The Proxy-Anchor loss of a batch, shared out among its images.

    L = 1/|C+| sum_{C+} log(1 + sum_{x in c} e^{-alpha (S_xc - margin)})
        + 1/|C| sum_C log(1 + sum_{x not in c} e^{alpha (S_xc + margin)}), C+ the classes of the
    batch. Each image gets an equal share of its class's term in the first sum, and all get the
    same share of the second, so that the mean over the batch is L.

    Args:
        similarity: (batch, classes), cosine similarity of images and proxies.
        own: (batch, classes) bool, one True a row: the image's class.
        alpha, margin: as in `ProxyAnchorLoss`.

    Returns:
        (batch,), same dtype as the similarities.
    """
    of_class, anchors = ops.transpose(own), ops.transpose(similarity)
    pull = log_one_plus_sum_exp(-alpha * (anchors - margin), of_class)[:, 0]
    push = log_one_plus_sum_exp(alpha * (anchors + margin), ops.logical_not(of_class))[:, 0]

    own = ops.cast(own, similarity.dtype)
    images_of_class = ops.sum(own, axis=0)
    num_present = ops.sum(ops.cast(images_of_class > 0, own.dtype))
    batch_size = ops.cast(ops.shape(similarity)[0], own.dtype)
    # absent classes have the term 0, so what it is divided by does not matter
    share = batch_size / (ops.maximum(images_of_class, 1.0) * ops.maximum(num_present, 1.0))
    return ops.matmul(own, pull * share) + ops.mean(push)


@keras.saving.register_keras_serializable(package="keras_ms")
class Proxies(keras.layers.Layer):
    """Compares embeddings with one trained vector a class: their cosine similarities.

    The layer stands after the embedder while training, with a proxy loss: comparisons grow with
    batch times classes and need no sampling of pairs. To deploy, take the embedder alone; for
    Recall@K while training, `RecallAtK(dataset, embedder=embedder)`.

    Reference: Movshovitz-Attias et al.: No Fuss Distance Metric Learning using Proxies, ICCV 2017;
    Kim, Kim, Cho, Kwak: Proxy Anchor Loss for Deep Metric Learning, CVPR 2020.

    Relations: a layer, trained with `ProxyNCALoss` or `ProxyAnchorLoss`. Take proxies where batches
    cannot hold several images of a class, and where there is room for a vector a class; pair-based
    losses have no weights of their own and know no number of classes. `keras_ms.CrossBatchMemory`
    compares a batch with past images instead.

    Args:
        num_classes: number of training classes, 1 to 2**24.
        initializer: Keras initializer of the proxies, (num_classes, dimension). Only their
            directions count, but the longer a vector, the slower it turns. Defaults to "he_normal",
            that of Proxy-Anchor's published code.
        name: name of the layer. Defaults to "proxies".
        dtype: "float32" or "float64", whatever the precision of the model. Defaults to "float32".
        **options: as in `keras.layers.Layer`.

    Inputs: embeddings, (batch, dimension), any float dtype, any length: embeddings and proxies are
    L2-normalised here. Output: (batch, num_classes), of the layer's dtype, within [-1, 1].

    Raises:
        ValueError: a number of classes out of range, a dtype of low precision, or embeddings that
            are not (batch, dimension).

    Example, with the proxies' rate 100 times the embedder's, as published for Proxy-Anchor:

    >>> embedder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = keras.Sequential([embedder, Proxies(num_classes=10)])
    >>> factors = [1.0] * len(embedder.trainable_variables) + [100.0]
    >>> model.compile(keras_ms.GroupedAdam(1e-4, factors), loss=ProxyAnchorLoss())
    >>> images, labels = np.random.rand(20, 8), np.arange(20) % 10
    >>> history = model.fit(images, labels, verbose=0)
    >>> embedder.predict(images, verbose=0).shape
    (20, 4)
    """

    def __init__(
        self,
        num_classes: int,
        initializer: Any = "he_normal",
        *,
        name: str = "proxies",
        dtype: str = "float32",
        **options: Any,
    ):
        # the cast of embeddings is the layer's own, for its gradient
        super().__init__(name=name, dtype=dtype, autocast=False, **options)
        _check_precision(self.dtype_policy)
        self.num_classes = whole_number("num_classes", num_classes, most=_MOST_CLASSES)
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 2 or input_shape[1] is None:
            raise ValueError(
                "Expected embeddings of shape (batch, dimension) with a known dimension. Received: "
                f"shape={tuple(input_shape)}"
            )
        self.proxies = self.add_weight(
            name="proxies",
            shape=(self.num_classes, input_shape[1]),
            initializer=self.initializer,
        )

    def call(self, embeddings: Tensor) -> Tensor:
        rows = normalised_rows(cast_for_loss(embeddings, self.compute_dtype))
        return ops.matmul(rows, ops.transpose(normalised_rows(self.proxies)))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        return (input_shape[0], self.num_classes)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "initializer": keras.initializers.serialize(self.initializer),
        }


class ProxyLoss(keras.losses.Loss):
    """Computes a loss of labels and the similarities that `Proxies` gives.

    Args:
        image_loss: function `(similarity, own) -> (batch,)` of the similarities (batch, classes)
            and the bool matrix of each image's class.
        whole_batch: whether the loss of an image depends on other images of the batch. Defaults to
            False.
        reduction: as in `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`, the mean.
        name: name of the loss.
        dtype: "float32" or "float64", whatever the model's precision. Defaults to "float32".

    Labels are checked before anything is computed. An id that no proxy has raises an error, a
    ValueError eagerly and tf.errors.InvalidArgumentError in a graph, in `fit` and `evaluate` and on
    several replicas too. Where the step is compiled with XLA or by JAX, which know no errors, the
    image's value is NaN instead; the gradient leaves the weights finite.

    Under tf.distribute loss and gradient are those of one device on the global batch.
    """

    def __init__(
        self,
        image_loss: Callable,
        *,
        whole_batch: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
    ):
        policy = keras.dtype_policies.get(dtype or "float32")
        _check_precision(policy)
        super().__init__(name=name, reduction=reduction, dtype=policy.compute_dtype)
        self._image_loss = image_loss
        self._whole_batch = whole_batch

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        if not hasattr(y_pred, "shape"):  # nested lists: Keras would take them for many outputs
            y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        if len(y_pred.shape) != 2:
            raise ValueError(
                "Expected similarities of shape (batch, classes), the output of `Proxies`. "
                f"Received: shape={tuple(y_pred.shape)}"
            )
        refuse_complex(y_pred)
        labels = check_range(checked_class_ids(y_true, y_pred), y_pred.shape[1])
        value = reduced_of_none(super().__call__(labels, y_pred, sample_weight), self.reduction)
        mask = mask_of(y_pred)
        item_weights = ops.ones_like(y_pred[:, 0]) if mask is None else mask
        item_weights = ops.cast(item_weights, self.dtype)
        return replicas.as_on_one_device(value, self.reduction, item_weights, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        labels = ops.reshape(y_true, (-1, 1))
        if replicas.is_empty_batch(y_pred):
            return ops.sum(y_pred, axis=-1)
        if not self._whole_batch or replicas.num_replicas() == 1:
            return self._losses(labels, y_pred)
        batch = replicas.gather(y_pred, labels)
        # gathering forgets the number of classes
        similarity = ops.reshape(batch.embeddings, (-1, y_pred.shape[1]))
        losses = self._losses(batch.keys, similarity)
        return ops.slice(losses, (batch.offset,), ops.shape(labels)[:1])

    def _losses(self, labels, similarity):
        classes = ops.arange(similarity.shape[1], dtype=self.dtype)
        own = ops.equal(labels, ops.expand_dims(classes, 0))
        losses = self._image_loss(similarity, own)
        # of an unknown label in a program that cannot raise errors
        return ops.where(ops.any(own, axis=1), losses, ops.full_like(losses, float("nan")))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="keras_ms")
class ProxyNCALoss(ProxyLoss):
    """Computes the Proxy-NCA loss from labels and the output of `keras_ms.Proxies`.

    It draws each image to its class's proxy and away from all others, each image by itself.

    Reference: Movshovitz-Attias et al.: No Fuss Distance Metric Learning using Proxies, ICCV
    2017. As there, the own proxy is not in the denominator, so that the loss may be negative.

    Relations: each image counts by itself, as in a softmax classifier, so that any batch will do;
    `ProxyAnchorLoss` weighs the images of a batch against each other, and is never negative.
    `keras_ms.SupervisedContrastiveLoss` is a softmax over images in place of proxies.

    Args:
        scale: factor of the squared distances, > 0. Defaults to 1, the published formula; the
            distances of unit vectors are at most 4, so that larger values sharpen the softmax.
        name, **options: `reduction` and `dtype` as in `ProxyLoss`.

    Inputs:
        y_true: class ids 0 to num_classes - 1, (batch,) or (batch, 1), any integer dtype.
        y_pred: similarities (batch, num_classes), at least two classes.

    Corner cases: a label that is no class is an error or, compiled, NaN, as in `ProxyLoss`.

    Raises:
        ValueError: settings out of range, one class only, wrong shapes, unknown labels.

    Example:

    >>> loss = ProxyNCALoss()
    >>> round(float(loss([0, 1], [[0.9, 0.1], [0.2, 0.4]])), 6)
    -1.0
    """

    def __init__(self, scale: float = 1.0, *, name: str = "proxy_nca", **options: Any):
        self.scale = real_number("scale", scale, above=0)
        super().__init__(partial(proxy_nca, scale=self.scale), name=name, **options)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if y_pred.shape[1] < 2:
            raise ValueError(
                "Proxy-NCA compares an image with the proxies of other classes and needs two at "
                f"least. Received: similarities of shape {tuple(y_pred.shape)}"
            )
        return super().call(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="keras_ms")
class ProxyAnchorLoss(ProxyLoss):
    """Computes the Proxy-Anchor loss from labels and the output of `keras_ms.Proxies`.

    Each proxy is an anchor that draws the images of its class and pushes all others, the hard
    ones most: as in pair-based losses, images of a batch are weighed against each other.

    Reference: Kim, Kim, Cho, Kwak: Proxy Anchor Loss for Deep Metric Learning, CVPR 2020, Eq. 4.
    There the proxies train at 100 times the learning rate; `keras_ms.Proxies` shows how.

    Relations: `keras_ms.MultiSimilarityLoss` weighs pairs in the same form, a logarithm of a sum
    for each kind, with images for anchors; here the proxies are the anchors, and nothing is mined.
    `ProxyNCALoss` takes each image by itself.

    Args:
        alpha: scale of the similarities, > 0. Defaults to 32, the paper's value.
        margin: delta in the paper: how far the similarity to the own proxy is to stand above 0,
            and that to others below. Defaults to 0.1, the paper's value.
        name, **options: `reduction` and `dtype` as in `ProxyLoss`.

    Inputs:
        y_true: class ids 0 to num_classes - 1, (batch,) or (batch, 1), any integer dtype.
        y_pred: similarities (batch, num_classes).

    The published loss is one number for a batch. Each image gets a share of it, so that their
    mean is that number. With sample weights, the term of a class is multiplied by the mean weight
    of its images in the batch, and the push term by the mean weight of the batch; an image of
    weight 0 still counts within the terms of others. Under tf.distribute the batch is that of all
    replicas.

    Corner cases: a label that is no class is an error or, compiled, NaN, as in `ProxyLoss`. A class
    that is not in the batch has a push term only; with one class in all, there is nothing to push.

    Raises:
        ValueError: settings out of range, wrong shapes, unknown labels.

    Example:

    >>> loss = ProxyAnchorLoss()
    >>> round(float(loss([0, 1], [[0.9, 0.1], [0.2, 0.4]])), 6)
    8.000898
    """

    def __init__(
        self,
        alpha: float = 32.0,
        margin: float = 0.1,
        *,
        name: str = "proxy_anchor",
        **options: Any,
    ):
        self.alpha = real_number("alpha", alpha, above=0)
        self.margin = real_number("margin", margin)
        super().__init__(
            partial(proxy_anchor, alpha=self.alpha, margin=self.margin),
            whole_batch=True,
            name=name,
            **options,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha, "margin": self.margin}


def _check_precision(policy):
    if policy.compute_dtype not in ("float32", "float64"):
        raise ValueError(
            "Proxies are compared in float32 or float64; embeddings of any float dtype are cast "
            f"first. Received: dtype={policy.name!r}. Leave `dtype` unset"
        )

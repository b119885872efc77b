"""A head's start, learning rate and interpolation, chosen by folds over the training classes.

On cached features a head trains in seconds, so every training class can be held out once: a choice
by a few held-out classes follows their chance.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_ms.callbacks.interpolate_weights import interpolated
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.models.head_start import STARTS, head_axes
from keras_ms.run.choice import MeasuredWeights, WeightsChoice, best_of

# eighths: measuring one costs a product of the held-out features with the head
ALPHAS = tuple(number / 8 for number in range(9))
# learning rates of Adam that are tried: the lower one suits features that are good already
RATES = (1e-4, 5e-4)
NUM_FOLDS = 3

# of one head: (alpha, {K: recall}), alphas in ascending order
AlphaRecalls = list[tuple[float, dict[int, float]]]


def class_folds(
    labels: np.ndarray, seed: int, groups: np.ndarray | None = None
) -> list[np.ndarray]:
    """Divides the classes at random: 3 folds, or 2 of less than 9 classes.

    Args:
        labels: class ids (N,).
        seed: of the division.
        groups: (N,) the group of each image's class; a group is held out as a whole. Defaults to
            None: each class is one.

    Returns:
        List of bool arrays (N,): the images held out in each fold; empty for less than 4 classes of
        2 images, which cannot train and test both, and for groups that leave a fold one class to
        do either with.
    """
    classes, counts = np.unique(labels, return_counts=True)
    # a class of one image has nothing to find
    searched = np.isin(labels, classes[counts >= 2])
    units = labels if groups is None else np.asarray(groups)
    divided = np.random.default_rng(seed).permutation(np.unique(units[searched]))
    parts = np.array_split(divided, NUM_FOLDS if len(divided) >= 9 else 2)
    folds = [searched & np.isin(units, part) for part in parts]
    # a class has nothing to be told from alone
    least = min(len(np.unique(labels[rows])) for fold in folds for rows in (fold, ~fold & searched))
    return folds if least >= 2 else []


class HeadFolds:
    """Trains a head for each fold, start and learning rate, and measures it at each alpha.

    Args:
        features: float32 (views, N, channels) pooled features of the training images; view 0 is the
            plain image, which is evaluated.
        labels: class ids (N,).
        folds: of `class_folds`.
        embedding_size: dimensions.
        loss: Keras loss.
        normalize: whether the loss takes embeddings of norm 1.
        optimizer: function of a learning-rate schedule that returns an optimizer.
        schedule: the schedule at a learning rate of 1: a number, or a Keras schedule.
        batches: function (features, labels) that returns endless batches.
        steps: training steps.
        starts, rates: what is tried.
        alphas: shares of the trained weights that are measured, 0 and 1 among them.
        random_start: function that returns the kernel (channels, embedding_size) of the starts that
            are not computed from the features.
        ks: the K of Recall@K.
    """

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        folds: Sequence[np.ndarray],
        *,
        embedding_size: int,
        loss: Any,
        normalize: bool,
        optimizer: Callable[[Any], keras.optimizers.Optimizer],
        schedule: Any,
        batches: Callable[[np.ndarray, np.ndarray], Any],
        steps: int,
        starts: Sequence[str],
        rates: Sequence[float],
        alphas: Sequence[float],
        random_start: Callable[[str], np.ndarray],
        ks: Sequence[int],
    ):
        self.features, self.labels, self.folds = features, labels, folds
        self.starts, self.rates, self.alphas = starts, rates, alphas
        self._steps, self._batches, self._ks = steps, batches, ks
        self._random_start = random_start
        self._start_weights: dict[tuple[int, str], Any] = {}  # (kernel, bias) by fold and start
        inputs = keras.Input((features.shape[-1],))
        self._layer: Any = layers.Dense(embedding_size, dtype="float32", name="embedding")
        outputs = self._layer(inputs)
        if normalize:
            outputs = layers.UnitNormalization(dtype="float32")(outputs)
        self._model: Any = keras.Model(inputs, outputs)
        scaled = _Scaled(schedule)
        head_optimizer = optimizer(scaled)
        # JAX's step reads no other variables than the model's and the optimizer's
        self._rate = scaled.rate = head_optimizer.add_variable(
            (), "ones", dtype="float32", name="rate"
        )
        self._model.compile(
            head_optimizer, loss, jit_compile=keras.backend.backend() == "jax",
            auto_scale_loss=False,  # all is float32; a scale of 0 would be left by the reset below
        )  # fmt: skip

    def trainings(self) -> list[tuple[int, str, float]]:
        """(fold, start, rate) of every training, in the order in which they are done."""
        return [
            (fold, start, rate)
            for fold in range(len(self.folds))
            for start in self.starts
            for rate in self.rates
        ]

    def pooled_features(self) -> dict[int, float]:
        """Recall@K of the features themselves, by K."""
        return self._mean(
            [self._recalls(self.features[0][held_out], held_out) for held_out in self.folds]
        )

    def measure(self, fold: int, start: str, rate: float) -> AlphaRecalls:
        """Trains one head and returns [(alpha, {K: recall})] on the fold's held-out classes."""
        held_out = self.folds[fold]
        if (fold, start) not in self._start_weights:  # the axes are the same for every rate
            self._start_weights[fold, start] = self._start(start, ~held_out)
        begin = self._start_weights[fold, start]
        self._layer.kernel.assign(begin[0])
        self._layer.bias.assign(begin[1])
        optimizer = self._model.optimizer
        if not optimizer.built:
            optimizer.build(self._model.trainable_variables)
        for variable in optimizer.variables:
            variable.assign(ops.zeros(variable.shape, variable.dtype))
        self._rate.assign(rate)
        features = self.features[:, ~held_out]
        source = features if len(features) > 1 else features[0]
        self._model.fit(
            self._batches(source, self.labels[~held_out]),
            steps_per_epoch=self._steps, epochs=1, shuffle=False, verbose=0,
        )  # fmt: skip
        end = [np.asarray(ops.convert_to_numpy(v)) for v in (self._layer.kernel, self._layer.bias)]
        recalls = []
        for alpha in self.alphas:
            kernel, bias = (interpolated(s, e, alpha) for s, e in zip(begin, end))
            recalls.append(
                (alpha, self._recalls(self.features[0][held_out] @ kernel + bias, held_out))
            )
        return recalls

    def choice(self, measured: Mapping[tuple[int, str, float], AlphaRecalls]) -> WeightsChoice:
        """The `WeightsChoice` by what was measured.

        Args:
            measured: dict from (fold, start, rate) to what `measure` returned.
        """
        candidates = []
        for start in self.starts:
            for rate in self.rates:
                by_fold = [measured[fold, start, rate] for fold in range(len(self.folds))]
                for alpha in self.alphas:
                    recall = self._mean([dict(x)[alpha] for x in by_fold])
                    candidates.append(MeasuredWeights(self._steps, alpha, recall, start, rate))
        count = len(np.unique(self.labels))
        by = f"{len(self.folds)} folds over {count} training classes"
        return WeightsChoice(by, candidates, best_of(candidates), self.pooled_features())

    def _start(self, start, rows):
        size = self._layer.units
        if start in STARTS:
            return head_axes(self.features[0][rows], self.labels[rows], size, start)
        return self._random_start(start), np.zeros(size, "float32")

    def _recalls(self, embeddings, held_out):
        if not np.isfinite(embeddings).all():
            return dict.fromkeys(self._ks, float("nan"))
        return dict(recall_at_k(embeddings, self.labels[held_out], self._ks))

    def _mean(self, recalls):
        """The mean over all images of the folds, each searched within its own."""
        weights = [held_out.sum() for held_out in self.folds]
        return {k: float(np.average([r[k] for r in recalls], weights=weights)) for k in self._ks}


class _Scaled(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule times a variable, which changes without compiling anew."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule
        self.rate: Any = None

    def __call__(self, step: Any) -> Any:
        factor: Any = self.schedule(step) if callable(self.schedule) else self.schedule
        return factor * ops.convert_to_tensor(self.rate)

    def get_config(self):
        return {"schedule": self.schedule, "rate": float(self.rate)}

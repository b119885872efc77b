"""Weights between those that training began with and those that it ended with."""

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_ms.callbacks.keep_best_weights import KeepBestWeights
from keras_ms.callbacks.kept_weights import weights_of_file
from keras_ms.callbacks.one_model import check_same_model, embedder_of
from keras_ms.callbacks.recall_at_k import RecallAtK
from keras_ms.callbacks.training_steps import optimizer_steps
from keras_ms.models.saved_files import write_weights


class Candidate(NamedTuple):
    """Weights that could be kept, and what they reach.

    Attributes:
        step: training steps done when the trained weights were taken.
        alpha: share of the trained weights, 0 (the start) to 1 (the weights of `step`).
        recalls: as `keras_ms.recall_at_k` returned them.
    """

    step: int
    alpha: float
    recalls: Any


class InterpolateWeights(keras.callbacks.Callback):
    """After training, keeps the best weights between the start and the trained ones.

        w(α) = (1 − α) · start + α · trained

    A pretrained network knows more than the training classes can teach: trained on few of them, it
    gets better at these and worse at all others. Weights on the way back often beat both ends on
    classes that were not trained on (Wortsman et al., Robust Fine-Tuning of Zero-Shot Models, CVPR
    2022), and with α = 0 among the candidates training cannot make the model worse on the images it
    is chosen by. Each α of the grid is measured on the images of a `RecallAtK`, and the step whose
    weights a `KeepBestWeights` has kept is a candidate too; the model ends with the best of all. Of
    equals the smallest α is kept.

    Put it behind both in the list of callbacks. A model that trains its `embedder`, such
    as `keras_ms.CrossBatchMemory` and `keras_ms.HDML`, has that interpolated, and a `RecallAtK`
    with an `embedder` of its own has that one.

    Relations: `KeepBestWeights` alone costs no pass at the end: take it for a network from scratch,
    whose start knows nothing, and both for a pretrained one. `keras_ms.WithAveragedWeights`
    averages over the last steps, this between the first and the last.

    Args:
        recall: the `keras_ms.RecallAtK` of the same `fit`, on held-out classes.
        alphas: shares of the trained weights to measure, from 0 to 1. Defaults to the quarters:
            each costs one pass over the images of `recall`, and recall changes slowly with α.
        best: the `keras_ms.KeepBestWeights` of `recall`, whose step can be chosen. Defaults to
            None: none of the steps on the way can.
        start_path: file, ending in ".weights.h5", that keeps the start: a run that was interrupted
            and is continued finds it there. A file that is there is always taken: remove that of
            an earlier run to start anew. Defaults to None: in memory.
        verbose: 1 prints a line for each candidate. Defaults to 0.

    Attributes:
        candidates: list of `Candidate`, what was measured; empty before the end of training.
        chosen: the `Candidate` that the model ended with.

    Raises:
        ValueError: a `recall` or `best` of another kind, an α outside 0..1, another ending of
            `start_path`, a `best` of another `recall` or one that restores weights itself; in
            `fit`, another model than the one whose start it holds and, after the first epoch: batch
            normalisation whose statistics move (they belong to the weights they were gathered with,
            and mean nothing in between), or any other variable that changes without being
            trained.

    Example:
        >>> images = np.random.rand(16, 8).astype("float32")
        >>> labels = np.repeat([0, 1, 2, 3], 4)
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile("adam", loss=MultiSimilarityLoss())
        >>> recall = RecallAtK((images, labels), ks=(1, 2))
        >>> best = KeepBestWeights(recall)
        >>> between = InterpolateWeights(recall, best=best)
        >>> history = model.fit(images, labels, callbacks=[recall, best, between], verbose=0)
        >>> between.chosen.recalls[1] == max(each.recalls[1] for each in between.candidates)
        True
    """

    # set by Keras before training begins
    model: Any

    def __init__(
        self,
        recall: RecallAtK,
        alphas: Iterable[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        *,
        best: KeepBestWeights | None = None,
        start_path: str | Path | None = None,
        verbose: int = 0,
    ):
        super().__init__()
        if not isinstance(recall, RecallAtK):
            raise ValueError(
                "Expected `recall` as the keras_ms.RecallAtK that measures in the same fit. "
                f"Received: {recall!r}"
            )
        if best is not None and not isinstance(best, KeepBestWeights):
            raise ValueError(
                "Expected `best` as the keras_ms.KeepBestWeights of `recall`, or None. Received: "
                f"{best!r}"
            )
        self.recall = recall
        self.best = recall.keeper if best is None else best
        self.alphas = checked_alphas(alphas)
        if start_path is not None and not str(start_path).endswith(".weights.h5"):
            raise ValueError(
                f"Expected a `start_path` that ends in '.weights.h5'. Received: {start_path}"
            )
        if self.best is not None and self.best.recall is not recall:
            raise ValueError(
                "Expected `best` to keep the best weights by the same `recall`. Received the "
                "KeepBestWeights of another RecallAtK"
            )
        if self.best is not None and self.best.restore:
            raise ValueError(
                "InterpolateWeights ends with the best of all weights, the best step's included. "
                "Received a KeepBestWeights that restores them, which would set them first: leave "
                "restore=True out (restore_best_weights=True of a RecallAtK)"
            )
        self.start_path = None if start_path is None else Path(start_path)
        self.verbose = verbose
        self.candidates: list[Candidate] = []
        self.chosen: Candidate | None = None
        self._start: list[np.ndarray] = []
        self._awaits_first_epoch = False
        self._checked = False

    def set_model(self, model: keras.Model) -> None:
        if self._start and self.model is not None:
            before, now = embedder_of(self.recall, self.model), embedder_of(self.recall, model)
            check_same_model(self, before, now, "the start of training")
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._awaits_first_epoch = True

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._awaits_first_epoch:
            return
        # not before: callbacks that restore a model do so when training begins
        self._awaits_first_epoch = False
        if self._start:
            return
        is_there = self.start_path is not None and self.start_path.is_file()
        now = _values(self._embedder)
        self.keep_start()
        if epoch and not is_there:
            warnings.warn(
                f"InterpolateWeights: fit begins at epoch {epoch + 1}, and the weights that "
                "training began with are not known: those of now are taken for the start. Give a "
                "`start_path` from the first fit on, which keeps them for a fit that is continued.",
                stacklevel=2,
            )
        is_new = not epoch and not optimizer_steps(self.model)
        if is_there and is_new and not _are_same(now, self._start):
            warnings.warn(
                f"InterpolateWeights: fit begins anew, and the start is that of an earlier run, "
                f"from {self.start_path}. Remove the file to start with the weights of now.",
                stacklevel=2,
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._checked:
            self._check_nothing_else_moved()
            self._checked = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.choose()

    def keep_start(self) -> None:
        """Takes the weights of `start_path`, or the current ones, as the start; once."""
        if self._start:
            return
        if self.start_path is None:
            self._start = _values(self._embedder)
        elif self.start_path.is_file():
            with weights_of_file(self._embedder, self.start_path):
                self._start = _values(self._embedder)
        else:
            write_weights(self._embedder, self.start_path)
            self._start = _values(self._embedder)

    def choose(self, known: Mapping[float, Any] | None = None) -> Candidate:
        """Measures every candidate and leaves the model with the best one.

        `fit` does so at its end. Where training is over already, call it with the trained weights
        in the model.

        Args:
            known: {alpha: recalls} of what is measured already. Defaults to None: nothing. `fit`
                takes nothing for known: a callback before this one may have set other weights.

        Returns:
            The chosen `Candidate`.
        """
        self.keep_start()
        self._check_nothing_else_moved()
        end = _values(self._embedder)
        step = self.recall.step
        known = known or {}
        candidates = []
        for alpha in self.alphas:
            self._set(alpha, end)
            candidates.append(Candidate(step, alpha, known.get(alpha) or self.recall.recalls()))
            self._tell(candidates[-1])
        chosen = max(candidates, key=self._value)  # of equals the first, the smallest alpha
        best, best_step = self.best, self._best_step()
        if best and best_step and self._value(best_step) > self._value(chosen):
            chosen = best_step
            candidates.append(chosen)
            self._tell(chosen)
            best.load()
        else:
            self._set(chosen.alpha, end)
        self.candidates, self.chosen = candidates, chosen
        if self.verbose:
            print(f"kept: step {chosen.step}, alpha {chosen.alpha:g}")
        return chosen

    def take(self, alpha: float) -> None:
        """Leaves the model with the weights at `alpha` between the start and its current ones."""
        self.keep_start()
        self._check_nothing_else_moved()
        self._set(alpha, _values(self._embedder))

    def _set(self, alpha, end):
        for variable, s, e in zip(self._embedder.variables, self._start, end):
            variable.assign(interpolated(s, e, alpha))

    @property
    def _embedder(self):
        return embedder_of(self.recall, self.model)

    @property
    def _k(self):
        return self.recall.ks[0]

    def _value(self, candidate):
        value = candidate.recalls[self._k]
        return -1.0 if math.isnan(value) else value

    def _best_step(self):
        """The best step on the way as a `Candidate`; None where its weights are not kept."""
        step, value = self.recall.best_step, self.recall.best_value
        if self.best is None or not self.best.has_weights or step is None or value is None:
            return None
        measured = (r for s, r in self.recall.history if (s, r[self._k]) == (step, value))
        return Candidate(step, 1.0, next(measured, {self._k: value}))

    def _tell(self, candidate):
        if self.verbose:
            recall = candidate.recalls[self._k]
            at = f"step {candidate.step}, alpha {candidate.alpha:g}"
            print(f"{at}: recall@{self._k} {recall:.4f}")

    def _check_nothing_else_moved(self):
        model = self._embedder
        trained = {id(variable) for variable in model.trainable_variables}
        for variable, before in zip(model.variables, self._start):
            if id(variable) in trained or not _is_float(variable):
                continue
            if not np.array_equal(before, _numpy(variable), equal_nan=True):
                raise ValueError(
                    f"InterpolateWeights: {variable.path} changed although it is not trained. "
                    "Statistics that training gathers, as batch normalisation does, belong to the "
                    "weights they were gathered with; between two sets of weights they mean "
                    "nothing. Build the embedder with frozen_batch_norm=True, or leave "
                    "InterpolateWeights out."
                )


def interpolated(start: np.ndarray, end: np.ndarray, alpha: float) -> np.ndarray:
    """(1 − alpha) · start + alpha · end, in float64 and rounded back; 0 and 1 are exact.

    Args:
        start, end: arrays of one shape and dtype.
        alpha: 0 to 1.

    Returns:
        Array of the same dtype. What is no float is that of `end`.
    """
    if alpha == 1.0 or not _is_float(end):
        return end
    if alpha == 0.0:
        return start
    mixed = (1.0 - alpha) * start.astype("float64") + alpha * end.astype("float64")
    return mixed.astype(start.dtype)


def checked_alphas(alphas: Iterable[float]) -> tuple[float, ...]:
    """The shares as a tuple of floats in ascending order, else a ValueError."""
    try:
        checked = tuple(sorted({float(alpha) for alpha in alphas}))
    except (TypeError, ValueError):
        checked = ()
    if not checked or not (0.0 <= checked[0] and checked[-1] <= 1.0):
        raise ValueError(
            f"Expected `alphas` as numbers from 0 to 1, such as (0, 0.5, 1). Received: {alphas!r}"
        )
    return checked


def _values(model):
    return [_numpy(variable) for variable in model.variables]


def _are_same(values, others):
    return all(np.array_equal(a, b, equal_nan=_is_float(a)) for a, b in zip(values, others))


def _numpy(variable):
    # a copy: some backends hand out a view of the variable's own memory
    return np.array(ops.convert_to_numpy(variable))


def _is_float(variable):
    return "float" in keras.backend.standardize_dtype(variable.dtype)

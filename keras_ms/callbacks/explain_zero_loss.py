"""A loss of exactly zero, or none at all, explained."""

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

_PAIRS = (
    "Either each batch holds one class only or no class twice ({ways}), or every batch is already "
    "separated by more than epsilon (use more classes per batch or harder ones, raise epsilon, or "
    "stop here)."
)
_TRAINING_WAYS = (
    "use keras_ms.balanced_batches, with at least 2 classes and 2 images per class, and check that "
    "the labels are class ids"
)
_VALIDATION_WAYS = (
    "evaluation_batches gives the images class by class, so that its batches hold one class: "
    "measure the loss on keras_ms.validation_batches, P classes x K images, the same every epoch"
)


class ExplainZeroLoss(keras.callbacks.Callback):
    """Warns once, for each model, of an epoch trained or measured on nothing, and says why.

    A loss of 0 looks like success. With mined pairs it mostly means that no anchor had any pair to
    learn from, so that no weight moved; on validation data, that their batches hold no pairs, and
    a callback that watches `val_loss` then keeps the first epoch for ever. This watches the logs
    for `mined_anchors` (the share of anchors with mined pairs) of 0 or a loss of exactly 0, those
    of validation, of `evaluate` and of every output (`val_loss`, `a_loss`, `val_a_loss` …)
    included, and for a loss of NaN or infinity.

    Relations: it reads the logs and costs nothing: add it to every `fit` with a mined loss, with
    `keras_ms.MinedAnchors` among the metrics. `keras_ms.PairStatistics` measures what is left to
    learn before it is 0.

    Args:
        loss_name: name of the loss in the logs, and the end of the names of several outputs'
            losses. Defaults to "loss".
        mined_name: name of the share of anchors with mined pairs, likewise. Defaults to
            "mined_anchors".

    Example:
        >>> callback = ExplainZeroLoss()
        >>> callback.on_epoch_end(0, {"loss": 0.3, "mined_anchors": 0.8})  # no warning
    """

    # set by Keras before training begins
    model: Any
    params: Any

    def __init__(self, loss_name: str = "loss", mined_name: str = "mined_anchors"):
        super().__init__()
        self.loss_name = loss_name
        self.mined_name = mined_name
        self._explained: set[str] = set()
        self._fits = False

    def set_model(self, model: keras.Model) -> None:
        if model is not self.model:  # what was explained of one model is news of another
            self._explained.clear()
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._fits = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._fits = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs, where = logs or {}, f"In epoch {epoch + 1}"
        self._explain(where, {k: v for k, v in logs.items() if not k.startswith("val_")}, False)
        self._explain(where, {k: v for k, v in logs.items() if k.startswith("val_")}, True)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._fits = self._fits and "epochs" in self.params  # a fit that was interrupted had no end

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        if not self._fits:  # fit puts the same values into the epoch's logs
            self._explain("In evaluate", logs or {}, True)

    def _explain(self, where, logs, is_validation):
        losses = self._named(logs, self.loss_name)
        diverged = [name for name, value in losses.items() if not math.isfinite(value)]
        if diverged:
            # such a loss mines nothing either: that needs no explanation of its own
            self._warn("diverged", f"{where} the loss was {losses[diverged[0]]} ({diverged[0]}). "
                       + self._why_diverged())  # fmt: skip
            return
        mined = self._named(logs, self.mined_name)
        faults = [
            *(f"no anchor had any mined pair ({name} = 0)" for name in mined if mined[name] == 0),
            *(f"the loss was exactly 0 ({name} = 0)" for name in losses if losses[name] == 0),
        ]
        if faults and is_validation:
            self._warn(
                "validation",
                f"{where} {faults[0]}: this says nothing about the model, and a callback that "
                f"watches it keeps the first epoch. {_PAIRS.format(ways=_VALIDATION_WAYS)} "
                "keras_ms.RecallAtK measures the retrieval itself.",
            )
        elif faults:
            self._warn(
                "training",
                f"{where} {faults[0]}: nothing was learned from it. "
                + _PAIRS.format(ways=_TRAINING_WAYS),
            )

    def _named(self, logs, name):
        """The values under this name, the plain ones first, then those of outputs.

        What else a `train_step` logs, such as a kl_loss, may well be 0.
        """
        outputs = getattr(self.model, "output_names", None) or ()
        names = (name, *(f"{output}_{name}" for output in outputs))
        possible = [f"{prefix}{one}" for prefix in ("", "val_") for one in names]
        logged = {one: logs[one] for one in possible if one in logs}
        return {one: float(value) for one, value in logged.items() if np.size(value) == 1}

    def _why_diverged(self):
        variables = self.model.trainable_variables if self.model is not None else []
        broken = [
            v.path for v in variables if not np.isfinite(np.asarray(ops.convert_to_numpy(v))).all()
        ]
        if broken:
            return (
                f"{len(broken)} of {len(variables)} trained variables hold NaN or infinity (the "
                f"first is {broken[0]}): training diverged. Lower the learning rate, clip "
                "gradients, and begin again from weights that are finite."
            )
        return (
            "The weights are finite: look for NaN in the images, a vector of 0 that is divided by "
            "its norm, numbers beyond float16, or class ids without a proxy (labels of num_classes "
            "and more), which are NaN in a step that XLA compiles."
        )

    def _warn(self, kind, words):
        if kind not in self._explained:
            self._explained.add(kind)
            warnings.warn(words, stacklevel=4)

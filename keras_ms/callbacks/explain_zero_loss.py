"""A loss of exactly zero, explained."""

import math
import warnings

import keras


class ExplainZeroLoss(keras.callbacks.Callback):
    """Warns once when an epoch trained on nothing, and says why that happens.

    A loss of 0 looks like success. With mined pairs it mostly means that no anchor had any pair to
    learn from, so that no weight moved. This watches the logs for `mined_anchors` (the share of
    anchors with mined pairs) of 0, or a loss of exactly 0.

    Args:
        loss_name: name of the loss in the logs. Defaults to "loss".
        mined_name: name of the share of anchors with mined pairs. Defaults to "mined_anchors".

    Example:
        >>> callback = ExplainZeroLoss()
        >>> callback.on_epoch_end(0, {"loss": 0.3, "mined_anchors": 0.8})  # no warning
    """

    def __init__(self, loss_name="loss", mined_name="mined_anchors"):
        super().__init__()
        self.loss_name = loss_name
        self.mined_name = mined_name
        self._warned = False

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        # a NaN loss mines nothing either, but says for itself what happened
        if self._warned or math.isnan(logs.get(self.loss_name, 0.0)):
            return
        if logs.get(self.mined_name) == 0:
            found = f"no anchor had any mined pair ({self.mined_name} = 0)"
        elif logs.get(self.loss_name) == 0:
            found = f"the loss was exactly 0 ({self.loss_name} = 0)"
        else:
            return
        self._warned = True
        warnings.warn(
            f"In epoch {epoch + 1} {found}: nothing was learned from it. Either each batch "
            "holds one class only or no class twice (use keras_ms.balanced_batches, with at least "
            "2 classes and 2 images per class, and check that the labels are class ids), or every "
            "batch is already separated by more than epsilon (use more classes per batch or "
            "harder ones, raise epsilon, or stop here).",
            stacklevel=2,
        )

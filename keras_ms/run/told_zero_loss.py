"""What a run says where nothing is left to learn from: a line, in place of a warning in Python."""

from collections.abc import Callable
from typing import Any

from keras_ms.callbacks import ExplainZeroLoss

# the batches of a run hold several images of several classes, so that only one cause is left
_NOTHING_LEFT = (
    "Nothing is left to learn from these batches: their classes lie further apart already than the "
    "loss asks for. Training goes on; more classes, or images that are harder to tell apart, would "
    "give it work"
)


class TellZeroLoss(ExplainZeroLoss):
    """As `ExplainZeroLoss`, in words for the user of a command.

    Args:
        log: function that takes a line of text for the user.
    """

    def __init__(self, log: Callable[[str], Any]):
        super().__init__()
        self._log = log

    def _warn(self, kind, words):
        if kind not in self._explained:
            self._explained.add(kind)
            self._log(_NOTHING_LEFT if kind == "training" else words)

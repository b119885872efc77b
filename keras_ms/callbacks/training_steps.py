"""How many batches a model was trained on: one number that rises, whatever its optimizers count."""

from typing import Any

import keras


class TrainingSteps:
    """Counts the batches of `fit`, those of earlier fits and of a run that is continued included.

    An optimizer counts its updates: fewer than the batches where gradients are accumulated or a
    step of float16 is left out, and none where `train_step` uses others.

    Attributes:
        done: batches trained on.
    """

    def __init__(self):
        self.done = 0
        self._epoch_start = 0
        self._counted_before = 0
        self._seen = 0

    def begin_fit(self, model: keras.Model, epoch: int, steps_per_epoch: int | None) -> None:
        """Takes what is known of the batches before: by this object, the optimizer, the epoch.

        Args:
            model: compiled model, its state restored.
            epoch: number of the epoch that fit begins with.
            steps_per_epoch: batches of an epoch, or None where fit does not know them yet.
        """
        before = epoch * (steps_per_epoch or 0)
        self.done = max(self.done, optimizer_steps(model), before)

    def begin_epoch(self, model: keras.Model) -> None:
        self._epoch_start, self._seen = self.done, 0
        self._counted_before = optimizer_steps(model)

    def see(self, in_epoch: int) -> None:
        """Takes the number of the epoch's batches so far, from a callback that is told of them."""
        self._seen = in_epoch
        self.done = self._epoch_start + in_epoch

    def end_epoch(self, model: keras.Model, steps_per_epoch: int | None) -> None:
        """Counts the epoch's batches; where nobody told them, by the optimizer, at least 1."""
        if not self._seen:
            counted = optimizer_steps(model) - self._counted_before
            self.see(steps_per_epoch or max(counted, 1))


def optimizer_steps(model: Any) -> int:
    """Batches that the model's optimizers know of; 0 without any."""
    optimizers = getattr(model, "optimizers", None) or getattr(model, "optimizer", None)
    inner = [getattr(one, "inner_optimizer", one) for one in keras.tree.flatten(optimizers)]
    return max((_batches(one) for one in inner if hasattr(one, "iterations")), default=0)


def _batches(inner):
    # + 0 reads a mirrored variable
    return int(inner.iterations + 0) * (getattr(inner, "gradient_accumulation_steps", None) or 1)

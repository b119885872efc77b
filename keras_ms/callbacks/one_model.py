"""A callback's measurements and weights belong to one model."""

from typing import Any

import keras


def embedder_of(recall: Any, model: keras.Model) -> Any:
    """What embeds while `model` trains, and is measured and interpolated.

    Args:
        recall: `keras_ms.RecallAtK`, which may have an `embedder` of its own.
        model: the model that is trained; one that trains its `embedder`, such as
            `keras_ms.CrossBatchMemory`, may follow on a training of that by itself.

    Returns:
        keras.Model.
    """
    embedder: Any = recall.embedder or getattr(model, "embedder", model)
    return embedder


def check_same_model(callback: keras.callbacks.Callback, before: Any, now: Any, what: str) -> None:
    """Raises ValueError if what a callback has kept is of another model than the one of now.

    Args:
        callback: the one that keeps something.
        before: the model that it is of; None without any.
        now: the model that it is set to.
        what: it has kept, for the error.
    """
    if before is None or before is now:
        return
    same = " of the same name" if before.name == now.name else ""
    raise ValueError(
        f"{type(callback).__name__} holds {what} of the model {before.name!r}. Received another "
        f"model{same}, {now.name!r}: these callbacks belong to the first one. Make new ones for "
        "each model, as in a loop over folds or seeds"
    )

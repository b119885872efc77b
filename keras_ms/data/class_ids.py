"""Labels that users give: one class id for each image, or an error that says what arrived."""

import numpy as np


def class_ids(labels):
    """Labels as an array of integers (N,), in their own dtype.

    Raises:
        ValueError: another dtype or shape.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            "Expected labels as integers of shape (N,), one class id per image. "
            f"Received: {labels.dtype} of shape {labels.shape}"
        )
    return labels

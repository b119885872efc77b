"""Which training classes are held out to choose by."""

from collections.abc import Sequence

import numpy as np

from keras_ms.data.file_names import some_names

# one class alone is always retrieved, and has nothing to be told from
_LEAST = 2
# of groups; most often the first does
_DRAWS = 50


def classes_to_hold_out(
    classes: np.ndarray,
    names: Sequence[str],
    fraction: float,
    seed: int,
    *,
    whole_groups: bool,
) -> np.ndarray:
    """The ids of some of the classes, drawn at random; at least 2, and at least 2 stay.

    Args:
        classes: ids, sorted.
        names: of these classes.
        fraction: share of the classes, or of their groups, in (0, 1).
        seed: which; the same seed draws the same.
        whole_groups: whether classes are drawn by the part of their names before the last "/".

    Raises:
        ValueError: fewer than 4 classes, or groups that cannot be divided so.

    Example:

    >>> classes_to_hold_out(np.arange(4), ["a/1", "a/2", "b/1", "b/2"], 0.5, 0, whole_groups=True)
    array([2, 3])
    """
    if len(classes) < 2 * _LEAST:
        raise ValueError(
            "Expected at least 4 training classes to hold some out (2 to train on, 2 to validate "
            f"on). Received: {len(classes)}. Use a fraction of 0 (--validation-fraction 0)"
        )
    random = np.random.default_rng(seed)
    if not whole_groups:
        count = min(max(_LEAST, round(fraction * len(classes))), len(classes) - _LEAST)
        return random.choice(classes, count, replace=False)
    return classes[_of_some_groups(names, fraction, random)]


def _of_some_groups(names, fraction, random):
    group_of = np.array([name.rpartition("/")[0] for name in names])
    groups = np.unique(group_of)
    if len(groups) < 2:
        raise ValueError(
            "Expected class names of at least 2 groups, such as Greek/alpha and Latin/a. "
            f"Received: {some_names(names)}"
        )
    count = min(max(1, round(fraction * len(groups))), len(groups) - 1)
    # as many as asked for; if no such draw leaves classes on either side, more, then fewer
    for size in (*range(count, len(groups)), *range(count - 1, 0, -1)):
        for _ in range(_DRAWS):
            is_held = np.isin(group_of, random.choice(groups, size, replace=False))
            if min(is_held.sum(), (~is_held).sum()) >= _LEAST:
                return is_held
    raise ValueError(
        "Expected groups of classes that leave 2 classes to train on and 2 to validate on. "
        f"Received: {len(groups)} groups of {len(names)} classes, {some_names(groups.tolist())}. "
        "Hold out classes of any group (--no-validation-groups)"
    )

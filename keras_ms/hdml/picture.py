"""The hardness of HDML's synthetic negatives over time, as a picture."""

import os
from typing import Any

from keras_ms.files import whole_file

# what is drawn: name in the history, label, line style; colours that the colour-blind tell apart
_SIMILARITIES = (
    ("negative_similarity", "real", "tab:blue"),
    ("hardened_similarity", "moved", "tab:olive"),
    ("synthetic_similarity", "moved, generated and embedded again", "tab:orange"),
)
_SHARES = (
    ("lambda", "λ: 1 leaves negatives where they are", "tab:olive"),
    ("synthetic_share", "share of the synthetic loss", "tab:orange"),
)


def draw_hardness(history: Any, path: str | os.PathLike, title: str | None = None) -> None:
    """Draws how similar anchors and their negatives are, real and synthetic, epoch by epoch.

    Args:
        history: what `fit` of an `keras_ms.hdml.model.HDML` returned, or its dict `history`.
        path: picture to write, by its suffix PNG, SVG or PDF; whole or not at all.
        title: heading. Defaults to None.

    Raises:
        ValueError: a history without HDML's values.

    Example:

    >>> draw_hardness(model.fit(batches, steps_per_epoch=64, epochs=20), "hardness.png")
    """
    from matplotlib.figure import Figure

    values = getattr(history, "history", history)
    missing = [name for name, *_ in (*_SIMILARITIES, *_SHARES) if name not in values]
    if missing:
        raise ValueError(
            "Expected the history of HDML's fit. Received one with "
            f"{', '.join(values) or 'nothing'}, without {', '.join(missing)}"
        )
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes, lines in ((above, _SIMILARITIES), (below, _SHARES)):
        for name, label, colour in lines:
            epochs = range(1, len(values[name]) + 1)
            axes.plot(epochs, values[name], color=colour, label=label, marker=".")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
    above.set_ylabel("cosine similarity of\nanchor and negative")
    below.set_ylim(-0.03, 1.03)
    below.set_xlabel("epoch")
    if title:
        figure.suptitle(title)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)

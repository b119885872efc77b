"""Weight against similarity: what each loss makes of the pairs of one batch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_ms.files import whole_file
from keras_ms.losses.pair_loss import PairLoss
from keras_ms.losses.pair_weights import PairWeights, pair_weights

# the same positive and negative colours as in print: told apart by the colour-blind too
_POSITIVE, _NEGATIVE = "tab:blue", "tab:orange"
_COLUMNS = 4
# more points than these overlap anyway, and make large files of vector formats
_MOST_POINTS = 4000


def example_batch(
    classes_per_batch: int = 16, images_per_class: int = 5, *, dimension: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings as midway in training: classes overlap, in groups of four that look alike.

    Args:
        classes_per_batch, images_per_class: size of the batch. Defaults to 16 and 5, the official
            recipe's.
        dimension: of the embeddings. Defaults to 64.
        seed: whole number.

    Returns:
        `(embeddings, labels)`: float32 (batch, dimension), int64 (batch,). Similarities range from
        about -0.3 to 0.9.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes_per_batch), images_per_class)
    groups = rng.normal(size=(classes_per_batch // 4 + 1, dimension))
    classes = rng.normal(size=(classes_per_batch, dimension))
    spread = rng.uniform(0.3, 1.2, (len(labels), 1))
    noise = spread * rng.normal(size=(len(labels), dimension))
    embeddings = groups[labels // 4] + 0.7 * classes[labels] + noise
    return embeddings.astype(np.float32), labels


def write_weight_picture(
    losses: Mapping[str, PairLoss],
    embeddings: Any,
    labels: Any,
    path: str | Path,
    *,
    title: str | None = None,
) -> dict[str, PairWeights]:
    """Draws the weight of every pair of a batch against its similarity, a panel for each loss.

    Args:
        losses: dict from a name to a `PairLoss`.
        embeddings: (batch, dimension).
        labels: integer class ids, (batch,).
        path: picture to write, by its suffix PNG, SVG or PDF; whole or not at all.
        title: heading of the picture. Defaults to None.

    Returns:
        dict from name to `PairWeights`.

    Raises:
        ValueError: as `pair_weights`; no loss.

    Example:

    >>> weights = write_weight_picture(
    ...     {"MS": keras_ms.MultiSimilarityLoss()}, *example_batch(), "weights.png"
    ... )
    >>> weights["MS"].weights.shape
    (80, 80)
    """
    from matplotlib.figure import Figure

    if not losses:
        raise ValueError("Expected at least one loss. Received: none")
    weights = {name: pair_weights(loss, embeddings, labels) for name, loss in losses.items()}
    rows = -(-len(weights) // _COLUMNS)
    columns = min(_COLUMNS, len(weights))
    figure = Figure(figsize=(3.1 * columns, 2.7 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, pairs) in zip(panels, weights.items()):
        _draw_panel(axes, name, pairs, np.asarray(labels).reshape(-1))
    for axes in panels[len(weights) :]:
        axes.set_axis_off()
    for number, (axes, loss) in enumerate(zip(panels, losses.values())):
        if not getattr(loss, "normalize", True):
            axes.set_xlabel("dot product")
        elif number >= len(weights) - columns:
            axes.set_xlabel("similarity")
    figure.axes[0].set_ylabel("weight / largest weight")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=2, markerscale=4)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return weights


def _draw_panel(axes, name, pairs, labels):
    same = labels[:, None] == labels[None, :]
    other = ~np.eye(len(labels), dtype=bool)
    largest = np.abs(pairs.weights[other]).max(initial=0) or 1.0
    rng = np.random.default_rng(0)
    for mask, colour, kind in (
        (~same, _NEGATIVE, "negative pairs, pushed"),
        (same & other, _POSITIVE, "positive pairs, pulled"),
    ):
        # so that a positive pair that is pulled points up too
        size = (pairs.weights if kind.startswith("neg") else -pairs.weights)[mask] / largest
        drawn = rng.permutation(size.size)[:_MOST_POINTS]
        axes.scatter(
            pairs.similarity[mask][drawn],
            size[drawn],
            s=4,
            alpha=0.5,
            linewidths=0,
            color=colour,
            label=kind,
            rasterized=True,
        )
    weighted = np.count_nonzero(pairs.weights[other]) / np.count_nonzero(other)
    axes.set_title(f"{name}\n{weighted:.0%} of the pairs have a weight", fontsize=9)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.grid(alpha=0.3)


def weight_table(weights: Mapping[str, PairWeights], labels: Any) -> str:
    """What the picture shows, in numbers, as a Markdown table.

    Args:
        weights: dict from name to `PairWeights`, as `write_weight_picture` returns it.
        labels: class ids, (batch,).

    Returns:
        Text with a line for each loss: pairs with a weight per anchor; the similarity of positive
        and negative pairs, averaged by weight, beside the plain average; and the total weight of
        the negatives as a share of all weight.
    """
    labels = np.asarray(labels).reshape(-1)
    same = labels[:, None] == labels[None, :]
    masks = same & ~np.eye(len(labels), dtype=bool), ~same
    lines = [
        "| loss | positives with a weight, per anchor | negatives | similarity of positives, by "
        "weight (all) | of negatives (all) | share of weight on negatives |",
        "|---|---|---|---|---|---|",
    ]
    for name, pairs in weights.items():
        sizes = [np.abs(pairs.weights[mask]) for mask in masks]
        similarities = [pairs.similarity[mask] for mask in masks]
        counts = [np.count_nonzero(size) / len(labels) for size in sizes]
        means = [
            f"{np.average(values, weights=size):.2f} ({values.mean():.2f})" if size.any() else "–"
            for values, size in zip(similarities, sizes)
        ]
        total = sum(size.sum() for size in sizes)
        share = f"{sizes[1].sum() / total:.2f}" if total else "–"
        lines.append(
            f"| {name} | {counts[0]:.1f} | {counts[1]:.1f} | {means[0]} | {means[1]} | {share} |"
        )
    return "\n".join(lines)

"""A picture of classes that merge level by level."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Each class has a row of this height, in inches, so that its name can be read; above so many
# classes the rows shrink, and have no names.
_ROW = 0.16
_NAMED = 400


def draw_levels(
    nodes: np.ndarray, thresholds: np.ndarray, spreads: np.ndarray, names: Sequence[str]
) -> Any:
    """A matplotlib figure: classes on the left, distance to the right, lines where nodes join.

    Args:
        nodes: (C, L + 1) integers, the node of each class at each level; nodes only grow.
        thresholds: (L + 1,), the distance of each level.
        spreads: (C,), drawn as a dot on each class's line.
        names: C strings.

    Returns:
        matplotlib.figure.Figure, 9 inches wide, drawn without a display.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    num_classes = len(nodes)
    # by node from the highest level down: every node is a run of neighbouring rows
    order = np.lexsort(nodes.T)
    figure = Figure(figsize=(9, 1.2 + _ROW * min(num_classes, _NAMED)), layout="constrained")
    axes = figure.add_subplot()
    axes.add_collection(LineCollection(_lines(nodes[order], thresholds), colors="0.35", lw=0.8))
    rows = np.arange(num_classes)
    size = 10 if num_classes <= _NAMED else 2
    axes.scatter(spreads[order], rows, s=size, color="tab:blue", zorder=2, label="spread s_c")
    for threshold in thresholds:
        axes.axvline(threshold, color="0.9", lw=0.5, zorder=0)
    axes.axvline(thresholds[0], color="tab:orange", lw=1, zorder=0, label="d_0, mean spread")
    if num_classes <= _NAMED:
        axes.set_yticks(rows, [names[int(index)] for index in order], fontsize=7)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{num_classes} classes")
    axes.set_xlim(0, thresholds[-1] * 1.02)
    axes.set_ylim(num_classes - 0.5, -0.5)
    axes.set_xlabel("mean squared distance (grey: the levels)")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=7)
    return figure


def _lines(nodes, thresholds):
    """Line segments [(x, y), (x, y)]: along each node to where it joins others, and across."""
    lines = []
    position = np.arange(len(nodes), dtype=float)  # of each current node, at its first class's row
    start = np.zeros(len(nodes))
    current = np.arange(len(nodes))  # first row of each current node
    for level, threshold in enumerate(thresholds):
        _, owner = np.unique(nodes[current, level], return_inverse=True)
        groups = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])
        joined = []
        for group in groups:
            members = current[group]
            first = members[0]
            if len(members) > 1:
                lines += [[(start[m], position[m]), (threshold, position[m])] for m in members]
                ends = position[members].min(), position[members].max()
                lines.append([(threshold, ends[0]), (threshold, ends[1])])
                position[first], start[first] = np.mean(ends), threshold
            joined.append(first)
        current = np.array(joined)
    lines += [[(start[m], position[m]), (thresholds[-1], position[m])] for m in current]
    return lines

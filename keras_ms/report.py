"""Pictures of a run."""

from keras_ms.whole_files import whole_file


def write_curves(rows, path, loss_name):
    """Draws loss and Recall@K against the training step.

    Args:
        rows: history, a list of dicts with "step" and the logged values, as in history.csv.
        path: PNG file to write.
        loss_name: title of the loss's curve.
    """
    # the figure class itself, not pyplot: no window system is touched
    from matplotlib.figure import Figure

    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, recalls = figure.subplots(1, 2)
    losses.plot(steps, [row["loss"] for row in rows], marker=".", color="tab:red")
    losses.set(xlabel="step", ylabel="loss", title=f"Loss: {loss_name} (training classes)")
    losses.set_ylim(bottom=0)
    for name in (name for name in rows[-1] if "recall@" in name):
        recalls.plot(steps, [row[name] for row in rows], marker=".", label=name.replace("_", " "))
    recalls.set(xlabel="step", ylabel="share of queries", title="Recall@K (unseen classes)")
    recalls.set_ylim(0, 1)
    recalls.legend(loc="lower right")
    for axes in (losses, recalls):
        axes.grid(alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)

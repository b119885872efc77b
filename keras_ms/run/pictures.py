"""The pictures in a run folder: curves, the class tree, the hardness of synthetic negatives."""

from collections.abc import Sequence

from keras_ms.hdml.picture import draw_hardness
from keras_ms.htl.class_tree import ClassTree
from keras_ms.report.curves import write_curves
from keras_ms.run.choice import WeightsChoice
from keras_ms.run.closing import StageRecalls
from keras_ms.run.folder import RunFolder
from keras_ms.run.settings import Settings


def write_pictures(
    run: RunFolder,
    settings: Settings,
    *,
    history: Sequence[dict[str, float]],
    choice: WeightsChoice | None,
    recalls: StageRecalls,
    class_names: Sequence[str],
) -> None:
    """Draws what there is to draw of a training that has ended.

    Args:
        run: the run's folder.
        settings: its `Settings`.
        history: a dict of numbers for each epoch.
        choice: what was chosen among what; None where there was nothing to choose.
        recalls: of the stages before training, lines across the curves.
        class_names: names of all classes.

    Raises:
        DamagedFile: the class tree of the last epoch.
    """
    on = "validation" if any("val_" in name for name in history[-1]) else "test"
    series = choice.series() if choice else {}
    write_curves(
        history,
        run.curves_file,
        settings.loss.name.replace("_", " "),
        recall_title=f"Recall@K ({on} classes)",
        lines=_baseline_lines(recalls, on),
        series_lines=_baseline_lines(recalls, "validation"),
        series=series or None,
        chosen=choice.place() if choice and series else None,
    )
    if run.class_tree_file.is_file():
        with run.errors_name_file(run.class_tree_file):
            tree = ClassTree.load(run.class_tree_file)
        tree.draw(run.tree_picture_file, {id_: class_names[id_] for id_ in tree.class_ids.tolist()})
    if settings.hdml.mode != "off":
        # callbacks of the user may add some numbers now and then
        shared = [name for name in history[0] if all(name in row for row in history)]
        draw_hardness({name: [row[name] for row in history] for name in shared}, run.hardness_file)


def _baseline_lines(recalls, classes):
    """Recall@1 before training, by name in words."""
    stages = recalls[classes]
    known = [name for name in stages if name in ("pooled_features", "step_0") and stages[name]]
    return {name.replace("_", " "): stages[name]["1"] for name in known}

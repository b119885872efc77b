"""What the report of a run says about it beside its results: facts, settings, history, pictures."""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from keras_ms.html_report.markup import percent

# they name folders of one computer; the last part says enough
_PATHS = ("data_dir", "test_classes", "weights", "runs_folder", "export_folder", "curriculum")
_LARGEST_PICTURE = 3 * 2**20  # bytes


def run_facts(run, settings, images, embedder, weights):
    """What the run is, text by name.

    Args:
        run: `RunFolder`.
        settings: its `Settings`.
        images: its `ImageList` with all splits.
        embedder: its model.
        weights: which weights that has, in words.
    """
    facts = {
        "Data": f"{images.name}: " + ", ".join(
            f"{split} {classes:,} classes ({count:,} images)"
            for split, (classes, count) in images.counts().items()
        ),
        "Embedder": f"{settings.backbone} at {settings.image_size} px, {settings.embedding_size} "
        f"dimensions, {embedder.count_params():,} parameters"
        + (", backbone frozen" if settings.freeze_backbone else ""),
        "Loss": settings.loss.replace("_", " ") + _in_brackets(settings.loss_options()),
        "Training": f"{settings.steps:,} steps of {settings.classes_per_batch} classes × "
        f"{settings.images_per_class} images, learning rate {settings.learning_rate:g} "
        f"({settings.schedule}), seed {settings.seed}",
        "Weights": weights,
    }
    if settings.hdml != "off":
        facts["Hardness-aware"] = f"as in the {settings.hdml} form" + _in_brackets(
            settings.hdml_options()
        )
    count = settings.neighbour_classes
    batches = f"batches of groups of {count} near classes" if count > 1 else "random classes"
    if run.class_tree.is_file():
        facts["Class tree"] = (
            f"{settings.tree_levels} levels, {settings.tree_linkage} linkage, rebuilt every epoch; "
            f"margins of the {settings.tree_margins} tree; {batches}"
        )
    elif count > 1:
        facts["Near classes"] = f"{batches}, by the embeddings of every epoch"
    if settings.framed_drawings:
        facts["Drawings"] = "cut to a square around the ink"
    if settings.curriculum:
        facts["Curriculum"] = f"in stages, by {Path(settings.curriculum).name}"
    baselines = run.read_json(run.baselines) or {}
    known = [f"{percent(recalls['1'], 1)} {name.replace('_', ' ')}"
             for name, recalls in baselines.items() if recalls]
    if known:
        facts["Recall@1 for comparison"] = ", ".join(known)
    environment = run.read_json(run.path / "environment.json") or {}
    versions = {"Python": environment.get("python"), **environment.get("packages", {})}
    shown = ("Python", "keras_ms", "tensorflow", "keras")
    known = [f"{name} {versions[name]}" for name in shown if versions.get(name)]
    if known:
        facts["Trained with"] = ", ".join(known)
    return facts


def run_pictures(run):
    """The PNG files of the run that the page shows, by title."""
    # Of thousands of classes it is longer than anyone scrolls, and the page has a size to keep to.
    drawn = run.tree_picture.is_file() and run.tree_picture.stat().st_size < _LARGEST_PICTURE
    return {"The class tree before the last epoch": run.tree_picture} if drawn else {}


def _in_brackets(options):
    words = ", ".join(f"{name} {value}" for name, value in options.items())
    return f" ({words})" if words else ""


def shown_settings(settings):
    """The settings without the folders they name, a dict."""
    values = dataclasses.asdict(settings)
    return {name: Path(value).name if name in _PATHS and value else value
            for name, value in values.items()}


def run_history(run):
    """The rows of history.csv as dicts of numbers; none without it."""
    if not run.history.is_file():
        return []
    with open(run.history, newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)]
    return [row for row in rows if np.isfinite(row.get("step", np.nan))]

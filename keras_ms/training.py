"""The training run: settings -> images, model, fit, evaluation, export."""

import functools
import sys
import time
from datetime import datetime
from pathlib import Path

import keras
import numpy as np

from keras_ms.callbacks import ExplainZeroLoss, RecallAtK
from keras_ms.class_tree import ClassTree
from keras_ms.data.damaged_images import naming_damaged
from keras_ms.data.load_images import load_images
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.export.formats import export_formats
from keras_ms.export.parity import import_onnx_package
from keras_ms.models.hdml_picture import draw_hardness
from keras_ms.rebuild_class_tree import RebuildClassTree
from keras_ms.report import write_curves
from keras_ms.run_data import RunData
from keras_ms.run_folder import RunFolder, SaveRun
from keras_ms.run_model import RunModel
from keras_ms.whole_files import check_writable, remove_unfinished, whole_file


def train(settings, resume=None, log=functools.partial(print, flush=True)):
    """Trains an embedder as `settings` say, evaluates it on unseen classes and exports it.

    Best weights are chosen on the validation classes, which are taken from the training classes;
    without validation classes the last weights count. Test classes are only reported.

    Args:
        settings: `Settings`; of a run to resume only `runs_folder` is read, it has its own.
        resume: folder of an interrupted run to continue, "latest", or None. The result is that
            of the uninterrupted run.
        log: function that takes a line of text for the user.

    Returns:
        The summary that is also written to summary.json: a dict with the recalls on the test
        classes before training, of raw pixels, of the last and of the best weights, and where the
        exports are.

    Raises:
        ValueError, OSError: bad data, settings or folders, or a training that diverged; the
            message says what to do.
    """
    if resume:
        run = RunFolder.find(resume, settings.runs_folder)
        settings = run.read_settings()
        log(f"Continuing {run.path}")
    else:
        run = RunFolder(Path(settings.runs_folder) / (settings.run_name or _run_name(settings)))
        run.check_new()
    # what would fail at the end fails now
    if settings.exports():
        check_writable(settings.export_folder)
    if "onnx" in settings.exports():
        for package in ("onnx", "onnxruntime", "tf2onnx"):
            import_onnx_package(package)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(settings.precision)
    try:
        training = _Training(settings, run, log)
        if not resume:
            run.create(settings, training.data.images)
            log(f"Run folder: {run.path}")
        with run.lock():
            try:
                with naming_damaged(training.data.images):
                    return training.finish()
            except KeyboardInterrupt:
                log(f"\nInterrupted. Continue with: train --resume {run.path}")
                raise
    finally:
        keras.config.set_dtype_policy(policy)


class _Training:
    """One run: what the steps of `finish` share."""

    def __init__(self, settings, run, log):
        self.settings, self.run, self.log = settings, run, log
        self.models = RunModel(settings)
        self.ks = settings.recall_ks()
        images = load_images(settings, log)
        self.models.build(images.subset("train").labels)
        self.data = RunData(settings, images, self.models.features_model, log, _verbose())
        self.models.schedule(self.data.stages)  # raises what is wrong with it before the run begins
        parameters, trained = self.models.num_parameters()
        self.log(f"{settings.backbone}: {parameters:,} parameters, {trained:,} trained")

    def finish(self):
        settings, run = self.settings, self.run
        started = time.perf_counter()
        for folder in (run.path, self._export_folder()):
            remove_unfinished(folder)
        validation = self.data.evaluation("validation")
        test = self.data.evaluation("test")
        baselines = run.read_json(run.baselines) or self._baselines(test)
        run.write_json(run.baselines, baselines)

        has_validation = validation is not None
        recall = RecallAtK(
            validation if has_validation else test,
            ks=self.ks,
            images=self.data.images.subset("validation" if has_validation else "test"),
            # without validation classes the curve shows the test classes: reported, not chosen by
            prefix="val_" if has_validation else "test_",
            weights_path=run.best_weights if has_validation else None,
        )
        with self.models.scope():
            self.models.compile(self.data.stages)
            epoch, rows, best = run.restore_state(self.models.model)
            # the margins of its loss are variables too
            tree_callbacks = self._tree_callbacks()
        if best:
            recall.best_value, recall.best_step = best["value"], best["step"]
        epochs = settings.steps // settings.steps_per_epoch
        if epoch < epochs:
            self.log(f"Training: steps {epoch * settings.steps_per_epoch} to {settings.steps}")
            self.models.model.fit(
                self.data.training(start_step=epoch * settings.steps_per_epoch),
                # batches that follow a class tree come an epoch at a time
                steps_per_epoch=None if self.data.order else settings.steps_per_epoch,
                initial_epoch=epoch,
                epochs=epochs,
                shuffle=False,  # the batches come in the sampler's order
                verbose=_verbose(),
                callbacks=[
                    *tree_callbacks,
                    recall,
                    ExplainZeroLoss(),
                    SaveRun(
                        run,
                        settings.steps_per_epoch,
                        rows,
                        lambda: {"value": recall.best_value, "step": recall.best_step},
                    ),
                ],
            )
        self._draw(rows)
        results = self._results(baselines, test, recall if has_validation else None)
        exports = self._exports(results)
        summary = {
            "data": {split: list(count) for split, count in self.data.images.counts().items()},
            "test_recall": results,
            "best_step": recall.best_step if has_validation else None,
            "exports": exports,
            "seconds_of_last_session": round(time.perf_counter() - started, 1),
        }
        run.write_json(run.summary, summary)
        return summary

    def _tree_callbacks(self):
        """What builds the class tree before every epoch, for the loss or the batches."""
        settings, loss, order = self.settings, self.models.loss, self.data.order
        if settings.loss == "hierarchical_triplet":
            if settings.tree_margins == "first" and self.run.first_class_tree.is_file():
                loss.assign_tree(ClassTree.load(self.run.first_class_tree))
            options = {
                "levels": settings.tree_levels,
                "linkage": settings.tree_linkage,
                "margins": settings.tree_margins,
                "folder": self.run.path,
            }
        elif order is not None:
            # the batches ask for the nearest classes alone: no levels, and the faster linkage
            loss, options = None, {"levels": 1, "linkage": "single"}
        else:
            return []
        return [RebuildClassTree(loss, *self.data.plain_training(), order, **options)]

    def _draw(self, rows):
        """The pictures of the run folder."""
        run, settings = self.run, self.settings
        write_curves(rows, run.curves, settings.loss.replace("_", " "))
        if run.class_tree.is_file():
            tree = ClassTree.load(run.class_tree)
            names = self.data.images.class_names
            tree.draw(run.tree_picture, {label: names[label] for label in tree.class_ids.tolist()})
        if settings.hdml != "off":
            draw_hardness({name: [row[name] for row in rows] for name in rows[0]}, run.hardness)

    def _results(self, baselines, test, recall):
        """Test recalls of the last and the best weights; the model ends with those that count."""
        with whole_file(self.run.last_weights) as temporary:
            self.models.model.save_weights(temporary)
        results = {**baselines, "last": self._recalls(test)}
        if recall is not None and recall.best_step is not None:
            self.models.model.load_weights(self.run.best_weights)
            results["best_on_validation"] = self._recalls(test)
        self.log(_table(results, self.ks))
        counted = results["last"] if recall is None else results.get("best_on_validation")
        if counted is None:
            raise ValueError(
                "Training diverged: the embeddings hold NaN or infinity, so there is nothing to "
                f"export. The last weights are in {self.run.last_weights}. Lower the learning "
                "rate, or train in float32"
            )
        return results

    def _exports(self, results):
        with whole_file(self.run.model) as temporary:
            deployed = self.models.save_deployed(temporary)
        data = self.data
        counted = results.get("best_on_validation") or results["last"]
        metadata = {
            "training_data": f"{data.images.name}: {data.num_classes('train')} classes",
            "recall_at_1": f"{counted['1']:.4f} on {data.num_classes('test')} unseen classes",
        }
        if self.settings.framed_drawings:
            metadata["drawings"] = (
                "cut to a square around the ink, as keras_ms.data.omniglot.frame_drawing does"
            )
        return export_formats(
            deployed,
            self._export_folder(),
            self.settings.exports(),
            metadata=metadata,
            log=self.log,
        )

    def _export_folder(self):
        return Path(self.settings.export_folder) / self.run.path.name

    def _baselines(self, test):
        results = {}
        images = self.data.images.subset("test")
        pixels = self.data.raw_pixels()
        if pixels is not None:
            results["raw_pixels"] = self._recalls_of(images, pixels)
        if self.settings.freeze_backbone:
            results["pooled_features"] = self._recalls_of(images, self.data.features(images))
        self.log(f"Embedding {len(images)} test images before training")
        results["before_training"] = self._recalls(test)
        self.log(_table(results, self.ks))
        return results

    def _recalls(self, test):
        """Recall@K by K as text, for JSON; None if the embeddings are not finite."""
        embeddings = self.models.model.predict(test.map(lambda item, label: item), verbose=0)
        if not np.isfinite(embeddings).all():
            return None
        return self._recalls_of(self.data.images.subset("test"), embeddings)

    def _recalls_of(self, images, embeddings):
        return _plain(recall_at_k(**images.retrieval_arguments(embeddings), ks=self.ks))


def _verbose():
    # a moving bar for a terminal, a line an epoch for a log file
    return 1 if sys.stdout.isatty() else 2


def _run_name(settings):
    data = Path(settings.data_dir).resolve().name if settings.data_dir else "glyphs"
    return f"{data}-{settings.backbone}-{datetime.now():%Y%m%d-%H%M%S}"


def _plain(recalls):
    return {str(k): float(value) for k, value in recalls.items()}


def _table(results, ks):
    head = "Recall@K on unseen test classes"
    lines = [f"{head:<34}" + "".join(f"{f'@{k}':>8}" for k in ks)]
    for name, recalls in results.items():
        values = [f"{recalls[str(k)]:8.3f}" if recalls else f"{'NaN':>8}" for k in ks]
        lines.append(f"  {name.replace('_', ' '):<32}" + "".join(values))
    return "\n".join(lines)

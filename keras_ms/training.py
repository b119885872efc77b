"""The training run: settings -> images, model, fit, evaluation, export."""

import functools
import sys
import time
from datetime import datetime
from pathlib import Path

import keras
import numpy as np

from keras_ms.callbacks import ExplainZeroLoss, RecallAtK
from keras_ms.data.augmented_views import augmented_batches
from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.data.distortions import distort
from keras_ms.data.images import evaluation_batches
from keras_ms.data.load_images import load_images
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.export import export_onnx, export_saved_model
from keras_ms.export.parity import import_onnx_package
from keras_ms.features import pooled_features
from keras_ms.losses.mined_anchors import MinedAnchors
from keras_ms.losses.multi_similarity import MultiSimilarityLoss
from keras_ms.models.embedding import build_embedder, split_embedder
from keras_ms.optimizers import GroupedAdam
from keras_ms.report import write_curves
from keras_ms.run_folder import RunFolder, SaveRun
from keras_ms.whole_files import check_writable, whole_file

# Neighbours of raw pixels are looked for at this size (that of the published Omniglot figure
# in the docs) and for at most so many test images.
_PIXELS, _MOST_IMAGES_FOR_PIXELS = 42, 20_000


def train(settings, resume=None, log=functools.partial(print, flush=True)):
    """Trains an embedder as `settings` say, evaluates it on unseen classes and exports it.

    Best weights are chosen on the validation classes, which are taken from the training classes;
    without validation classes the last weights count. Test classes are only reported.

    Args:
        settings: `Settings`; not read when resuming, since the run has its own.
        resume: folder of an interrupted run to continue, "latest", or None. The result is that
            of the uninterrupted run.
        log: function that takes a line of text for the user.

    Returns:
        The summary that is also written to summary.json: a dict with the recalls on the test
        classes before training, of raw pixels, of the last and of the best weights, and where the
        exports are.

    Raises:
        ValueError, OSError: bad data, settings or folders; the message says what to do.
    """
    if resume:
        run = RunFolder.find(resume, settings.runs_folder)
        settings = run.read_settings()
        run.remove_unfinished_files()
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
            run.create(settings)
            log(f"Run folder: {run.path}")
        return training.finish()
    finally:
        keras.config.set_dtype_policy(policy)


class _Training:
    """One run: what the steps of `finish` share."""

    def __init__(self, settings, run, log):
        self.settings, self.run, self.log = settings, run, log
        keras.utils.set_random_seed(settings.seed)
        self.images = load_images(settings, log)
        self.ks = settings.recall_ks()
        # too few classes or images for the batches show now
        balanced_batches(
            self.images.subset("train").labels,
            classes_per_batch=settings.classes_per_batch,
            images_per_class=settings.images_per_class,
        )
        self.embedder = build_embedder(
            settings.backbone,
            embedding_size=settings.embedding_size,
            image_size=settings.image_size,
            weights=settings.weights or None,
            output_layer=settings.output_layer or None,
            pooling=settings.pooling,
            frozen_batch_norm=settings.frozen_batch_norm,
            freeze_backbone=settings.freeze_backbone,
            head_initializer=settings.head_initializer,
            seed=settings.seed,
        )
        features_model, head = split_embedder(self.embedder)
        # what fit trains: the head on cached features, or the whole embedder on images
        self.model = head if settings.freeze_backbone else self.embedder
        self._features_model = features_model
        self.log(
            f"{settings.backbone}: {self.embedder.count_params():,} parameters, "
            f"{sum(int(np.prod(v.shape)) for v in self.model.trainable_variables):,} trained"
        )

    def finish(self):
        settings, run = self.settings, self.run
        started = time.perf_counter()
        validation = self._evaluation("validation")
        test = self._evaluation("test")
        baselines = run.read_json(run.baselines) or self._baselines(test)
        run.write_json(run.baselines, baselines)

        has_validation = validation is not None
        recall = RecallAtK(
            validation if has_validation else test,
            ks=self.ks,
            # without validation classes the curve shows the test classes: reported, not chosen by
            prefix="val_" if has_validation else "test_",
            weights_path=run.best_weights if has_validation else None,
        )
        self.model.compile(
            optimizer=self._optimizer(),
            loss=MultiSimilarityLoss(
                settings.alpha, settings.beta, settings.threshold, settings.epsilon
            ),
            metrics=[MinedAnchors(epsilon=settings.epsilon)],
            # XLA for the whole network was slower on CPUs; the loss compiles its own part
            jit_compile=False,
        )
        epoch, rows, best = run.restore_state(self.model)
        if best:
            recall.best_value, recall.best_step = best["value"], best["step"]
        epochs = settings.steps // settings.steps_per_epoch
        if epoch < epochs:
            self.log(f"Training: steps {epoch * settings.steps_per_epoch} to {settings.steps}")
            self.model.fit(
                self._training_batches(start_step=epoch * settings.steps_per_epoch),
                steps_per_epoch=settings.steps_per_epoch,
                initial_epoch=epoch,
                epochs=epochs,
                shuffle=False,  # the batches come in the sampler's order
                verbose=_verbose(),
                callbacks=[
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
        write_curves(rows, run.curves)
        return self._report(baselines, test, recall if has_validation else None, started)

    def _report(self, baselines, test, recall, started):
        settings, run = self.settings, self.run
        results = {**baselines, "last": self._recalls(test)}
        with whole_file(run.last_weights) as temporary:
            self.model.save_weights(temporary)
        if recall is not None:
            self.model.load_weights(run.best_weights)
            results["best_on_validation"] = self._recalls(test)
        chosen = results["last" if recall is None else "best_on_validation"]
        # a model of its own: without the optimizer's state, which is twice the weights
        deployed = keras.Model(self.embedder.inputs, self.embedder.outputs, name="embedder")
        with whole_file(run.model) as temporary:
            deployed.save(temporary)
        self.log(_table(results, self.ks))

        exports = {}
        metadata = {
            "training_data": f"{self.images.name}: {len(self._classes('train'))} classes",
            "recall_at_1": f"{chosen['1']:.4f} on {len(self._classes('test'))} unseen classes",
        }
        folder = Path(settings.export_folder) / run.path.name
        for kind, export, name in (
            ("saved_model", export_saved_model, "saved_model"),
            ("onnx", export_onnx, "embedder.onnx"),
        ):
            if kind in settings.exports():
                difference = export(deployed, folder / name, metadata=metadata)
                exports[kind] = {"path": str(folder / name), "max_difference": difference}
                self.log(f"{folder / name}: differs from the model by at most {difference:.1e}")
        summary = {
            "data": {split: list(count) for split, count in self.images.counts().items()},
            "test_recall": results,
            "best_step": None if recall is None else recall.best_step,
            "exports": exports,
            "seconds_of_last_session": round(time.perf_counter() - started, 1),
        }
        run.write_json(run.summary, summary)
        return summary

    def _classes(self, split):
        return np.unique(self.images.labels[self.images.split == split])

    def _evaluation(self, split):
        """Batches of what the trained model takes, with labels; None for a split without images."""
        if not (self.images.split == split).any():
            return None
        images = self.images.subset(split)
        if not self.settings.freeze_backbone:
            return self._plain_batches(images)
        import tensorflow as tf

        pairs = (self._features(images), images.labels)
        return tf.data.Dataset.from_tensor_slices(pairs).batch(1024)

    def _plain_batches(self, images):
        settings = self.settings
        return evaluation_batches(
            images,
            settings.image_size,
            resize_to=self._resize_to(),
            batch_size=settings.evaluation_batch_size,
        )

    def _resize_to(self):
        settings = self.settings
        if settings.resize_to:
            return settings.resize_to
        # characters fill their image; of photos the border is cut, as in the official recipe
        photos = self.images.images is None
        return round(settings.image_size * 256 / 227) if photos else settings.image_size

    def _features(self, images, view=0):
        """Pooled features of the plain images (view 0) or of a random training view."""
        settings = self.settings
        size, resize_to = settings.image_size, self._resize_to()
        if view == 0:
            shown = {"plain": [size, resize_to]}

            def batches():
                return self._plain_batches(images).map(lambda image, label: image)
        else:
            shown = {"view": [size, view, settings.seed, self._augmentation(images),
                              settings.crop_scale]}

            def batches():
                return augmented_batches(
                    images,
                    size,
                    seed=(settings.seed, view),
                    batch_size=settings.evaluation_batch_size,
                    **self._view_options(images),
                )

        return pooled_features(
            self._features_model,
            images,
            shown,
            batches,
            Path(settings.runs_folder) / "features",
            log=self.log,
            verbose=_verbose(),
        )

    def _augmentation(self, images):
        if self.settings.augmentation != "auto":
            return self.settings.augmentation
        if images.images is None:
            return "crop"
        return "none" if images.name == "glyphs" else "distort"

    def _view_options(self, images):
        augmentation = self._augmentation(images)
        return {
            "crop_scale": (self.settings.crop_scale, 1.0) if augmentation == "crop" else None,
            "flip": augmentation == "crop",
            "distort": distort if augmentation == "distort" else None,
        }

    def _training_batches(self, start_step):
        settings = self.settings
        images = self.images.subset("train")
        sampling = {
            "classes_per_batch": settings.classes_per_batch,
            "images_per_class": settings.images_per_class,
            "seed": settings.seed,
            "start_step": start_step,
        }
        if settings.freeze_backbone:
            features = [self._features(images, view) for view in range(settings.feature_views)]
            features = np.stack(features) if len(features) > 1 else features[0]
            return balanced_batches((features, images.labels), **sampling)
        return balanced_batches(
            images, image_size=settings.image_size, **self._view_options(images), **sampling
        )

    def _optimizer(self):
        settings = self.settings
        factors = None
        if settings.backbone_learning_rate is not None and not settings.freeze_backbone:
            backbone = {id(v) for v in self.embedder.get_layer("backbone").trainable_variables}
            factor = settings.backbone_learning_rate / settings.learning_rate
            factors = [
                factor if id(v) in backbone else 1.0 for v in self.model.trainable_variables
            ]
        return GroupedAdam(_schedule(settings), factors, coupled_l2=settings.coupled_l2)

    def _baselines(self, test):
        results = {}
        images = self.images.subset("test")
        if len(images) <= _MOST_IMAGES_FOR_PIXELS:
            size = min(_PIXELS, self.settings.image_size)
            pixels = [batch.numpy() for batch, _ in evaluation_batches(images, size, cache=False)]
            pixels = np.concatenate(pixels).reshape(len(images), -1)
            # each about its own mean: else the white of the paper makes all images look alike
            pixels -= pixels.mean(axis=1, keepdims=True)
            results["raw_pixels"] = _plain(recall_at_k(pixels, images.labels, ks=self.ks))
        if self.settings.freeze_backbone:
            features = self._features(images)
            results["pooled_features"] = _plain(recall_at_k(features, images.labels, ks=self.ks))
        self.log(f"Embedding {len(images)} test images before training")
        results["before_training"] = self._recalls(test)
        self.log(_table(results, self.ks))
        return results

    def _recalls(self, dataset):
        embeddings = self.model.predict(dataset.map(lambda item, label: item), verbose=0)
        labels = np.concatenate([label.numpy() for _, label in dataset])
        return _plain(recall_at_k(embeddings, labels, ks=self.ks))


def _schedule(settings):
    if settings.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.steps)
    if settings.schedule == "step":
        return keras.optimizers.schedules.PiecewiseConstantDecay(
            [int(0.4 * settings.steps), int(0.8 * settings.steps)],
            [settings.learning_rate * factor for factor in (1.0, 0.1, 0.01)],
        )
    return settings.learning_rate


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
        label = name.replace("_", " ")
        lines.append(f"  {label:<32}" + "".join(f"{recalls[str(k)]:8.3f}" for k in ks))
    return "\n".join(lines)

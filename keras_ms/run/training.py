"""The training run: settings -> images, model, fit, choice, evaluation, export."""

import contextlib
import itertools
import signal
import time
from datetime import datetime
from pathlib import Path

import keras
import numpy as np

from keras_ms.callbacks import ExplainZeroLoss, InterpolateWeights, RecallAtK
from keras_ms.data.damaged_images import naming_damaged
from keras_ms.evaluation.embed import batches_without_labels, embed_batches
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.export import Preprocessing
from keras_ms.export.embedder import embed_images, load_embedder
from keras_ms.export.formats import export_formats
from keras_ms.export.onnx_packages import import_onnx_package
from keras_ms.files import check_writable, remove_unfinished
from keras_ms.hdml.picture import draw_hardness
from keras_ms.htl.callback import RebuildClassTree
from keras_ms.htl.class_tree import ClassTree
from keras_ms.models.head_start import STARTS, initialize_head, usable_starts
from keras_ms.models.saved_files import write_weights
from keras_ms.report.curves import write_curves
from keras_ms.run.choice import Choice, MeasuredWeights, choice_table
from keras_ms.run.closing import closing_table, shortfall
from keras_ms.run.damaged_files import load_weights
from keras_ms.run.data import RunData, shorter_side
from keras_ms.run.folder import RunFolder
from keras_ms.run.head_folds import ALPHAS, RATES, HeadFolds, class_folds
from keras_ms.run.images import load_run_images
from keras_ms.run.model import RunModel
from keras_ms.run.settings.defaults import UNTUNED_HEAD, classes_per_batch, validation_fraction
from keras_ms.run.training_state import SaveRun
from keras_ms.terminal.command_words import RunInterrupted
from keras_ms.terminal.keras_progress import TrainingLines
from keras_ms.terminal.progress import print_line, shown_progress
from keras_ms.terminal.streams import lasting_output


def train(settings, resume=None, log=print_line):
    """Trains an embedder as `settings` say, evaluates it on unseen classes and exports it.

    What counts is chosen without the test classes, which are only reported: with a frozen backbone
    by folds over the training classes, else on validation classes taken from them, among the steps
    measured (the start included) and the weights between the start and the last ones.

    Of two processes that begin a run of one name, one trains and the other is refused before it
    writes anything; without `run_name` each has a name of its own. Output that nobody reads any
    more, because a terminal or a pipe is gone, does not end the training.

    Args:
        settings: `Settings`; of a run to resume only `runs_folder` is read, it has its own.
        resume: folder of an interrupted run to continue, "latest", or None. The result is that
            of the uninterrupted run, bit for bit on one machine with one number of threads.
        log: function that takes a line of text for the user.

    Returns:
        The summary that is also written to summary.json: a dict with the recalls on test and
        validation classes of every stage, what was chosen among what, and where the exports are.

    Raises:
        ValueError, OSError: bad data, settings or folders, or a training that diverged; the
            message says what to do.
        KeyboardInterrupt: as `keras_ms.terminal.command_words.RunInterrupted`, which names the run
            folder.
    """
    with lasting_output(), contextlib.ExitStack() as held:
        if resume:
            run = RunFolder.find(resume, settings.training.runs_folder)
            held.enter_context(run.lock())
            settings = run.read_settings()
            log(f"Continuing {run.path}")
        else:
            run = _claimed_run(settings, held)
        # what would fail at the end fails now
        if settings.export.formats:
            check_writable(settings.export.export_folder)
        if "onnx" in settings.export.formats:
            for package in ("onnx", "onnxruntime", "tf2onnx"):
                import_onnx_package(package)
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(settings.training.precision)
        try:
            training = _Training(settings, run, log)
            images = training.data.images
            if resume:
                run.complete(images)
            else:
                run.create(training.settings, images)
                log(f"Run folder: {run.path}")
            with naming_damaged(images):
                return training.finish()
        except KeyboardInterrupt as interruption:
            if not run.settings.is_file():
                raise
            number = getattr(interruption, "number", signal.SIGINT)
            raise RunInterrupted(run.path, number) from None
        finally:
            keras.config.set_dtype_policy(policy)


def _claimed_run(settings, held):
    """The folder of a new run, this process's alone until `held`, an ExitStack, is closed."""
    name = settings.training.run_name or _run_name(settings)
    for number in itertools.count(1):
        # of runs without a name that begin in the same second each gets one
        run = RunFolder(Path(settings.training.runs_folder) / (name + f"-{number}" * (number > 1)))
        try:
            held.enter_context(run.claim())
            return run
        except (FileExistsError, BlockingIOError):
            if settings.training.run_name:
                raise


class _Training:
    """One run: what the steps of `finish` share."""

    def __init__(self, settings, run, log):
        self.run, self.log = run, log
        self.models = RunModel(settings)
        self.ks = settings.evaluation.ks
        images = load_run_images(settings, log)
        labels = images.subset("train").labels
        # from here on nothing is open but what folds choose, in settings.json too
        settings = settings.with_values(
            classes_per_batch=classes_per_batch(settings, len(np.unique(labels))),
            validation_fraction=validation_fraction(
                settings, len(np.unique(images.labels[images.split != "test"]))
            ),
        )
        self.settings = self.models.settings = settings
        self.models.build(labels)
        verbose = shown_progress()
        self.data = RunData(settings, images, self.models.features_model, log, verbose)
        self.verbose = verbose
        # raises what is wrong with it before the run begins
        self.models.schedule(settings.training.learning_rate or 1.0, self.data.stages)
        parameters, trained = self.models.num_parameters()
        self.log(f"{settings.model.backbone}: {parameters:,} parameters, {trained:,} trained")
        # the features of a network that knows something are what training has to improve on
        self.has_features = bool(settings.model.weights) or settings.model.freeze_backbone

    def finish(self):
        started = time.perf_counter()
        remove_unfinished(self.run.path, alone=True)
        remove_unfinished(self._export_folder())
        choice = self._choose_by_folds() if self.settings.training.tune == "folds" else None
        self._start_head()
        results = self._baselines(choice)
        self.data.release_features()
        recall, between, rows = self._fit()
        results["test"]["last"] = self._recalls("test")
        if choice:
            between.take(choice.chosen.alpha)
        elif self.settings.training.tune == "folds" and self._stays_at_start():
            # nothing could be measured, and the start loses nothing
            between.take(0.0)
            results["test"]["chosen"] = results["test"]["step_0"]
        elif recall.best_step is not None and recall.prefix == "val_":
            choice = self._choose_by_validation(recall, between, rows, results["validation"])
        self._draw(rows, choice, results)
        self._record_chosen(choice, results)
        exports = self._exports(results)
        self.log(closing_table(results, self.ks))
        if results["test"]["last"] is None:
            self.log(
                "Training diverged: its last weights hold NaN or infinity, earlier ones were kept. "
                "Lower the learning rate, or train in float32"
            )
        sentence = shortfall(results)
        if sentence:
            self.log(sentence)
        summary = {
            "data": {split: list(count) for split, count in self.data.images.counts().items()},
            "passed_over": self.data.images.passed_over,
            "test_recall": results["test"],
            "validation_recall": results["validation"],
            "best_step": choice.chosen.step if choice else None,
            "choice": choice.to_json() if choice else None,
            "below_pooled_features": sentence or None,
            "exports": exports,
            "seconds_of_last_session": round(time.perf_counter() - started, 1),
        }
        self.run.write_json(self.run.summary, summary)
        written = [str(self.run.path), *(export["path"] for export in exports.values())]
        self.log("Written: " + ", ".join(written))
        return summary

    def _choose_by_folds(self):
        """The `Choice` of start, learning rate and alpha of the head; the settings follow it."""
        settings, run = self.settings, self.run
        labels = self.data.images.subset("train").labels
        folds = class_folds(labels, settings.training.seed, self._groups(labels))
        if not folds:
            choice = None
            start, rate = UNTUNED_HEAD["head_initializer"], UNTUNED_HEAD["learning_rate"]
            stays = self._stays_at_start()
            self.log(
                "Fewer than 4 training classes of 2 images, or 2 groups of them: none can be held "
                "out to choose by, so "
                + ("the head stays at its start" if stays else "the last weights count")
            )
        elif run.choice.is_file():
            choice = self._read_choice()
        else:
            choice = self._measured_folds(folds, labels)
            run.write_json(run.choice, choice.to_json())
        if choice:
            self.log(choice_table(choice))
            start, rate = choice.chosen.start, choice.chosen.learning_rate
        self.settings = self.models.settings = settings.with_values(
            head_initializer=settings.model.head_initializer or start,
            learning_rate=settings.training.learning_rate or rate,
        )
        return choice

    def _read_choice(self):
        """The `Choice` that an earlier session of the run made."""
        run = self.run
        with run.naming(run.choice):
            choice = Choice.from_json(run.read_json(run.choice))
            # whatever is asked of it later
            for one in (
                choice.at_start(),
                choice.last(self.settings.training.steps),
                *choice.candidates,
            ):
                _ = [one.recall[k] for k in self.ks], f"{one.learning_rate:g} {one.steps:d}"
            return choice

    def _stays_at_start(self):
        """Whether the start is kept where no classes can be held out to choose by."""
        return self.settings.training.interpolate and self.settings.model.head_initializer in (
            None,
            *STARTS,
        )

    def _groups(self, labels):
        """The group of each image's class, where whole groups are held out; else None."""
        images, whole = self.data.images, self.settings.data.validation_groups
        # characters of one alphabet are told apart more easily than those of a new one
        if not (images.name == "omniglot" if whole is None else whole):
            return None
        return np.array([images.class_names[label].rpartition("/")[0] for label in labels])

    def _measured_folds(self, folds, labels):
        settings, run, models = self.settings, self.run, self.models
        given_rate = settings.training.learning_rate
        features = self.data.training_features()
        heads = HeadFolds(
            features,
            labels,
            folds,
            embedding_size=models.embedding_size,
            loss=models.loss,
            normalize=models.loss.normalize,
            optimizer=models.optimizer,
            schedule=models.schedule(1.0),
            batches=self.data.head_batches,
            steps=settings.training.steps,
            starts=self._starts_of_folds(folds),
            rates=RATES if given_rate is None else (given_rate,),
            alphas=ALPHAS if settings.training.interpolate else (0.0, 1.0),
            random_start=lambda start: models.random_head,
            ks=self.ks,
        )
        self.log(
            f"Choosing by {len(folds)} folds over the training classes: "
            f"{len(heads.trainings())} heads of {settings.training.steps} steps"
        )
        # of an interrupted run
        with run.naming(run.folds):
            done = {tuple(key): value for key, value in run.read_json(run.folds) or []}
            for value in done.values():
                _recalls_by_alpha(value)
        measured = {}
        for fold, start, rate in heads.trainings():
            key = fold, start, rate
            known = done.get(key)
            if known is None:
                found = heads.measure(*key)
                done[key] = [[alpha, {str(k): r for k, r in x.items()}] for alpha, x in found]
                run.write_json(run.folds, [[list(key), value] for key, value in done.items()])
                known = done[key]
            measured[key] = _recalls_by_alpha(known)
            trained = [x[1] for _, x in measured[key]]
            self.log(
                f"  fold {fold + 1}, start {start}, learning rate {rate:g}: recall@1 "
                f"{trained[0]:.3f} at the start, {trained[-1]:.3f} trained, {max(trained):.3f} at "
                "best between"
            )
        return heads.choice(measured)

    def _usable_starts(self, rows=slice(None)):
        labels = self.data.images.subset("train").labels[rows]
        features = self.data.features("train")[rows]
        return usable_starts(features, labels, self.models.embedding_size)

    def _starts_of_folds(self, folds):
        """The starts to try: those that the training part of every fold allows."""
        given = self.settings.model.head_initializer
        usable = [self._usable_starts(~held) for held in folds]
        common = tuple(start for start in usable[0] if all(start in x for x in usable))
        common = common or ("orthogonal",)
        if given is None:
            return common
        if given in STARTS and given not in common:
            self.log(
                f"The training classes of a fold do not allow the start {given}: the folds start "
                f"{common[0]}"
            )
            return common[:1]
        return (given,)

    def _start_head(self):
        """A head that begins at the axes of its features gets them."""
        start, run = self.settings.model.head_initializer, self.run
        # what is measured of the start, or kept of it, is there once the state is
        kept = [run.state, run.baselines]
        kept += [run.start_weights] * (
            self.settings.training.interpolate or self.settings.training.tune == "folds"
        )
        if start not in STARTS or all(file.is_file() for file in kept):
            return
        usable = self._usable_starts()
        if start not in usable:
            instead = usable[0] if usable else "orthogonal"
            self.log(
                f"A head of {self.models.embedding_size} dimensions cannot start {start} on these "
                f"features ({self.models.head.input_shape[-1]:,} of an image): it starts {instead}"
            )
            start = instead
        if start in STARTS:
            labels = self.data.images.subset("train").labels
            initialize_head(self.models.embedder, self.data.features("train"), labels, start=start)

    def _baselines(self, choice):
        """Recalls before training: {"validation": {stage: …}, "test": {stage: …}}."""
        run = self.run
        results = run.read_json(run.baselines)
        # a run folder of an earlier version has them without the split
        if results is not None and "test" in results:
            with run.naming(run.baselines):
                closing_table(results, self.ks), shortfall(results)
        else:
            results = {"validation": {}, "test": {}}
            pixels = self.data.raw_pixels()
            if pixels is not None:
                results["test"]["raw_pixels"] = self._recalls_of("test", pixels)
            for split in ("validation", "test"):
                if self.data.num_classes(split):
                    results[split] |= self._before_training(split)
            if choice:
                results["validation"] = {
                    "pooled_features": _plain(choice.pooled_features),
                    "step_0": _plain(choice.at_start().recall),
                }
            run.write_json(run.baselines, results)
            self.log(closing_table(results, self.ks))
        return results

    def _before_training(self, split):
        if not self.has_features:
            return {"step_0": self._recalls(split)}
        features = self.data.features(split)
        embeddings = embed_batches(self.models.head, features, batch_size=1024)
        return {
            "pooled_features": self._recalls_of(split, features),
            "step_0": self._recalls_of(split, embeddings),
        }

    def _fit(self):
        """Trains the rest of the steps.

        Returns:
            The `RecallAtK` of the validation classes, or of the test classes without any; the
            `InterpolateWeights`, or None; the history.
        """
        settings, run = self.settings, self.run
        validation, nothing = self.data.evaluation("validation"), contextlib.nullcontext()
        has_validation = validation is not None
        recall = RecallAtK(
            validation if has_validation else self.data.evaluation("test"),
            ks=self.ks,
            images=self.data.images.subset("validation" if has_validation else "test"),
            # without validation classes the curve shows the test classes: reported, not chosen by
            prefix="val_" if has_validation else "test_",
            weights_path=run.best_weights if has_validation else None,
            at_start=has_validation,
        )
        with self.models.scope():
            self.models.compile(self.data.stages)
            recall.set_model(self.models.model)
            between = None
            # folds choose between the start and the trained weights at least
            if settings.training.interpolate or settings.training.tune == "folds":
                between = InterpolateWeights(recall, start_path=run.start_weights)
                between.set_model(self.models.model)
                with run.naming(run.start_weights) if run.start_weights.is_file() else nothing:
                    between.keep_start()
            story = run.read_story()
            if has_validation and story and story["best"].get("step") is not None:
                # needed at the end, so it is read now; the state replaces what it sets
                load_weights(self.models.model, run.best_weights, run.remedy(run.best_weights))
            epoch, rows, best = run.restore_state(self.models.model)
            if rows:
                # the file of them may have been cut off meanwhile
                run.write_history(rows)
            else:
                run.chosen_weights.unlink(missing_ok=True)
            # the margins of its loss are variables too
            tree_callbacks = self._tree_callbacks()
        if best:
            recall.best_value, recall.best_step = best["value"], best["step"]
        epochs = settings.training.steps // settings.training.steps_per_epoch
        if epoch < epochs:
            done = epoch * settings.training.steps_per_epoch
            self.log(f"Training: steps {done} to {settings.training.steps}")
            lines = [TrainingLines(settings.training.steps, done, log=self.log)]
            self.models.model.fit(
                self.data.training(start_step=done),
                # batches that follow a class tree come an epoch at a time
                steps_per_epoch=None if self.data.order else settings.training.steps_per_epoch,
                initial_epoch=epoch,
                epochs=epochs,
                shuffle=False,  # the batches come in the sampler's order
                verbose=self.verbose,
                callbacks=[
                    *tree_callbacks,
                    recall,
                    *(lines if self.verbose == 2 else ()),
                    ExplainZeroLoss(),
                    SaveRun(
                        run,
                        settings.training.steps_per_epoch,
                        rows,
                        lambda: {"value": recall.best_value, "step": recall.best_step},
                    ),
                ],
            )
        write_weights(self.models.model, run.last_weights)
        return recall, between, rows

    def _tree_callbacks(self):
        """What builds the class tree before every epoch, for the loss or the batches."""
        settings, loss, order = self.settings, self.models.loss, self.data.order
        if settings.loss.name == "hierarchical_triplet":
            if settings.loss.tree_margins == "first" and self.run.first_class_tree.is_file():
                with self.run.naming(self.run.first_class_tree):
                    loss.assign_tree(ClassTree.load(self.run.first_class_tree))
            options = {
                "levels": settings.loss.tree_levels,
                "linkage": settings.loss.tree_linkage,
                "margins": settings.loss.tree_margins,
                "folder": self.run.path,
            }
        elif order is not None:
            # the batches ask for the nearest classes alone: no levels, and the faster linkage
            loss, options = None, {"levels": 1, "linkage": "single"}
        else:
            return []
        return [RebuildClassTree(loss, *self.data.plain_training(), order, **options)]

    def _choose_by_validation(self, recall, between, rows, before):
        """The `Choice` by the validation classes; the model ends with the chosen weights."""
        settings, run = self.settings, self.run
        kind = settings.model.head_initializer, settings.training.learning_rate
        if run.choice.is_file() and run.chosen_weights.is_file():
            choice = self._read_choice()
            load_weights(self.models.model, run.chosen_weights, run.remedy(run.chosen_weights))
        else:
            last = int(rows[-1]["step"])
            measured = {0: (0.0, {k: before["step_0"][str(k)] for k in self.ks})}
            measured |= {
                int(row["step"]): (1.0, {k: row[f"val_recall@{k}"] for k in self.ks})
                for row in rows
            }
            chosen = recall.best_step, measured[recall.best_step][0]
            if between:
                self.log("Measuring the weights between the start and the last ones")
                known = {0.0: dict(recall.history).get(0), 1.0: measured[last][1]}
                found = between.choose(known)
                # step 0 is alpha 0 of the last weights
                chosen = (found.step, found.alpha) if found.step else (last, 0.0)
            else:
                recall.load_best_weights()
            candidates = {(step, alpha): x for step, (alpha, x) in measured.items()}
            if between:
                del candidates[0, 0.0]  # the same as alpha 0 of the last weights
                candidates |= {
                    (last, c.alpha): c.recalls for c in between.candidates if c.step == last
                }
            candidates = {
                key: MeasuredWeights(*key, {k: float(x[k]) for k in self.ks}, *kind)
                for key, x in sorted(candidates.items())
            }
            pooled = before.get("pooled_features")
            choice = Choice(
                f"{self.data.num_classes('validation')} held-out classes",
                list(candidates.values()),
                candidates[chosen],
                pooled and {int(k): value for k, value in pooled.items()},
            )
            write_weights(self.models.model, run.chosen_weights)
            run.write_json(run.choice, choice.to_json())
        self.log(choice_table(choice))
        return choice

    def _draw(self, rows, choice, results):
        """The pictures of the run folder."""
        run, settings = self.run, self.settings
        lines = {
            classes: {
                name.replace("_", " "): found["1"]
                for name, found in results[classes].items()
                if name in ("pooled_features", "step_0") and found
            }
            for classes in ("validation", "test")
        }
        series = choice.series() if choice else {}
        of = "validation" if any("val_" in name for name in rows[-1]) else "test"
        write_curves(
            rows,
            run.curves,
            settings.loss.name.replace("_", " "),
            recall_title=f"Recall@K ({of} classes)",
            lines=lines[of],
            series_lines=lines["validation"],
            series=series or None,
            chosen=choice.place() if series else None,
        )
        if run.class_tree.is_file():
            with run.naming(run.class_tree):
                tree = ClassTree.load(run.class_tree)
            names = self.data.images.class_names
            tree.draw(run.tree_picture, {label: names[label] for label in tree.class_ids.tolist()})
        if settings.hdml.mode != "off":
            draw_hardness({name: [row[name] for row in rows] for name in rows[0]}, run.hardness)

    def _record_chosen(self, choice, results):
        """Adds what the last and the chosen weights reach; a model of NaN is not exported."""
        test, validation = results["test"], results["validation"]
        counted = test.get("chosen", test["last"])
        if choice:
            last = choice.last(self.settings.training.steps)
            validation["last"] = _plain(last.recall)
            validation["chosen"] = _plain(choice.chosen.recall)
            # embedding the test images takes long: not twice
            same = choice.chosen == last
            counted = test["chosen"] = test["last"] if same else self._recalls("test")
        if counted is None:
            raise ValueError(
                "Training diverged: the embeddings hold NaN or infinity, so there is nothing to "
                f"export. The last weights are in {self.run.last_weights}. Lower the learning "
                "rate, or train in float32"
            )

    def _exports(self, results):
        """Writes the files for other programs, and measures one of them on the test images."""
        deployed = self.models.save_deployed(self.run.model)
        data, test = self.data, results["test"]
        counted = test.get("chosen") or test["last"]
        drawings = (
            "cut to a square around the ink, as keras_ms.data.sets.omniglot.frame_drawing does"
        )
        exports = export_formats(
            deployed,
            self._export_folder(),
            self.settings.export.formats,
            metadata={
                "training_data": f"{data.images.name}: {data.num_classes('train')} classes",
                "recall_at_1": f"{counted['1']:.4f} on {data.num_classes('test')} unseen classes",
            },
            preprocessing=Preprocessing(
                image_size=self.settings.images.image_size,
                resize_to=shorter_side(self.settings, data.images),
                exif_orientation=data.images.apply_exif_orientation,
                before_resizing=drawings if self.settings.data.framed_drawings else "",
            ),
            log=self.log,
        )
        if exports:
            written = (exports.get("onnx") or exports["saved_model"])["path"]
            images = data.images.subset("test")
            self.log(f"Embedding {len(images)} test images with {written}")
            embeddings = embed_images(
                load_embedder(written),
                images,
                resize_to=shorter_side(self.settings, data.images),
                batch_size=self.settings.evaluation.evaluation_batch_size,
            )
            test["exported"] = self._recalls_of("test", embeddings)
        return exports

    def _export_folder(self):
        return Path(self.settings.export.export_folder) / self.run.path.name

    def _recalls(self, split):
        """Recall@K of the model's weights by K as text; None if the embeddings are not finite."""
        count = (self.data.images.split == split).sum()
        embeddings = embed_batches(
            self.models.model,
            batches_without_labels(self.data.evaluation(split)),
            total=int(count),
            what=f"{split} images",
            verbose=2 if self.verbose == 2 else 0,
            log=self.log,
        )
        if not np.isfinite(embeddings).all():
            return None
        return self._recalls_of(split, embeddings)

    def _recalls_of(self, split, embeddings):
        images = self.data.images.subset(split)
        return _plain(recall_at_k(**images.retrieval_arguments(embeddings), ks=self.ks))


def _run_name(settings):
    data = Path(settings.data.data_dir).resolve().name if settings.data.data_dir else "glyphs"
    return f"{data}-{settings.model.backbone}-{datetime.now():%Y%m%d-%H%M%S}"


def _recalls_by_alpha(found):
    """[(alpha, {K: recall})] of JSON's [[alpha, {"1": …}]]."""
    return [(float(alpha), {int(k): float(r) for k, r in x.items()}) for alpha, x in found]


def _plain(recalls):
    return {str(k): float(value) for k, value in recalls.items()}

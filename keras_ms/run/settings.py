"""Every setting of a training run: its default, its unit and where the default comes from.

The command line (`keras_ms/cli/main.py`) is generated from the fields of `Settings`, and a run
folder holds them as settings.json, which `--config` reads back.
"""

import dataclasses
import difflib
import json
from dataclasses import dataclass, field
from pathlib import Path

from keras_ms.data.sets.catalogue import data_set_names
from keras_ms.run.losses import loss_names
from keras_ms.run.setting_checks import (
    check_settings,
    check_types,
    parsed_decay_steps,
    parsed_exports,
    parsed_hdml_options,
    parsed_ks,
    parsed_loss_options,
)
from keras_ms.run.setting_defaults import complete

LOSSES, DATA_SETS = loss_names(), data_set_names()


def _setting(default, explanation, choices=None):
    return field(default=default, metadata={"explanation": explanation, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """Settings of one run.

    What is left open (None) takes the default of the situation: training from scratch, a head on a
    frozen backbone, fine-tuning; keras_ms/run/setting_defaults.py has them beside their reasons.

    Raises:
        ValueError: a value of the wrong type, outside its range or not among its choices.
    """

    # data
    dataset: str = _setting(
        "auto",
        "glyphs (drawn, no download); in --data-dir: folder (a subfolder for each class), cub, "
        "cars, sop, in_shop, grocery, omniglot (as their authors ship them) or csv (the file "
        "itself); auto: by what is in --data-dir, glyphs without it",
        ("auto", *DATA_SETS),
    )
    data_dir: str = _setting("", "folder with the images or archives, or a CSV file")
    check_counts: bool = _setting(
        # with images missing, figures do not compare with published ones
        True,
        "stop where a published data set is not whole, rather than use what is there",
    )
    # first half trains, second half tests: the convention of CUB-200 and Cars-196
    test_fraction: float = _setting(
        0.5, "share of the classes, last in sorted order, that is for testing only"
    )
    test_classes: str = _setting(
        "", "text file naming the test classes, one a line, instead of --test-fraction"
    )
    class_depth: int | None = _setting(
        None,
        "levels below the folder (or its train/ and test/) at which the class folders lie; all "
        "images below one are its own; default: one level, images directly in the class folders",
    )
    # the best weights have to be chosen on classes that are neither trained on nor reported
    validation_fraction: float | None = _setting(
        None,
        "share of the training classes held out to choose the best weights; 0 for none; default: "
        "0.1 from scratch; with pretrained weights 0.2, but 10 classes where a third has them; "
        "none where --tune holds every class out once",
    )
    validation_groups: bool | None = _setting(
        # held-out characters of the training alphabets gave 0.97 where new alphabets gave 0.83
        None,
        "hold out whole groups of classes, which share the part of their names before the last /; "
        "default: yes for omniglot, whose groups are alphabets, else no",
    )
    rotated_classes: bool = _setting(
        # another task than the plain one, so it has to be asked for
        False,
        "train on characters turned by 90, 180 and 270 degrees as classes of their own (omniglot)",
    )
    framed_drawings: bool = _setting(
        # whoever uses the model has to cut his drawings alike, so it has to be asked for
        False,
        "cut each drawing to a square around its ink, so that large and small characters fill the "
        "picture alike (omniglot)",
    )
    apply_exif_orientation: bool = _setting(
        True, "turn photos as their EXIF orientation says; no: take the pixels as they are stored"
    )
    skip_unreadable: bool = _setting(False, "leave unreadable images out instead of stopping")
    skip_small_classes: bool = _setting(
        False, "leave training classes with one image out instead of stopping"
    )

    # images
    image_size: int | None = _setting(
        None,
        "height and width the network sees, pixels; default: 160 with a pretrained or frozen "
        "backbone, else 64",
    )
    resize_to: int = _setting(
        # 256 / 227 in the official recipe
        0,
        "shorter side before the centre crop when evaluating, pixels; 0: image_size * 256 / 227 "
        "for photos, image_size for characters",
    )
    augmentation: str = _setting(
        "auto",
        "crop (random crop and flip, for photos), distort (rotate, scale, shear, shift, for "
        "characters), none; auto: crop for folders, distort for omniglot, none for glyphs, which "
        "are drawn distorted",
        ("auto", "crop", "distort", "none"),
    )
    distortion: float = _setting(
        # that of two writers; longer training on few characters wants more
        1.0,
        "strength of distort: at 1, turns by up to 10 degrees, stretches and slants by up to 15 %, "
        "shifts by up to 8 %",
    )
    crop_scale: float | None = _setting(
        None,
        "smallest share of an image's area that a crop keeps; default: 0.3 when a pretrained "
        "network is fine-tuned, else 0.16",
    )

    # model
    backbone: str = _setting(
        "small",
        "small, small_wide, bn_inception, inception_v3, resnet50, mobilenet_v2, "
        "efficientnet_v2_b0 …",
    )
    weights: str = _setting(
        "", "backbone weights: a .weights.h5 file, or imagenet (downloads); empty: random"
    )
    output_layer: str = _setting("", "layer of the backbone to stop at, such as mixed8")
    pooling: str = _setting(
        "avg",
        "global pooling; none: the head takes the whole feature map, for characters",
        ("avg", "max", "avg+max", "none"),
    )
    embedding_size: int | None = _setting(
        None,
        "dimensions of the embedding; default: 128 from scratch, else 512, or as many as there are "
        "pooled features if these are fewer",
    )
    freeze_backbone: bool = _setting(
        False, "train the head only, on pooled features computed once and cached"
    )
    feature_views: int = _setting(
        1,
        "with a frozen backbone: views of each training image whose features are cached; the first "
        "is the plain image, the others are augmented",
    )
    frozen_batch_norm: bool | None = _setting(
        None,
        "batch normalisation keeps its running statistics (its scale and offset still train), as "
        "in the official recipe; default: yes with --weights, no for a network from scratch",
    )
    head_initializer: str | None = _setting(
        None,
        "start of the head: pca (the principal axes of the training images' features, which lose "
        "least), whitened (directions in which images of one class differ are shrunk, then as "
        "pca), orthogonal or official (both at random); default: orthogonal from scratch, whitened "
        "when a pretrained network is fine-tuned, pca or whitened with a frozen backbone, as "
        "--tune finds",
        ("pca", "whitened", "orthogonal", "official"),
    )
    tune: str = _setting(
        "auto",
        "folds: with a frozen backbone, choose the head's start, learning rate and interpolation "
        "by folds over the training classes (each held out once), then train on all of them; what "
        "is given is not chosen; off; auto: folds wherever they can choose",
        ("auto", "folds", "off"),
    )
    interpolate: bool | None = _setting(
        None,
        "at the end, keep the best weights between the start and the trained ones, by the held-out "
        "classes; default: yes with pretrained weights and frozen batch statistics",
    )

    # the loss that the project is named after; docs/results.md compares them
    loss: str = _setting("multi_similarity", "pair-based loss: " + ", ".join(LOSSES), LOSSES)
    loss_settings: str = _setting(
        "",
        "settings of the loss by their names in Python, with commas between, such as "
        "margin=0.2,mining=hard, or epsilon=None to leave Multi-Similarity's mining out; empty: "
        "the defaults",
    )
    # the official code's values
    alpha: float = _setting(2.0, "Multi-Similarity loss: weight scale of positive pairs")
    beta: float = _setting(40.0, "Multi-Similarity loss: weight scale of negative pairs")
    threshold: float = _setting(0.5, "Multi-Similarity loss: similarity threshold (lambda)")
    epsilon: float = _setting(0.1, "Multi-Similarity loss: mining margin")

    tree_levels: int = _setting(
        16, "hierarchical_triplet: levels of the class tree, which is rebuilt every epoch"
    )
    tree_linkage: str = _setting(
        "average",
        "hierarchical_triplet: which distance of two groups of classes decides",
        ("average", "single"),
    )
    tree_margins: str = _setting(
        # as published; first keeps a training from running after margins that grow with it
        "latest",
        "hierarchical_triplet: margins of the latest class tree, or of the first one for the whole "
        "training; batches of near classes follow the latest one in both cases",
        ("latest", "first"),
    )
    hdml: str = _setting(
        "off",
        "hardness-aware deep metric learning around the loss (docs/hdml.md): off, paper, or "
        "official, the authors' code where it differs",
        ("off", "paper", "official"),
    )
    hdml_settings: str = _setting(
        "",
        "settings of keras_ms.hdml.model.HDML, with commas between, such as alpha=90,beta=1e4; "
        "also generator_learning_rate and classifier_learning_rate; empty: the defaults",
    )

    # batches: many classes hold more hard negatives; the official recipe for photos is 16 x 5
    classes_per_batch: int | None = _setting(
        None,
        "classes in a batch; default: 32 from scratch, else 16, or all where there are fewer",
    )
    images_per_class: int | None = _setting(
        None, "images of each class in a batch; default: 4 from scratch, else 5"
    )
    neighbour_classes: int = _setting(
        1,
        "a batch holds groups of so many classes, one drawn at random and its nearest by the "
        "training embeddings, which are computed every epoch; 1: all drawn at random",
    )
    curriculum: str = _setting(
        "",
        "table of `keras-ms curriculum`: trains in stages of equal length, one for each subset in "
        "it: the clean images first, then the noisy ones too at half weight, then all; the "
        "learning rate's schedule runs in each",
    )

    # training
    steps: int | None = _setting(
        None, "training steps in all; default: 600, or 300 when a pretrained network is fine-tuned"
    )
    steps_per_epoch: int | None = _setting(
        None, "steps between evaluations; default: 100, or what divides the steps"
    )
    learning_rate: float | None = _setting(
        None,
        "Adam's learning rate, of the head and all else; default: 2e-3 from scratch, 1e-4 when a "
        "pretrained network is fine-tuned, 1e-4 or 5e-4 with a frozen backbone, as --tune finds",
    )
    backbone_learning_rate: float | None = _setting(
        None,
        "learning rate of the backbone; default: a tenth of --learning-rate for a pretrained one, "
        "else the same",
    )
    coupled_l2: float = _setting(
        # the official recipe's 5e-4 is for fine-tuning ImageNet weights
        0.0,
        "added to the gradient times the parameter (not decoupled), biases included",
    )
    schedule: str = _setting(
        "cosine",
        "cosine (to 0), step (x 0.1 at 40 % and 80 %, the official 1200 and 2400 of 3000, or at "
        "--decay-steps) or constant",
        ("cosine", "step", "constant"),
    )
    decay_steps: str = _setting(
        # published recipes name steps of their own
        "",
        "with the schedule step: the steps, comma separated, after each of which the learning rate "
        "falls to a tenth (in each stage of a curriculum); empty: 40 % and 80 % of all",
    )
    precision: str = _setting(
        "float32",
        "of the network; the loss is always float32",
        ("float32", "mixed_float16", "mixed_bfloat16"),
    )
    # one needs no copies of the network and no transfers
    devices: int = _setting(
        1,
        "devices that share every batch: 1, or the first so many GPUs; without GPUs, logical "
        "devices of the processor, to try it out",
    )
    seed: int = _setting(0, "of initial weights, batches, augmentation and drawn glyphs")

    # evaluation and output
    ks: str = _setting("1,2,4,8", "the K of Recall@K, comma separated")
    evaluation_batch_size: int = _setting(64, "images embedded at a time")
    raw_pixels: bool | None = _setting(
        None,
        "report what neighbours by raw pixels reach, for comparison; default: for characters, of "
        "photos it takes a minute and says little",
    )
    runs_folder: str = _setting("runs", "a folder for every run is made in here")
    export_folder: str = _setting("saved_models", "SavedModel and ONNX are exported into here")
    run_name: str = _setting("", "name of the run's folder; empty: data set, backbone, date, time")
    export: str = _setting("saved_model,onnx", "what to export at the end; empty: nothing")

    def __post_init__(self):
        check_types(self)
        for name, value in complete(self).items():
            object.__setattr__(self, name, value)  # the class is frozen for everybody else
        check_settings(self)

    def recall_ks(self):
        """The K of Recall@K as a tuple of integers, in ascending order; 1 is always among them."""
        return parsed_ks(self)

    def decay_boundaries(self):
        """The last step of each learning rate but the last, a tuple, for the schedule "step"."""
        return parsed_decay_steps(self, self.steps)

    def exports(self):
        """The formats to export, a tuple of "saved_model" and "onnx"."""
        return parsed_exports(self)

    def loss_options(self):
        """The settings of the loss, a dict: numbers, True, False and None as such, else text."""
        return parsed_loss_options(self)

    def hdml_options(self):
        """The settings of HDML, a dict, as those of the loss."""
        return parsed_hdml_options(self)

    def to_json(self):
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, path, given=None, before=None):
        """Settings from a JSON file; keys it lacks keep their defaults.

        Args:
            path: the file.
            given: values that win over those of the file, a dict. Defaults to None.
            before: values of settings that did not exist when the file was written. Defaults to
                None: their defaults. A file of all settings but `apply_exif_orientation` is of a
                run that turned no photos: there it is False.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a JSON object, an unknown key (the nearest known one is named) or an
                invalid value.
        """
        try:
            # some editors mark UTF-8 at the beginning of a file
            values = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"Expected a JSON file of settings. Received {path}: {error}"
            ) from None
        if not isinstance(values, dict):
            raise ValueError(
                f"Expected a JSON object of settings in {path}. Received: {str(values)[:100]}"
            )
        known = [option.name for option in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}"
                raise ValueError(f"Unknown setting {key!r} in {path}. {hint}")
        if len(values) > len(known) // 2:  # written by a run, not by hand
            before = {"apply_exif_orientation": False, **(before or {})}
        try:
            return cls(**{**(before or {}), **values, **(given or {})})
        except ValueError as error:
            also = ", or what was given with it" if given else ""
            raise ValueError(f"{error}. In the settings of {path}{also}") from error

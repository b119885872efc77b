"""Settings of the images: which there are, and what the network sees of them."""

from dataclasses import dataclass

from keras_ms.data.sets.catalogue import data_set_names
from keras_ms.run.settings.declaration import check_group, setting


@dataclass(frozen=True)
class DataSettings:
    """Which images there are, and which of their classes train, validate and test."""

    dataset: str = setting(
        "auto",
        "what is in --data-dir: folder (a subfolder for each class), csv (the file itself), or a "
        "published set as its authors ship it; glyphs are drawn, without a download; auto: by what "
        "is in --data-dir, glyphs without it",
        choices=("auto", *data_set_names()),
    )
    data_dir: str = setting("", "folder with the images or archives, or a CSV file")
    check_counts: bool = setting(
        # with images missing, figures do not compare with published ones
        True,
        "stop where a published data set is not whole, rather than use what is there",
    )
    test_fraction: float = setting(
        # first half trains, second half tests: the convention of CUB-200 and Cars-196
        0.5,
        "share of the classes, last in sorted order, that is for testing only",
        above=0,
        at_most=1,
        read_with={"test_classes": ("",)},
    )
    test_classes: str = setting(
        "", "text file naming the test classes, one a line, instead of --test-fraction"
    )
    class_depth: int | None = setting(
        None,
        "levels below the folder (or its train/ and test/) at which the class folders lie; all "
        "images below one are its own; default: one level, images directly in the class folders",
        at_least=1,
    )
    validation_fraction: float = setting(
        # the best weights have to be chosen on classes that are neither trained on nor reported
        None,
        "share of the training classes held out to choose the best weights; 0 for none; default: "
        "0.1 from scratch; with pretrained weights 0.2, but at least 10 classes and at most a "
        "third; none where --tune holds every class out once",
        at_least=0,
        below=1,
    )
    validation_groups: bool | None = setting(
        # held-out characters of the training alphabets gave 0.97 where new alphabets gave 0.83
        None,
        "hold out whole groups of classes, which share the part of their names before the last /; "
        "default: yes for omniglot, whose groups are alphabets, else no",
    )
    rotated_classes: bool = setting(
        # another task than the plain one, so it has to be asked for
        False,
        "train on characters turned by 90, 180 and 270 degrees as classes of their own (omniglot)",
    )
    framed_drawings: bool = setting(
        # whoever uses the model has to cut his drawings alike, so it has to be asked for
        False,
        "cut each drawing to a square around its ink, so that large and small characters fill the "
        "picture alike (omniglot)",
    )
    apply_exif_orientation: bool = setting(
        True, "turn photos as their EXIF orientation says; no: take the pixels as they are stored"
    )
    skip_unreadable: bool = setting(False, "leave unreadable images out instead of stopping")
    skip_small_classes: bool = setting(
        False, "leave training classes with one image out instead of stopping"
    )

    def __post_init__(self) -> None:
        check_group(self)


@dataclass(frozen=True)
class ImageSettings:
    """What the network sees of an image, in training and in evaluation."""

    image_size: int = setting(
        None,
        "height and width the network sees, pixels; default: 160 with a pretrained or frozen "
        "backbone, else 64",
        at_least=1,
    )
    resize_to: int = setting(
        # 256 / 227 in the official recipe
        0,
        "shorter side before the centre crop when evaluating, pixels; 0: image_size * 256 / 227 "
        "for photos, image_size for characters",
        at_least=0,
    )
    augmentation: str = setting(
        "auto",
        "crop (random crop and flip, for photos), distort (rotate, scale, shear, shift, for "
        "characters), none; auto: crop for folders, distort for omniglot and glyphs",
        choices=("auto", "crop", "distort", "none"),
    )
    distortion: float = setting(
        # that of two writers; longer training on few characters wants more
        1.0,
        "strength of distort: at 1, turns by up to 10 degrees, stretches and slants by up to 15 %, "
        "shifts by up to 8 %",
        at_least=0,
        # beyond, characters are turned upside down or leave their picture
        at_most=5,
        read_with={"augmentation": ("auto", "distort")},
    )
    elastic: float = setting(
        0.0,
        "of distort: bends the drawing, the points of a 4 x 4 grid shifted by normal amounts of "
        "this share of the side",
        at_least=0,
        # beyond, the drawing folds over itself
        at_most=0.25,
        read_with={"augmentation": ("auto", "distort")},
    )
    strokes: float = setting(
        0.0,
        "of distort: makes lines thicker or thinner, mixing in up to this share of the maximum or "
        "minimum over 3 x 3 pixels",
        at_least=0,
        at_most=1,
        read_with={"augmentation": ("auto", "distort")},
    )
    crop_scale: float = setting(
        None,
        "smallest share of an image's area that a crop keeps; default: 0.3 when a pretrained "
        "network is fine-tuned, else 0.16",
        above=0,
        at_most=1,
        read_with={"augmentation": ("auto", "crop")},
        # the only default once
        former_defaults=(0.16,),
    )

    def __post_init__(self) -> None:
        check_group(self)

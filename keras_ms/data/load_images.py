"""From the settings of a run to its ImageList."""

from pathlib import Path

import numpy as np

from keras_ms.data.glyphs import draw_glyphs
from keras_ms.data.image_list import ImageList
from keras_ms.data.omniglot import load_omniglot

_TELL_EVERY = 10_000  # images checked, some seconds


def load_images(settings, log=print):
    """The ImageList that `settings` name, with its validation classes held out.

    Raises:
        ValueError, FileNotFoundError: no such data; the message says what is expected.
    """
    dataset = settings.dataset
    if dataset == "auto":
        dataset = "folder" if settings.data_dir else "glyphs"
    if dataset != "glyphs" and not settings.data_dir:
        raise ValueError(f"The data set {dataset!r} needs --data-dir, the folder it lies in")
    if dataset == "glyphs" and settings.data_dir:
        raise ValueError("The data set 'glyphs' is drawn and reads no --data-dir. Leave one out")
    if dataset != "folder":
        defaults = type(settings)()
        for name in ("test_classes", "test_fraction", "skip_unreadable", "skip_small_classes"):
            if getattr(settings, name) != getattr(defaults, name):
                raise ValueError(f"{name} is for image folders; {dataset!r} has a split of its own")
    if dataset == "glyphs":
        images = draw_glyphs(image_size=settings.image_size, seed=settings.seed)
    elif dataset == "omniglot":
        images = load_omniglot(settings.data_dir, image_size=settings.image_size)
    else:
        names = None
        if settings.test_classes:
            lines = Path(settings.test_classes).read_text().splitlines()
            names = [line.strip() for line in lines if line.strip()]
        images = ImageList.from_folder(
            settings.data_dir,
            test_fraction=settings.test_fraction,
            test_classes=names,
            skip_unreadable=settings.skip_unreadable,
            skip_small_classes=settings.skip_small_classes,
            progress=_progress(log),
        )
    if settings.validation_fraction and not (images.split == "validation").any():
        images = images.hold_out_validation(settings.validation_fraction, seed=settings.seed)
    for split in ("train", "test"):
        if not (images.split == split).any():
            raise ValueError(f"{images.name} has no {split} classes. It holds: {images}")
    for split in images.counts():
        labels = images.labels[images.split == split]
        if np.unique(labels, return_counts=True)[1].max() < 2:
            raise ValueError(
                f"Expected a {split} class with at least 2 images, a query and its match. All "
                f"{split} classes of {images.name} have one. Add images"
            )
    log(str(images))
    return images


def _progress(log):
    def tell(done, total):
        if done % _TELL_EVERY == 0:
            log(f"Checked {done:,} of {total:,} images")

    return tell

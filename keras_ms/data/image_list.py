"""ImageList: which images there are, the class of each, and the split each class belongs to."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_ms.arguments import class_ids, real_number
from keras_ms.data.file_names import file_path, shown_name, some_names
from keras_ms.data.folder_layout import SPLITS
from keras_ms.data.held_out_classes import classes_to_hold_out
from keras_ms.data.image_folder import read_image_folder
from keras_ms.terminal.counted import counted
from keras_ms.terminal.progress import Progress

_MASKS = ("is_query", "is_gallery")


@dataclass(frozen=True, eq=False)
class ImageList:
    """A set of images as plain arrays, split by class for zero-shot retrieval.

    A class belongs to one split only: what is measured on test classes is then retrieval of
    classes that were never trained on.

    Args:
        paths: (N,) str, the image files; for in-memory sets one readable name per image.
        labels: (N,) integers, kept as int64; `class_names[label]` names the class.
        class_names: one name per class id, of every split: subsets keep it whole, so an id means
            the same class everywhere.
        split: (N,) str, each "train", "validation" or "test".
        images: uint8 (N, height, width, 3 or 1) for in-memory sets. Defaults to `None`: the
            images are read from `paths`.
        name: what reports call the set.
        is_query: (N,) bool, the images that are searched with when the set is evaluated. Defaults
            to `None`: all of them.
        is_gallery: (N,) bool, the images that are searched among. Defaults to `None`: all of them.
            An image that is both never finds itself.
        passed_over: {reason: number} of the files that the loader found and did not use, such as
            {".nef": 40, "links that lead nowhere": 4}. Subsets keep it. Defaults to none.
        apply_exif_orientation: whether photos are turned as their EXIF orientation says, as viewers
            show them, wherever this list's files are read: training, evaluation, pages. Defaults
            to `True`; `False` takes the pixels as they are stored.

    Raises:
        ValueError: lengths or dtypes that do not fit together, an unknown split, a label without
            a class name, a class in two splits, a split without queries or without a
            gallery, or no image at all.

    Example:

    >>> birds = ImageList(paths=["a.jpg", "b.jpg", "c.jpg"], labels=[0, 0, 1],
    ...                   class_names=("crow", "owl"), split=["train", "train", "test"])
    >>> len(birds.subset("train"))
    2
    """

    paths: np.ndarray
    labels: np.ndarray
    class_names: tuple
    split: np.ndarray
    images: np.ndarray | None = None
    name: str = "images"
    is_query: np.ndarray | None = None
    is_gallery: np.ndarray | None = None
    passed_over: dict = field(default_factory=dict)
    apply_exif_orientation: bool = True

    def __post_init__(self) -> None:
        for name, value in (
            ("paths", _as_paths(self.paths)),
            ("labels", class_ids(self.labels)),
            ("split", np.asarray(self.split, dtype=str)),
            # pages and tables show them
            ("class_names", tuple(shown_name(name) for name in self.class_names)),
            ("name", shown_name(self.name)),
            ("passed_over", {str(k): int(n) for k, n in dict(self.passed_over).items()}),
        ):
            object.__setattr__(self, name, value)
        turned = self.apply_exif_orientation
        if not isinstance(turned, (bool, np.bool_)):
            raise ValueError(
                f"Expected `apply_exif_orientation` to be True or False. Received: {turned!r}"
            )
        object.__setattr__(self, "apply_exif_orientation", bool(turned))
        self._check_lengths()
        self._check_classes()
        self._check_queries()

    def _check_lengths(self):
        count = len(self.labels)
        for name, value in (("paths", self.paths), ("split", self.split)):
            if value.shape != (count,):
                raise ValueError(
                    f"Expected one entry of `{name}` per label, shape ({count},). "
                    f"Received: shape {value.shape}"
                )
        if self.images is not None:
            images = np.asarray(self.images)
            fits = images.ndim == 4 and len(images) == count and images.shape[-1] in (1, 3)
            if images.dtype != np.uint8 or not fits:
                raise ValueError(
                    f"Expected `images` as uint8 of shape ({count}, height, width, 3 or 1). "
                    f"Received: {images.dtype} of shape {images.shape}"
                )
            object.__setattr__(self, "images", images)

    def _check_classes(self):
        unknown = sorted(set(np.unique(self.split)) - set(SPLITS))
        if unknown:
            raise ValueError(f"Expected each `split` to be one of {SPLITS}. Received: {unknown}")
        low, high = self.labels.min(), self.labels.max()
        if low < 0 or high >= len(self.class_names):
            raise ValueError(
                f"Expected labels from 0 to {len(self.class_names) - 1}, one per entry of "
                f"`class_names`. Received: labels from {low} to {high}"
            )
        # a class in two splits leaves more distinct (label, split) pairs than labels
        pairs = sorted(set(zip(self.labels.tolist(), self.split.tolist())))
        twice = {a for (a, _), (b, _) in zip(pairs, pairs[1:]) if a == b}
        if twice:
            names = some_names([self.class_names[label] for label in sorted(twice)])
            raise ValueError(
                "Expected each class in one split only (zero-shot evaluation needs class-disjoint "
                f"splits). In two: {names}"
            )

    def _check_queries(self):
        for name in _MASKS:
            mask = getattr(self, name)
            if mask is None:
                continue
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.shape != self.labels.shape:
                raise ValueError(
                    f"Expected `{name}` as True or False for each image, bool of shape "
                    f"({len(self)},). Received: {mask.dtype} of shape {mask.shape}"
                )
            object.__setattr__(self, name, mask)
        queries, gallery = self.queries_and_gallery()
        for split in np.unique(self.split):
            inside = self.split == split
            counts = np.count_nonzero(queries[inside]), np.count_nonzero(gallery[inside])
            if 0 in counts:
                raise ValueError(
                    f"Expected queries and a gallery among the {split} images of {self.name}. "
                    f"Received: {counts[0]} queries, {counts[1]} in the gallery. Without "
                    "`is_query` and `is_gallery` each image is both"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def __str__(self) -> str:
        lines = [f"{self.name}: {counted(len(self), 'image')}"]
        lines += [
            f"  {name}: {counted(classes, 'class', 'classes')}, {counted(images, 'image')}"
            for name, (classes, images) in self.counts().items()
        ]
        if not self.has_gallery():
            for number, name in enumerate(self.counts(), 1):
                of_class = np.unique(self.labels[self.split == name], return_counts=True)[1]
                if name != "train" and (alone := np.count_nonzero(of_class == 1)):
                    lines[number] += f" ({alone} alone in their class, so nothing to find for them)"
        else:
            queries, gallery = self.queries_and_gallery()
            for number, name in enumerate(self.counts(), 1):
                inside = self.split == name
                if not (queries & gallery)[inside].all():
                    lines[number] += (
                        f" ({counted(int(np.count_nonzero(queries[inside])), 'query', 'queries')}, "
                        f"{np.count_nonzero(gallery[inside]):,} in the gallery)"
                    )
        return "\n".join(lines)

    def has_gallery(self) -> bool:
        """Whether some image is not both query and gallery, so that evaluation tells them apart."""
        queries, gallery = self.queries_and_gallery()
        return not (queries & gallery).all()

    def queries_and_gallery(self) -> tuple[np.ndarray, np.ndarray]:
        """(is_query, is_gallery), each bool (N,): True for all where the list does not say."""
        every = np.ones(len(self), bool)
        return (
            every if self.is_query is None else self.is_query,
            every.copy() if self.is_gallery is None else self.is_gallery,
        )

    def retrieval_arguments(self, embeddings: np.ndarray) -> dict[str, Any]:
        """What `keras_ms.recall_at_k` takes to search these images' queries in their gallery.

        Args:
            embeddings: array (N, dimension), one row for each image of the list, in its order.

        Returns:
            A dict of keyword arguments: `embeddings` and `labels` of the queries and, unless each
            image is both, of the gallery; where a query is in the gallery too, its position
            there (by which it is left out).

        Example:

        >>> recall_at_k(**test.retrieval_arguments(embeddings), ks=(1, 10))  # doctest: +SKIP
        """
        embeddings = np.asarray(embeddings)
        if len(embeddings) != len(self):
            raise ValueError(
                f"Expected one embedding for each of {len(self)} images. Got: {len(embeddings)}"
            )
        if not self.has_gallery():
            return {"embeddings": embeddings, "labels": self.labels}
        queries, gallery = self.queries_and_gallery()
        arguments = {
            "embeddings": embeddings[queries],
            "labels": self.labels[queries],
            "gallery_embeddings": embeddings[gallery],
            "gallery_labels": self.labels[gallery],
        }
        if (queries & gallery).any():
            positions = np.where(gallery, np.cumsum(gallery) - 1, -1)
            arguments["query_positions"] = positions[queries]
        return arguments

    def counts(self) -> dict[str, tuple[int, int]]:
        """{split: (number of classes, number of images)} of the splits that have images."""
        labels = {name: self.labels[self.split == name] for name in SPLITS}
        return {name: (len(np.unique(ids)), len(ids)) for name, ids in labels.items() if len(ids)}

    def subset(self, split_name: str) -> "ImageList":
        """The images of one split, in order; class ids and `class_names` stay as they are."""
        if split_name not in SPLITS:
            raise ValueError(f"Expected a split of {SPLITS}. Received: {split_name!r}")
        is_chosen = self.split == split_name
        if not is_chosen.any():
            raise ValueError(
                f"{self.name} has no {split_name!r} images. It has: {', '.join(self.counts())}"
            )
        return self.take(np.flatnonzero(is_chosen))

    def take(self, rows: np.ndarray) -> "ImageList":
        """Some of the images; class ids and `class_names` stay as they are.

        Args:
            rows: their numbers, (M,) integers, in the order they will have.
        """
        columns = {name: getattr(self, name) for name in ("paths", "labels", "split", "images")}
        columns |= {name: getattr(self, name) for name in _MASKS}
        kept = {name: column[rows] for name, column in columns.items() if column is not None}
        return replace(self, **kept)

    def hold_out_validation(
        self, fraction: float, seed: int = 0, *, whole_groups: bool = False
    ) -> "ImageList":
        """Moves a random fraction of the training classes to the split "validation".

        Settings and weights are then chosen on classes that are neither trained on nor reported.

        Args:
            fraction: share of the training classes, in [0, 1). 0 returns the list as it is; else
                at least 2 classes move (one class alone is always retrieved) and at least 2 stay.
            seed: which classes; the same seed chooses the same classes.
            whole_groups: whether classes move by groups, which share the part of their names
                before the last "/", such as the alphabets of Omniglot: where the test classes are
                of other groups, held-out classes of the training groups would be far easier.

        Raises:
            ValueError: `fraction` out of range, fewer than 4 training classes, groups that cannot
                be divided so, or a list that has validation classes already.
        """
        fraction = real_number("fraction", fraction, least=0, below=1)
        if fraction == 0:
            return self
        if (self.split == "validation").any():
            raise ValueError(
                f"{self.name} has validation classes already: use a fraction of 0 "
                "(--validation-fraction 0)"
            )
        classes = np.unique(self.labels[self.split == "train"])
        names = [self.class_names[label] for label in classes]
        moved = classes_to_hold_out(classes, names, fraction, seed, whole_groups=whole_groups)
        return replace(self, split=np.where(np.isin(self.labels, moved), "validation", self.split))

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike,
        *,
        test_fraction: float = 0.5,  # the field's convention: CUB 1-100 train, 101-200 test
        test_classes: Sequence[str] | None = None,
        skip_unreadable: bool = False,
        skip_small_classes: bool = False,
        check_images: bool = True,
        progress: Progress | None = None,
        class_depth: int | None = None,
        apply_exif_orientation: bool = True,
    ) -> "ImageList":
        """Reads a folder with one subfolder of images per class.

        Which classes test, in this order of precedence:
        - subfolders named train, test and (optional) validation, in any case, or training, testing,
          val, valid, dev, which hold the class folders: as they say. A class name may stand in one
          of them only;
        - `test_classes`: those; all others train;
        - else the last part of the classes in sorted order, `test_fraction` of them rounded down.

        What counts as an image: the endings of `keras_ms.data.image_file.SUFFIXES`, any case,
        directly in its class folder; its content says how it is read. Links are followed. The
        order is sorted by class name, then file name. A folder that holds nothing but the folder
        of the classes, as archives make, is gone into; __MACOSX and hidden files and folders are
        no classes.

        What is passed over is counted by reason in `passed_over` and told in one line of the log,
        as a warning where it may be images: other formats, images in subfolders of class folders
        or beside these, links that lead nowhere.

        Class names are shown as text: accents in Unicode's NFC, as most people type them, a byte
        that is no UTF-8 as \\xe9.

        Args:
            folder: path of the folder.
            test_fraction: share of the classes that test, 0 to 1.
            test_classes: names of the test classes, however their accents are written. Defaults
                to `None`.
            skip_unreadable: leave out damaged images (their number is logged) rather than raise.
            skip_small_classes: leave out class folders without images and training classes with
                one image (logged) rather than raise. Test classes may have one image: as a query
                it has no match and is skipped, in the gallery it is a distractor.
            check_images: ask the readers about every image once, so that damaged files show now
                rather than hours into the training.
            progress: called with (images found so far, None) after each folder that is listed, then
                with (images checked, images in all) after each image.
            class_depth: how many levels down the class folders lie, below train/ and test/ where
                there are these; all images below one are its own. 2 reads genus/species/1.jpg as
                an image of the class "genus/species"; 1 as one of "genus". Defaults to `None`: one
                level, images directly in the class folders.
            apply_exif_orientation: as in `ImageList`.

        Raises:
            FileNotFoundError: `folder` does not exist or is not a folder.
            OSError: a folder that cannot be listed; it is named.
            ValueError: another layout (the message says where images lie), no classes, one class
                only, a class without images, a training class with one image, damaged images (each
                named), a class in both train/ and test/, two class folders whose names differ in
                how accents are written.

        Example:

        >>> ImageList.from_folder("birds", test_fraction=0.5)  # doctest: +SKIP
        """
        columns = read_image_folder(
            folder,
            test_fraction=test_fraction,
            test_classes=test_classes,
            class_depth=class_depth,
            skip_unreadable=skip_unreadable,
            skip_small_classes=skip_small_classes,
            check_images=check_images,
            progress=progress,
        )
        name = Path(file_path(folder)).resolve().name
        return cls(**columns, name=name, apply_exif_orientation=apply_exif_orientation)


def _as_paths(paths):
    """Paths as an array of str; bytes, as TensorFlow and os.listdir give them, as Python's text."""
    array = np.asarray(paths)
    if array.dtype.kind in "SO":
        names = [os.fsdecode(p) if isinstance(p, bytes) else str(p) for p in array.ravel()]
        array = np.array(names).reshape(array.shape)
    return array.astype(str, copy=False)

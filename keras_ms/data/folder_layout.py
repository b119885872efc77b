"""Which folders are classes, and which split they belong to, in folders as people arrange them."""

import os
from collections import Counter
from typing import NamedTuple

from keras_ms.data.file_names import same_name, shown_name, some_names
from keras_ms.data.folder_listing import BESIDE, DEEPER, Folder

SPLITS = ("train", "validation", "test")

_SPLIT_NAMES = {
    "train": "train", "training": "train", "trainset": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "testset": "test",
}  # fmt: skip
_QUERIES = {"query", "queries", "probe"}
_GALLERIES = {"gallery", "bounding_box_test"}
_EXPECTED = (
    "Expected one subfolder of images per class, or train/ and test/ (and validation/) that hold "
    "such subfolders"
)


class ClassFolder(NamedTuple):
    """A class: its name, the folder, the paths of its images, and its split or None."""

    name: str
    path: str
    files: list
    split: str | None = None


class Layout(NamedTuple):
    """The class folders in order, where they lie, and a Counter of the files passed over."""

    classes: list
    where: str
    passed_over: Counter


def folder_layout(
    root: Folder, suffixes: tuple[str, ...], class_depth: int | None = None
) -> Layout:
    """The class folders of a listed folder.

    Understood are class folders directly in the folder; train/, test/ and validation/ (or a usual
    synonym, in any case) that hold them; and a single folder that wraps either, as archives do.

    Args:
        root: `Folder` of `list_folder`.
        suffixes: endings of image files, for the message.
        class_depth: how many levels below the folder, or below train/ and test/, the class
            folders lie; all images below one are its own. Defaults to None: one level, below the
            folder that wraps the rest where there is one, images directly in the class folders.

    Returns:
        `Layout`.

    Raises:
        ValueError: another layout; the message says what was found, what is expected and what to
            do.
    """
    passed_over, whole = Counter(), root
    splits = _split_folders(root)
    while splits is None and (inside := _wrapped(root)) is not None:
        root = _gone_into(root, inside, passed_over)
        splits = _split_folders(root)
    if splits is None:
        _refuse_query_and_gallery(root)
        if class_depth is not None:
            root, passed_over = whole, Counter()
        parents = [(None, root)]
    else:
        parents = splits
        if class_depth is None:
            parents = [(split, _innermost(folder, passed_over)) for split, folder in splits]
        used = {id(folder) for _, folder in splits}
        _pass_beside(root, used, passed_over)
    _refuse_images_alone(root, parents)
    classes = []
    for split, parent in parents:
        passed_over.update(parent.others)
        passed_over[BESIDE] += len(parent.images)
        classes += _classes(parent, split, class_depth, passed_over)
    if not any(one.files for one in classes):
        starts = [folder for _, folder in splits] if splits else [whole]
        _refuse_deeper(root, starts, parents, suffixes, class_depth)
    _refuse_twins(classes)
    return Layout(classes, root.path, +passed_over)


def _split_folders(root):
    """[(split, its folder)] in the order of SPLITS; None where the folder is not split so."""
    named = [(_SPLIT_NAMES.get(same_name(f.name).strip().lower()), f) for f in root.folders]
    splits = [(split, folder) for split, folder in named if split]
    others = [folder for split, folder in named if not split]
    if not splits:
        return None
    if others:
        # a class may be called "train" or "test"
        if any(f.images for _, f in splits) or not all(f.num_images for _, f in splits):
            return None
        if any(folder.maybe_images for folder in others):
            if len({split for split, _ in splits}) == 1:
                return None
            raise ValueError(
                f"{_EXPECTED}. {shown_name(root.path)} has "
                f"{some_names([folder.name for _, folder in splits])}, and beside them "
                f"{some_names([folder.name for folder in others])} with images that belong to no "
                "split. Move them elsewhere, or name the folder "
                "train, validation or test"
            )
    return sorted(splits, key=lambda pair: SPLITS.index(pair[0]))


def _wrapped(root):
    """The only subfolder with anything like images, if the class folders lie in it; else None."""
    inside = [folder for folder in root.folders if folder.maybe_images]
    if len(inside) != 1 or inside[0].images:
        return None
    holding = [folder for folder in inside[0].folders if folder.num_images]
    return inside[0] if holding else None


def _gone_into(root, inside, passed_over):
    """The folder that `root` wraps; what lies beside it is counted."""
    _pass_beside(root, {id(inside)}, passed_over)
    return inside


def _innermost(folder, passed_over):
    while (inside := _wrapped(folder)) is not None:
        folder = _gone_into(folder, inside, passed_over)
    return folder


def _pass_beside(root, used, passed_over):
    """Counts what lies in `root` beside the folders that are used, known by their ids."""
    passed_over.update(root.others)
    passed_over[BESIDE] += len(root.images)
    for folder in root.folders:
        if id(folder) not in used:
            _pass_over(folder, passed_over, BESIDE)


def _pass_over(folder, passed_over, reason):
    """Counts a folder and everything below it as passed over."""
    for inner in folder.below():
        passed_over.update(inner.others)
        passed_over[reason] += len(inner.images)


def _classes(parent, split, class_depth, passed_over):
    if class_depth is None:
        for folder in parent.folders:
            passed_over.update(folder.others)
            for inner in folder.folders:
                _pass_over(inner, passed_over, DEEPER)
        return [
            ClassFolder(same_name(folder.name), folder.path, folder.files(), split)
            for folder in parent.folders
        ]
    level = [((), parent)]
    for depth in range(class_depth):
        if depth:
            for _, folder in level:
                passed_over.update(folder.others)
                passed_over[BESIDE] += len(folder.images)
        level = [
            ((*names, same_name(inner.name)), inner)
            for names, folder in level
            for inner in folder.folders
        ]
    classes = []
    for names, folder in level:
        below = list(folder.below())
        for inner in below:
            passed_over.update(inner.others)
        files = [file for inner in below for file in inner.files()]
        classes.append(ClassFolder("/".join(names), folder.path, files, split))
    return classes


def _refuse_query_and_gallery(root):
    names = {same_name(folder.name).lower(): folder.name for folder in root.folders}
    named = [names[name] for name in names if name in _QUERIES | _GALLERIES]
    if _QUERIES & set(names) and _GALLERIES & set(names):
        raise ValueError(
            f"{_EXPECTED}. {shown_name(root.path)} has {some_names(named)}: queries and a gallery "
            "share their classes. List the images in a CSV file with the columns path, label, "
            "split, is_query and is_gallery, and read that (keras_ms.load_csv; docs/data.md)"
        )


def _refuse_images_alone(root, parents):
    """Images without class folders."""
    for _, folder in parents:
        if folder.images and not any(inner.maybe_images for inner in folder.folders):
            raise ValueError(
                f"{_EXPECTED}. {shown_name(folder.path)} has no subfolder of images but "
                f"{len(folder.images):,} images, such as {shown_name(folder.images[0])}: put them "
                "into class folders, or list them with their classes in a CSV file "
                "(keras_ms.load_csv)"
            )
    if not any(folder.folders for _, folder in parents):
        raise ValueError(f"{_EXPECTED}. {shown_name(root.path)} has no subfolder of images")


def _refuse_deeper(root, starts, parents, suffixes, class_depth):
    """Where no class folder has an image: says where there are some, or what there is.

    Args:
        root, parents, suffixes, class_depth: as in `folder_layout`.
        starts: the folders from which levels count, of each of `parents`.
    """
    level = [folder for _, parent in parents for folder in parent.folders]
    start, holding = next(
        (
            (start, folder)
            for start, (_, parent) in zip(starts, parents)
            for folder in parent.folders
            if folder.num_images
        ),
        (None, None),
    )
    where = shown_name(root.path)
    if start is None or holding is None:
        raise ValueError(
            f"No images in the class folders of {where}. Expected files ending in "
            f"{' '.join(suffixes)}. {_found(level)}"
        )
    deep = holding
    while not deep.images:
        deep = next(folder for folder in deep.folders if folder.num_images)
    example = os.path.relpath(os.path.join(deep.path, deep.images[0]), start.path)
    depth, least = _levels(deep, start), _levels(holding, start)
    lie = f"images lie {depth} levels below {shown_name(start.path)}, as in {shown_name(example)}"
    if class_depth is not None:
        raise ValueError(
            f"Expected class folders {class_depth} levels down (class_depth={class_depth}). Their "
            f"{lie}: use class_depth={depth} or less"
        )
    raise ValueError(
        f"{_EXPECTED}. Here {lie}, and which of the folders is the class is not clear: "
        f"class_depth={depth} makes each folder {depth} levels down a "
        f"class, class_depth={least} gives all images below {shown_name(holding.name)} to one class"
    )


def _levels(folder, start):
    return len(os.path.relpath(folder.path, start.path).split(os.sep))


def _found(folders):
    kinds = Counter()
    for folder in folders:
        for inner in folder.below():
            kinds.update(inner.others)
    if not kinds:
        return "They are empty"
    return f"Found: {some_names([f'{kind} ({n:,})' for kind, n in kinds.most_common()])}"


def _refuse_twins(classes):
    """Class folders whose names people cannot tell apart."""
    seen = {}
    for one in classes:
        twin = seen.setdefault(same_name(one.path), one)
        if twin is not one:
            raise ValueError(
                "Expected class folders of different names. These differ only in how accents are "
                f"written (Unicode's NFC and NFD): {ascii(shown_name(twin.path))} and "
                f"{ascii(shown_name(one.path))}. Put their images into one of them"
            )

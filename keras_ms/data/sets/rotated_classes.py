"""Characters turned by quarters as further training classes."""

from dataclasses import replace

import numpy as np

from keras_ms.data.image_list import ImageList


def rotated_classes(images: ImageList) -> ImageList:
    """Adds every training class three more times, turned by 90, 180 and 270 degrees.

    A turned character is another character, so there are four times as many to tell apart.

    Reference: Santoro et al.: Meta-Learning with Memory-Augmented Neural Networks, ICML 2016,
    Section 4.1, where Omniglot's characters are extended so.

    Args:
        images: ImageList of square pictures held in memory.

    Returns:
        ImageList: the given one, and after it the turned training images, whose classes are named
        like the old ones with " turned 90" and so on. Other splits are as they were.

    Raises:
        ValueError: a list that reads its images from files, pictures that are not square, or no
            training classes.

    Example:

    >>> characters = keras_ms.load_omniglot("downloads")   # doctest: +SKIP
    >>> len(rotated_classes(characters).subset("train"))   # doctest: +SKIP
    77120
    """
    train = images.split == "train"
    if images.images is None or images.images.shape[1] != images.images.shape[2]:
        raise ValueError(
            "Expected square pictures held in memory, such as those of load_omniglot or "
            f"draw_glyphs. Received: {images.name}, "
            + (
                "whose images are read from files"
                if images.images is None
                else f"pictures of shape {images.images.shape[1:]}"
            )
        )
    if not train.any():
        raise ValueError(f"Expected training classes to turn. {images.name} has none")
    size = len(images.class_names)
    names, parts = list(images.class_names), [images]
    for turn in (1, 2, 3):
        names += [f"{name} turned {90 * turn}" for name in images.class_names]
        parts.append(
            replace(
                images,
                paths=[f"{path} turned {90 * turn}" for path in images.paths[train]],
                labels=images.labels[train] + turn * size,
                class_names=names,
                split=images.split[train],
                images=np.rot90(images.images[train], turn, axes=(1, 2)),
                is_query=None,  # turned images are both
                is_gallery=None,
            )
        )
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("paths", "labels", "split", "images")
    }
    masks = zip(*(part.queries_and_gallery() for part in parts))
    is_query, is_gallery = map(np.concatenate, masks)
    return replace(images, class_names=names, is_query=is_query, is_gallery=is_gallery, **joined)

"""TensorFlow's errors about image files, told as errors about the user's data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from keras_ms.data.file_names import file_path, shown_name
from keras_ms.data.image_file import image_fault
from keras_ms.data.image_list import ImageList


@contextmanager
def naming_damaged(images: ImageList) -> Iterator[None]:
    """Turns TensorFlow's error about an image that cannot be read into one that names the file.

    Class folders are checked when they are read; the files of lists are first read here. Every
    file is decoded once, in order, up to the first damaged one: only after an error.

    Args:
        images: the `ImageList` that is read within.

    Raises:
        ValueError: an image is missing or damaged. TensorFlow's own error stays as it is where no
            such image is found.
    """
    try:
        yield
    except (
        tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.PermissionDeniedError,
        tf.errors.FailedPreconditionError,
    ) as error:  # fmt: skip
        for path in images.paths if images.images is None else ():
            is_there = Path(file_path(path)).is_file()
            fault = image_fault(path) if is_there else "there is no such file"
            if fault:
                raise ValueError(
                    f"Cannot read the image {shown_name(path)}: {fault}. Replace it, or take "
                    f"it out of {images.name}"
                ) from error
        raise

"""The files that a run writes for other programs, and what one of them reaches."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_ms.data.image_list import ImageList
from keras_ms.export import Preprocessing
from keras_ms.export.embedder import embed_images, load_embedder
from keras_ms.export.formats import PHOTO_ONNX, export_formats
from keras_ms.export.keras_file import load_keras_file
from keras_ms.export.onnx_packages import check_onnx_packages
from keras_ms.export.tensorflow_process import export_in_a_process
from keras_ms.files import check_writable
from keras_ms.pairs.replicas import data_shard, on_one_device
from keras_ms.run.data import RunData
from keras_ms.run.folder import RunFolder
from keras_ms.run.recalls import Recall, embeddings_recall
from keras_ms.run.settings import Settings
from keras_ms.run.views import shorter_side

# said of pictures that are prepared before they are resized
FRAMED = "cut to a square around the ink, as keras_ms.data.sets.omniglot.frame_drawing does"


def check_exports(settings: Settings) -> None:
    """What would fail at the end of a run fails now.

    Raises:
        OSError: the folder cannot be written to.
        ImportError: a package that ONNX files take is missing.
    """
    if settings.export.formats:
        check_writable(settings.export.export_folder)
    check_onnx_packages(settings.export.formats)


def export_folder(run: RunFolder, settings: Settings) -> Path:
    """The folder of the run's exports."""
    return Path(settings.export.export_folder) / run.path.name


def write_exports(
    run: RunFolder,
    settings: Settings,
    deployed: keras.Model,
    *,
    data: RunData,
    recall: Recall,
    log: Callable[[str], Any],
) -> dict[str, Any]:
    """Writes the formats of the settings; each says what it was trained on and what it reaches.

    On another backend than TensorFlow's, a process on that one writes them from the saved model.

    Args:
        run: the run's folder, with the saved model.
        settings: its `Settings`.
        deployed: images to unit-norm embeddings, what was saved.
        data: the run's data.
        recall: of the test images by these weights, by K as text.
        log: function that takes a line of text for the user.

    Returns:
        As `keras_ms.export.formats.export_formats`.
    """
    if not settings.export.formats:
        return {}
    images, counts = data.images, data.images.counts()
    folder, formats = export_folder(run, settings), settings.export.formats
    options: dict[str, Any] = {
        "metadata": {
            "training_data": f"{images.name}: {counts['train'][0]} classes",
            "recall_at_1": f"{recall['1']:.4f} on {counts['test'][0]} unseen classes",
        },
        "preprocessing": run_preprocessing(settings, images),
        "log": log,
    }
    if keras.backend.backend() == "tensorflow":
        log(f"Exporting {', '.join(formats)}, each compared with the model")
        return export_formats(deployed, folder, formats, **options)
    log(f"Exporting {run.model_file} in a process on the TensorFlow backend")
    if data_shard() != (0, 1):
        # what one process alone computes with the shared weights would confuse what follows
        with on_one_device():
            deployed = load_keras_file(run.model_file)
    return export_in_a_process(deployed, run.model_file, folder, formats, **options)


def run_preprocessing(settings: Settings, images: ImageList | None = None) -> Preprocessing:
    """What a run does to a picture before its network is shown it, as exported files say it.

    Args:
        settings: its `Settings`.
        images: its images. Defaults to None: what the settings say of them.
    """
    return Preprocessing(
        image_size=settings.images.image_size,
        resize_to=shorter_side(settings, images),
        exif_orientation=settings.data.apply_exif_orientation,
        before_resizing=FRAMED if settings.data.framed_drawings else "",
    )


def exported_recall(
    settings: Settings,
    exports: Mapping[str, Any],
    *,
    data: RunData,
    log: Callable[[str], Any],
) -> Recall:
    """Recall@K of the test images by a file that was written: of ONNX, where there is one.

    Args:
        settings: `Settings`.
        exports: of `write_exports`, at least one.
        data: the run's data.
        log: function that takes a line of text for the user.
    """
    kind = next(kind for kind in ("onnx", PHOTO_ONNX, "saved_model") if kind in exports)
    written = exports[kind]["path"]
    images = data.images.subset("test")
    log(f"Embedding {len(images)} test images with {written}")
    embeddings = embed_images(
        load_embedder(written),
        images,
        resize_to=shorter_side(settings, images),
        batch_size=settings.evaluation.evaluation_batch_size,
    )
    return embeddings_recall(images, embeddings, ks=settings.evaluation.ks)

"""keras-ms export: a saved .keras model, or that of a run, as SavedModel and ONNX."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from tyro.conf import Positional

from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.parse import check_is_there, check_output_folder, option, parsed
from keras_ms.cli.setting_options import with_commas
from keras_ms.models.view_words import parsed_views
from keras_ms.run.settings.groups import SETTINGS
from keras_ms.run.settings.training import ExportSettings


@dataclass(frozen=True)
class _Options:
    model: Annotated[Positional[str], option("a .keras file, or the folder of a run", "MODEL")]
    to: Annotated[str, option("folder to export into", "FOLDER")]
    formats: Annotated[
        tuple[str, ...],
        with_commas("export"),
        option(
            "saved_model, onnx, photo_onnx (an ONNX file that takes photos of any size and "
            "prepares them itself; with --resize-to), or several, such as saved_model,onnx"
        ),
    ] = SETTINGS["export"].default
    resize_to: Annotated[
        int | None,
        option(
            "shorter side of a photo before its centre is cut out, recorded in the files; default: "
            "that of the run",
            "PIXELS",
            default="",
        ),
    ] = None
    apply_exif_orientation: Annotated[
        bool | None,
        option(
            "whether the model was trained on photos turned as their EXIF orientation says, "
            "recorded in the files too; default: that of the run, else yes with --resize-to",
            default="",
        ),
    ] = None
    views: Annotated[
        str,
        option(
            "average the embeddings over views of a picture: mirror, zoom (0.1, or such as "
            "zoom=0.05), rotation (5 degrees, or such as rotation=3), or several with commas; the "
            "files take as many times as long",
            "VIEWS",
            default="",
        ),
    ] = ""
    metadata: Annotated[str, option('such as \'{"recall_at_1": "0.61"}\'', "JSON", default="")] = ""


def run(words: Sequence[str]) -> None:
    """Exports as the words of the command line say.

    Raises:
        SystemExit: wrong words, or help.
    """
    options = parsed(_Options, "export", "Exports a saved .keras model.", words)
    metadata = _metadata(options.metadata)
    if not options.formats:
        raise ValueError("--formats is empty: give saved_model, onnx or photo_onnx")
    formats = ExportSettings(options.formats).formats
    views = parsed_views(options.views)
    if options.resize_to is not None and options.resize_to < 1:
        raise ValueError(f"Expected --resize-to of at least 1. Received: {options.resize_to}")
    is_run = os.path.isfile(os.path.join(options.model, "settings.json"))
    if "photo_onnx" in formats and options.resize_to is None and not is_run:
        raise ValueError(
            "--formats photo_onnx needs --resize-to: the shorter side of a photo, in pixels, "
            "before its centre is cut out, as the model was evaluated"
        )
    if os.path.isdir(options.model) and not is_run:
        raise ValueError(
            "Expected a .keras file, or the folder of a run, with settings.json in it. Received "
            f"another folder: {options.model}"
        )
    file = os.path.join(options.model, "embedder.keras") if is_run else options.model
    check_is_there(file, "a .keras file, or the folder of a run that has ended")
    # what would fail at the end fails now
    check_output_folder("--to", options.to)
    # whatever backend trained the model: the files are TensorFlow's
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import_keras()
    from keras_ms.export import Preprocessing
    from keras_ms.export.formats import export_formats
    from keras_ms.export.onnx_packages import check_onnx_packages
    from keras_ms.models.keras_file import load_keras_file

    check_onnx_packages(formats)
    preprocessing = _run_preprocessing(options.model) if is_run else None
    given = {"resize_to": options.resize_to, "exif_orientation": options.apply_exif_orientation}
    given = {name: value for name, value in given.items() if value is not None}
    if given:
        preprocessing = replace(preprocessing or Preprocessing(), **given)
    model = load_keras_file(file)
    if views:
        from keras_ms.models.averaged_views import average_views

        model = average_views(model, **views)
        metadata = {"test_time_views": options.views, **(metadata or {})}
    export_formats(model, options.to, formats, metadata=metadata, preprocessing=preprocessing)


def _run_preprocessing(folder):
    from keras_ms.run.exports import run_preprocessing
    from keras_ms.run.folder import RunFolder

    return run_preprocessing(RunFolder(folder).read_settings())


def _metadata(text):
    if not text:
        return None
    try:
        facts = json.loads(text)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise ValueError(
            'Expected --metadata as a JSON object, such as \'{"recall_at_1": "0.61"}\'. '
            f"Received: {text}"
        )
    return facts

"""keras-ms quantize: smaller ONNX files, kept only where photos find each other as well."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.parse import (
    check_ending,
    check_is_there,
    check_output_folder,
    option,
    parsed,
)

_DESCRIPTION = (
    "Writes an exported embedder.onnx with float16 and with int8 numbers. A quarter of the classes "
    "of the photos calibrates, the others measure: a file is kept only if Recall@1 falls little "
    "with its own embeddings, and with float ones as queries or as the gallery. Where int8 fails, "
    "the layers that harm most stay in float."
)


@dataclass(frozen=True)
class _Options:
    model: Annotated[Positional[str], option("an .onnx file of keras-ms", "MODEL")]
    images: Annotated[
        str,
        option(
            "folder of training photos, one folder a class; not of test classes, which would "
            "choose the layers",
            "FOLDER",
        ),
    ]
    kind: Annotated[
        Literal["int8", "float16", "both"], option("which smaller numbers, a file each")
    ] = "both"
    to: Annotated[str, option("folder to write into", "FOLDER", default="that of the model")] = ""
    max_loss: Annotated[
        float, option("points by which Recall@1 may fall, in each of the three ways", "POINTS")
    ] = 0.5


def run(words: Sequence[str]) -> None:
    """Quantises as the words of the command line say.

    Raises:
        SystemExit: wrong words, or help.
        QuantisationRefused: a file would have been too bad; those that are good enough are written.
    """
    options = parsed(_Options, "quantize", _DESCRIPTION, words)
    if not 0 <= options.max_loss <= 100:
        raise ValueError(f"Expected --max-loss in points, 0 to 100. Received: {options.max_loss}")
    check_is_there(options.model, "an .onnx file")
    check_ending("the model", options.model, (".onnx",))
    check_is_there(options.images, "a folder of photos, one folder a class")
    check_output_folder("--to", options.to or Path(options.model).parent)
    import_keras()
    from keras_ms.data.image_list import ImageList
    from keras_ms.export.quantisation import (
        KINDS,
        QuantisationRefused,
        quantised_path,
        quantize_onnx,
    )

    images = ImageList.from_folder(options.images)
    refusals = []
    for kind in KINDS if options.kind == "both" else (options.kind,):
        to = quantised_path(options.model, kind)
        to = Path(options.to) / to.name if options.to else to
        try:
            made = quantize_onnx(options.model, images, to=to, kind=kind, max_loss=options.max_loss)
        except QuantisationRefused as refusal:
            refusals.append(str(refusal))
        else:
            left = f" ({len(made.float_layers)} layers in float)" if made.float_layers else ""
            print(f"Wrote {made.path}{left}")
    if refusals:
        raise QuantisationRefused("\n".join(refusals))

"""keras-ms convert-weights: public PyTorch weights of BN-Inception into a Keras weights file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.parse import check_is_there, check_output_file, option, parsed

_DESCRIPTION = (
    "Converts bn_inception-52deb4733.pth, the public PyTorch weights, for --backbone bn_inception "
    "--weights FILE. Nothing in the file is run. A .pth file needs PyTorch 2.6 or newer, a "
    ".safetensors file the package safetensors."
)


@dataclass(frozen=True)
class _Options:
    source: Annotated[Positional[str], option("a .pth or .safetensors file", "SOURCE")]
    to: Annotated[str, option("a .weights.h5 file", "FILE")] = "bn_inception.weights.h5"


def run(words: Sequence[str]) -> None:
    """Converts as the words of the command line say.

    Raises:
        SystemExit: wrong words, or help.
    """
    options = parsed(_Options, "convert-weights", _DESCRIPTION, words)
    check_is_there(options.source, "a .pth or .safetensors file")
    check_output_file("--to", options.to, (".weights.h5",))
    import_keras()
    from keras_ms.models.convert_weights import convert_weights

    left_out = convert_weights(options.source, options.to)
    print(f"Wrote {options.to}" + (f", without {', '.join(left_out)}" if left_out else ""))
    print(f"Train on it: keras-ms train --backbone bn_inception --weights {options.to} …")

"""keras-ms convert-weights: public PyTorch weights of BN-Inception into a Keras weights file."""

from keras_ms.cli.keras_import import import_keras


def add_parser(commands):
    parser = commands.add_parser(
        "convert-weights",
        help="convert the public PyTorch weights of BN-Inception",
        description="Converts bn_inception-52deb4733.pth, the public PyTorch weights, for "
        "--backbone bn_inception --weights FILE. Nothing in the file is run. A .pth file needs "
        "PyTorch 2.6 or newer, a .safetensors file the package safetensors.",
    )
    parser.set_defaults(command=_convert_weights)
    parser.add_argument("source", help="a .pth or .safetensors file")
    parser.add_argument(
        "--to", default="bn_inception.weights.h5", metavar="FILE", help="a .weights.h5 file"
    )


def _convert_weights(options):
    import_keras()
    from keras_ms.models.convert_weights import convert_weights

    left_out = convert_weights(options["source"], options["to"])
    print(f"Wrote {options['to']}" + (f", without {', '.join(left_out)}" if left_out else ""))
    print(f"Train on it: keras-ms train --backbone bn_inception --weights {options['to']} …")

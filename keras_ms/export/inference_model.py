"""The inference mode of any Keras model with one input and one output, in float32."""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

# The size of ImageNet crops, which every network that takes any size also takes. Read only for
# models that leave height and width open.
DEFAULT_IMAGE_SIZE = (224, 224)


@dataclass(frozen=True)
class InferenceModel:
    """One image batch in, one float32 output batch out, always with training=False.

    Image-preprocessing layers (Resizing, CenterCrop, Random…) called without an explicit
    `training` switch every later layer to training mode, batch normalisation and dropout included.
    Passing training=False at the top is what keeps exported files in inference mode.

    Attributes:
        model: Keras model without low-precision layers.
        input_shape: shape of one input, without the batch; None where the model leaves it open.
        input_dtype: integer type of the model's input, else "float32".
        output_shape: shape of one output, without the batch.
        check_shape: `input_shape` with every open size filled in, used to compare files.
    """

    model: keras.Model
    input_shape: tuple
    input_dtype: str
    output_shape: tuple
    check_shape: tuple

    def __call__(self, image: Any) -> Any:
        return _single_output(_call(self.model, image))


def inference_model(
    model: keras.Model, image_size: int | tuple[int, int] | None = None
) -> InferenceModel:
    """Checks that `model` can be exported and returns its inference mode.

    Models with float16, bfloat16 or float64 layers are copied in float32: the weights of a
    mixed-precision model already are float32, only its arithmetic is not.

    Args:
        model: Keras model, built or called, with one input and one output of one row an image.
        image_size: pixels, an int or (height, width), at which a model with open sizes is run.

    Returns:
        An `InferenceModel`.

    Raises:
        ValueError: not a Keras model, never called, several inputs or outputs, open sizes that
            `image_size` does not fill, a model that cannot be copied in float32, an output that
            is not one row an image, or another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Export needs Keras's TensorFlow backend. "
            f"Received: {keras.backend.backend()!r}. Save the model with model.save(...) and "
            "export it in a process started with KERAS_BACKEND=tensorflow, such as "
            "`keras-ms export model.keras --to FOLDER`."
        )
    return inference_here(model, image_size)


def inference_here(
    model: keras.Model, image_size: int | tuple[int, int] | None = None
) -> InferenceModel:
    """As `inference_model`, to be run on the backend of this process and not to be written."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a keras.Model to export. Received: {model!r}")
    shape, dtype = _single_input(model)
    check_shape = _filled(shape, image_size)
    if any(_computes_in_other_than_float32(layer) for layer in model._flatten_layers()):
        model = _float32_copy(model)

    # two images: a batch of one would hide outputs that are not one row an image
    probe = np.zeros((2, *check_shape), dtype)
    try:
        output = _call(model, probe)
    except Exception as error:
        raise ValueError(
            f"The model {model.name!r} failed on one {dtype} input of shape {probe.shape}: "
            f"{error}\nExport takes a model with one input, called as model(images)."
        ) from error
    output_shape = tuple(_single_output(output).shape)
    if len(output_shape) < 2 or output_shape[0] != 2:
        raise ValueError(
            f"Expected one output row an image, shape (2, …) for 2 images. The model "
            f"{model.name!r} returned shape {output_shape}."
        )
    return InferenceModel(model, shape, dtype, output_shape[1:], check_shape)


def _call(model, image):
    inputs = image
    try:
        structure = model.input
    except AttributeError:  # subclassed models and Sequential built by a call
        structure = None
    if isinstance(structure, (dict, list, tuple)):
        inputs = keras.tree.map_structure(lambda _: image, structure)
    return model(inputs, training=False)


def _single_output(outputs):
    outputs = keras.tree.flatten(outputs)
    if len(outputs) != 1:
        raise ValueError(
            f"Export takes a model with one output. Received a model with {len(outputs)}. "
            "Export keras.Model(model.input, model.outputs[i]) for the one that is needed."
        )
    return keras.ops.cast(outputs[0], "float32")


def _single_input(model):
    """Shape without the batch, and dtype, of the model's only input."""
    inputs = getattr(model, "inputs", None)
    if inputs:
        shapes = [tuple(tensor.shape) for tensor in inputs]
        dtype = inputs[0].dtype
    else:
        config = model.get_build_config() if model.built else None
        if not config:
            raise ValueError(
                f"The model {model.name!r} has never been called, so its input shape is not "
                "known. Call it once before the export: model(images[:1], training=False)."
            )
        shapes, dtype = _shapes(config.get("input_shape", config.get("shapes_dict"))), "float32"
    if len(shapes) != 1:
        raise ValueError(
            f"Export takes a model with one input. Received the model {model.name!r} with "
            f"{len(shapes)} inputs of shapes {shapes}. Export a part with one input, such as its "
            "image tower."
        )
    # other floats become float32: it is the one type that every runtime takes
    return shapes[0][1:], dtype if "int" in dtype else "float32"


def _shapes(structure):
    """Flattens the nested shapes of a build config; a shape is a tuple or list of sizes."""
    if isinstance(structure, dict):
        structure = list(structure.values())
    if all(size is None or isinstance(size, int) for size in structure):
        return [tuple(structure)]
    return [shape for part in structure for shape in _shapes(part)]


def _filled(shape, image_size):
    if None not in shape:
        return shape
    if len(shape) == 3 and shape[2] is not None:
        size = DEFAULT_IMAGE_SIZE if image_size is None else image_size
        height, width = (size, size) if isinstance(size, int) else size
        return (shape[0] or height, shape[1] or width, shape[2])
    raise ValueError(
        f"Expected an input with known sizes, or images of shape (height, width, channels) with "
        f"known channels. Received: input shape {shape}. Rebuild the model with fixed sizes."
    )


# of numbers and of policies
_OTHER_PRECISIONS = ("float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")


def _computes_in_other_than_float32(layer):
    return layer.compute_dtype in _OTHER_PRECISIONS


def _float32_copy(model):
    instead = (
        "Build the model under keras.config.set_dtype_policy('float32'), load its weights into it "
        "and export that one."
    )
    # layers that a custom layer makes by itself take the global policy
    with _float32_policy():
        try:
            copy = _copied_in_float32(model)
            copy.set_weights(model.get_weights())
        except Exception as error:
            raise ValueError(
                f"The model {model.name!r} has layers of another precision than float32 and could "
                f"not be copied in float32 for the export: {error}\n{instead}"
            ) from error
    left = [lay.name for lay in copy._flatten_layers() if _computes_in_other_than_float32(lay)]
    if left:
        raise ValueError(
            f"The layers {left} of the model {model.name!r} do not compute in float32 even in a "
            f"float32 copy of the model. {instead}"
        )
    return copy


def _copied_in_float32(model):
    try:
        return keras.models.clone_model(model, clone_function=_float32_layer, recursive=True)
    except Exception:
        # Of a network of KerasHub the layers cannot be made one by one: their settings lack, or
        # hold, what their constructors want. The network as a whole can.
        return type(model).from_config(_with_float32_policies(model.get_config()))


@contextmanager
def _float32_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _float32_layer(layer):
    return layer.__class__.from_config(_with_float32_policies(layer.get_config()))


def _with_float32_policies(config):
    """Replaces every dtype policy in a layer's config, those of the layers inside it included."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return "float32"
        return {
            key: "float32"
            if key == "dtype" and value in _OTHER_PRECISIONS
            else _with_float32_policies(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_with_float32_policies(item) for item in config)
    return config

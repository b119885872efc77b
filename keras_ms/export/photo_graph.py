"""The way from a picture of any size to a network's input, as operations of ONNX.

`Resize` with antialias came with opset 18 and is missing in several runtimes, and it resizes the
whole picture where its centre alone is wanted. A linear filter is a matrix for the rows and one for
the columns, and products of matrices are everywhere.
"""

from typing import Any

import numpy as np

from keras_ms.export.onnx_packages import import_onnx_package

# from here on, ReduceSum takes its axes as the text below gives them
FIRST_OPSET = 13
INPUT, _VIEW = "picture", "view"

# Whole numbers decide the sizes, so that no rounding does: `to` is side · resize_to / shorter,
# halves to even. Of a side, only the pixels from `start` to `end` reach the centre. Row i of
# `matrix` holds the weights with which they count: a triangle around the place of output i.
_AXIS = """
AXIS_number = Constant <value = int64[1] {NUMBER}> ()
AXIS_side = Gather (sides, AXIS_number)
AXIS_product = Mul (AXIS_side, resize_to)
AXIS_down = Div (AXIS_product, shorter)
AXIS_used = Mul (AXIS_down, shorter)
AXIS_rest = Sub (AXIS_product, AXIS_used)
AXIS_twice = Mul (AXIS_rest, two)
AXIS_is_odd = Mod (AXIS_down, two)
AXIS_above_half = Add (AXIS_twice, AXIS_is_odd)
AXIS_goes_up = Greater (AXIS_above_half, shorter)
AXIS_up = Cast <to = 7> (AXIS_goes_up)
AXIS_target = Add (AXIS_down, AXIS_up)
AXIS_to = Max (AXIS_target, size)

AXIS_border = Sub (AXIS_to, size)
AXIS_corner = Div (AXIS_border, two)
AXIS_corner_end = Add (AXIS_corner, size)
AXIS_begin = Mul (AXIS_corner, AXIS_side)
AXIS_first = Div (AXIS_begin, AXIS_to)
AXIS_finish = Mul (AXIS_corner_end, AXIS_side)
AXIS_last = Div (AXIS_finish, AXIS_to)
AXIS_shrinks = Div (AXIS_side, AXIS_to)
AXIS_reach = Add (AXIS_shrinks, two)
AXIS_before = Sub (AXIS_first, AXIS_reach)
AXIS_start = Max (AXIS_before, zero)
AXIS_behind = Add (AXIS_last, AXIS_reach)
AXIS_end = Min (AXIS_behind, AXIS_side)

AXIS_count = Sub (AXIS_end, AXIS_start)
AXIS_count_alone = Squeeze (AXIS_count)
AXIS_numbers = Range (zero_alone, AXIS_count_alone, one_alone)
AXIS_pixels = Cast <to = 1> (AXIS_numbers)
AXIS_skipped = Mul (AXIS_start, AXIS_to)
AXIS_offset_whole = Sub (AXIS_begin, AXIS_skipped)
AXIS_offset_float = Cast <to = 1> (AXIS_offset_whole)
AXIS_side_float = Cast <to = 1> (AXIS_side)
AXIS_to_float = Cast <to = 1> (AXIS_to)
AXIS_scale = Div (AXIS_side_float, AXIS_to_float)
AXIS_offset = Div (AXIS_offset_float, AXIS_to_float)
AXIS_scaled = Mul (middles, AXIS_scale)
AXIS_placed = Add (AXIS_scaled, AXIS_offset)
AXIS_places = Sub (AXIS_placed, half)
AXIS_difference = Sub (AXIS_places, AXIS_pixels)
AXIS_distance = Abs (AXIS_difference)
AXIS_radius = Max (AXIS_scale, one_float)
AXIS_share = Div (AXIS_distance, AXIS_radius)
AXIS_height = Sub (one_float, AXIS_share)
AXIS_triangle = Max (AXIS_height, zero_float)
AXIS_sum = ReduceSum (AXIS_triangle, one)
AXIS_matrix = Div (AXIS_triangle, AXIS_sum)
"""
_GRAPH = """<ir_version: IR, opset_import: ["" : OPSET]>
photo (uint8[batch, height, width, 3] picture) => (DTYPE[batch, SIZE, SIZE, 3] view) {
zero = Constant <value = int64[1] {0}> ()
one = Constant <value = int64[1] {1}> ()
two = Constant <value = int64[1] {2}> ()
three = Constant <value = int64[1] {3}> ()
open = Constant <value = int64[1] {-1}> ()
zero_alone = Constant <value = int64 {0}> ()
one_alone = Constant <value = int64 {1}> ()
size = Constant <value = int64[1] {SIZE}> ()
resize_to = Constant <value = int64[1] {RESIZE_TO}> ()
zero_float = Constant <value = float[1] {0.0}> ()
half = Constant <value = float[1] {0.5}> ()
one_float = Constant <value = float[1] {1.0}> ()
middles = Constant <value = float[SIZE, 1] {MIDDLES}> ()
axes = Constant <value = int64[2] {1, 2}> ()
black = Constant <value = float {0.0}> ()
white = Constant <value = float {255.0}> ()
shape = Shape (picture)
sides = Gather (shape, axes)
shortest = ReduceMin <keepdims = 1> (sides)
shorter = Max (shortest, one)
ROWS
COLUMNS
starts = Concat <axis = 0> (row_start, column_start)
ends = Concat <axis = 0> (row_end, column_end)
window = Slice (picture, starts, ends, axes)
values = Cast <to = 1> (window)
flat_shape = Constant <value = int64[3] {0, 0, -1}> ()
flat = Reshape (values, flat_shape)
lower = MatMul (row_matrix, flat)
lower_shape = Concat <axis = 0> (open, size, column_count, three)
apart = Reshape (lower, lower_shape)
resized = MatMul (column_matrix, apart)
whole = Round (resized)
bounded = Clip (whole, black, white)
view = Cast <to = DTYPE_NUMBER> (bounded)
}"""


def photo_graph(
    size: int, resize_to: int, *, dtype: str, opset: int, ir_version: int | None = None
) -> Any:
    """What `keras_ms.data.images.centre_view` does, as an ONNX model.

    Args:
        size: side of the square that is cut out of the centre, in pixels.
        resize_to: pixels of the shorter side before the cut.
        dtype: of the view, "float32" or an integer type.
        opset: version of ONNX's operator set, at least `FIRST_OPSET`.
        ir_version: of the file. Defaults to None: the newest that onnx writes.

    Returns:
        onnx.ModelProto with the input `picture`, uint8 (batch, height, width, 3), and the output
        `view`, (batch, size, size, 3).
    """
    onnx = import_onnx_package("onnx")
    import_onnx_package("onnx.parser")
    number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    words = {
        "ROWS": _AXIS.replace("AXIS", "row").replace("NUMBER", "0"),
        "COLUMNS": _AXIS.replace("AXIS", "column").replace("NUMBER", "1"),
        "MIDDLES": ", ".join(f"{n}.5" for n in range(size)),
        "RESIZE_TO": str(resize_to),
        "SIZE": str(size),
        "OPSET": str(opset),
        "IR": str(ir_version or onnx.IR_VERSION),
        "DTYPE_NUMBER": str(number),
        "DTYPE": "float" if dtype == "float32" else dtype,
    }
    text = _GRAPH
    for word, value in words.items():
        text = text.replace(word, value)
    proto = onnx.parser.parse_model(text)
    for node in proto.graph.node:
        # names that no network has
        for names in (node.input, node.output):
            names[:] = [n if n in ("", INPUT, _VIEW) else f"{INPUT}/{n}" for n in names]
    onnx.checker.check_model(proto, full_check=True)
    return proto


def with_photo_graph(network: Any, photo: Any) -> Any:
    """A network behind the graph that prepares its pictures.

    Args:
        network: onnx.ModelProto with the input `image`.
        photo: of `photo_graph`, of the same versions.

    Returns:
        onnx.ModelProto with the input `picture`.
    """
    onnx = import_onnx_package("onnx")
    import_onnx_package("onnx.compose")
    merged = onnx.compose.merge_models(photo, network, io_map=[(_VIEW, "image")])
    # each names its operator set, and some programs want it once
    del merged.opset_import[:]
    merged.opset_import.extend(network.opset_import)
    onnx.checker.check_model(merged, full_check=True)
    return merged

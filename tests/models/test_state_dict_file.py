"""PyTorch files of the old format, read without PyTorch: the numbers, and nothing that runs."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from keras_ms.models.state_dict_file import state_dict_arrays

# written by PyTorch: fixtures/write_old_state_dict.py
CONTENT = (Path(__file__).parents[1] / "fixtures" / "old_state_dict.pth").read_bytes()


def test_tensors_are_those_that_pytorch_wrote():
    numbers = np.arange(24, dtype="float32")
    expected = {
        "transposed": numbers.reshape(2, 3, 4).transpose(2, 0, 1),
        "a_part": numbers[5:11:2],
        "double": np.array([[1.5, -2.0]]),
        "half": np.array([0.25], "float16"),
        "count": np.array(7),
        "small": np.array([3, -1], "int32"),
    }
    read = state_dict_arrays(CONTENT)
    assert list(read) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(read[name], values, strict=True)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    start = CONTENT.index(b"\x80\x02}q\x00(X\x10\x00\x00\x00protocol_version")
    table = CONTENT.index(b"ccollections\nOrderedDict") - 2
    hidden = pickle.dumps({"weight": Malicious()}, protocol=2)
    for content in (hidden, CONTENT[:start] + hidden, CONTENT[:table] + hidden):
        with pytest.raises(ValueError, match="Received .* bytes"):
            state_dict_arrays(content)
        assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="system'.* never run here"):
        state_dict_arrays(CONTENT[:table] + hidden)


@pytest.mark.parametrize(
    "was, instead, message",
    [
        (b"torch\nFloatStorage", b"torch\nBoolStorage ", "none of torch DoubleStorage"),
        (b"_rebuild_tensor_v2", b"_rebuild_tensor_v9", "_v9.* makes no tensor"),
        (b"little_endianq\x02\x88", b"little_endianq\x02\x89", "highest byte"),
        (b"\x80\x02M\xe9\x03.", b"\x80\x02M\xea\x03.", "zip archives"),
    ],
)
def test_other_content_is_named(was, instead, message):
    assert was in CONTENT
    with pytest.raises(ValueError, match=message):
        state_dict_arrays(CONTENT.replace(was, instead, 1))


def test_a_file_cut_anywhere_is_refused():
    for length in range(0, len(CONTENT), 3):
        with pytest.raises(ValueError, match=f"Received {length:,} bytes"):
            state_dict_arrays(CONTENT[:length])
    with pytest.raises(ValueError):
        state_dict_arrays(CONTENT[:-1])


def test_a_damaged_byte_gives_arrays_or_a_refusal():
    for place in range(len(CONTENT)):
        damaged = bytearray(CONTENT)
        damaged[place] ^= 0x5A
        try:
            read = state_dict_arrays(bytes(damaged))
        except ValueError as error:
            assert "Expected the state dictionary" in str(error)
        else:
            assert all(isinstance(array, np.ndarray) for array in read.values())

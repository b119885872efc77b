"""Which JPEGs TensorFlow decodes, whole or a crop of them: told by the structure of the file alone.

An operation that fails inside tf.data cannot say which file it failed on. So only files that
cannot fail are given to TensorFlow's decoder; every other goes the slower way through Pillow. A
damaged file and an unusual one (progressive, CMYK, 12 bits) look alike here: neither is plain.
"""

import functools
import io
import operator
import re
from typing import NamedTuple

from PIL import Image

from keras_ms.data.exif_orientation import exif_orientation

_START = b"\xff\xd8\xff"
_TEXTS = {0xFE, *range(0xE0, 0xF0)}  # comments and what applications add
_EXIF, _FRAME, _HUFFMAN, _SCAN, _QUANTISATION, _RESTART = 0xE1, 0xC0, 0xC4, 0xDA, 0xDB, 0xDD
_END = b"\xff\xd9"
# what ends the coded data: any marker but a stuffed 255 and the eight restarts
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_CONTINUATIONS = tuple(2**bits for bits in range(15, -1, -1))  # of codes of 1 to 16 bits
_WHOLE_SPECTRUM = bytes((0, 63, 0))
# grey, and colours of half the brightness's sides or the same
_SAMPLINGS = {b"\x11", *(bytes((luma, 0x11, 0x11)) for luma in (0x11, 0x12, 0x21, 0x22))}
_MAX_SIDE = 65500  # libjpeg's
_MAX_BYTES = 2**29  # TensorFlow's
# the tag's number in either order of bytes, and its name in XMP
_ORIENTATION = (b"\x01\x12", b"\x12\x01", b"Orientation")


class PlainJpeg(NamedTuple):
    """The stored size in pixels, and the EXIF orientation, 1 to 8."""

    height: int
    width: int
    orientation: int


def plain_jpeg(contents: bytes) -> PlainJpeg | None:
    """A `PlainJpeg` where TensorFlow decodes the bytes for certain; None for all others.

    That is a baseline JPEG, grey or of three colours in one scan, whose tables are there and
    valid, with an end after its data, and no larger than Pillow reads without a warning. The
    coded data themselves cannot fail: where they are damaged, both decoders show grey blocks.
    """
    if not contents.startswith(_START):
        return None
    position, frame, restart_lengths = 2, None, set()
    quantisation, huffman, texts = set(), set(), []
    while True:
        head = contents[position : position + 4]
        end = position + 2 + int.from_bytes(head[2:], "big")
        if len(head) < 4 or head[0] != 255 or not position + 4 <= end <= len(contents):
            return None
        marker, segment = head[1], contents[position + 4 : end]
        position = end
        if marker in _TEXTS:
            texts += [segment] if marker == _EXIF else []
        elif marker == _QUANTISATION:
            quantisation |= _quantisation_tables(segment)
        elif marker == _HUFFMAN:
            huffman |= _huffman_tables(segment)
        elif marker == _RESTART:
            restart_lengths.add(len(segment))
        elif marker == _FRAME and frame is None:
            frame = segment
        elif marker == _SCAN:
            break
        else:
            return None
    size = _size(frame or b"", quantisation)
    if size is None or not restart_lengths <= {2} or not _scans_all(segment, frame, huffman):
        return None
    last = _MARKER.search(contents, position)
    if last is None or last[0] != _END:
        return None
    return PlainJpeg(*size, _orientation(contents, texts))


@functools.lru_cache(64)  # most encoders write one table for all their files
def _quantisation_tables(segment):
    """Numbers of the tables of a segment; with None among them where it is not valid."""
    tables, position = set(), 0
    while position < len(segment):
        precision, number = divmod(segment[position], 16)
        position += 65 if precision == 0 else 129
        tables.add(number if precision < 2 and number < 4 else None)
    return frozenset(tables if position == len(segment) else {None})


@functools.lru_cache(64)
def _huffman_tables(segment):
    """As `_quantisation_tables`; the 16 next numbers are those of the second kind of table."""
    tables, position = set(), 0
    while position < len(segment):
        number, counts = segment[position], segment[position + 1 : position + 17]
        symbols = segment[position + 17 : position + 17 + sum(counts)]
        position += 17 + sum(counts)
        fits = (
            len(counts) == 16
            and number in (0, 1, 2, 3, 16, 17, 18, 19)
            and len(symbols) <= 256
            # codes of 16 bits that start with one of the table's: not all, as all ones is none
            and sum(map(operator.mul, counts, _CONTINUATIONS)) < 2**16
            # of differences (tables 0 to 3) at most 15 bits follow
            and (number >= 16 or max(symbols, default=0) < 16)
        )
        if not fits:
            return frozenset({None})
        tables.add(number)
    return frozenset(tables if position == len(segment) else {None})


def _size(frame, quantisation):
    """(height, width) of a frame of 8 bits, grey or of colours sampled as usual; or None."""
    count = frame[5] if len(frame) > 5 else 0
    if count not in (1, 3) or len(frame) != 6 + 3 * count or frame[0] != 8:
        return None
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    names, samplings, tables = frame[6::3], frame[7::3], frame[8::3]
    fits = (
        0 < height <= _MAX_SIDE
        and 0 < width <= _MAX_SIDE
        and 3 * height * width < _MAX_BYTES
        and height * width <= (Image.MAX_IMAGE_PIXELS or _MAX_BYTES)
        and samplings in _SAMPLINGS
        and len(set(names)) == count
        and None not in quantisation
        and quantisation >= set(tables)
    )
    return (height, width) if fits else None


def _scans_all(scan, frame, huffman):
    """Whether a scan holds all components of the frame, with tables that are there."""
    count = frame[5]
    if len(scan) != 4 + 2 * count or scan[0] != count or scan[1:-3:2] != frame[6::3]:
        return False
    used = {table for pair in scan[2:-3:2] for table in (pair >> 4, 16 + (pair & 15))}
    return scan[-3:] == _WHOLE_SPECTRUM and None not in huffman and used <= huffman


def _orientation(contents, texts):
    if not any(name in text for text in texts for name in _ORIENTATION):
        return 1
    try:
        return exif_orientation(Image.open(io.BytesIO(contents), formats=["JPEG"]))
    except Exception:  # Pillow's parsers raise whatever they trip over
        return 1

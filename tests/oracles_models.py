"""Literal NumPy pooling and convolution, float64, one window at a time: oracles for the layers."""

import math

import numpy as np


def ceil_max_pool(images, size=3, stride=2):
    """Max pool without padding that rounds its output size up (the last window is cut off)."""
    batch, height, width, channels = images.shape
    rows = math.ceil((height - size) / stride) + 1
    columns = math.ceil((width - size) / stride) + 1
    pooled = np.empty((batch, rows, columns, channels))
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            window = images[:, top : top + size, left : left + size, :]
            pooled[:, row, column] = window.max(axis=(1, 2))
    return pooled


def padded_average_pool(images, size=3, padding=1):
    """Average pool with stride 1; the padded zeros count in the divisor."""
    padded = _pad(images, padding)
    batch, height, width, channels = images.shape
    pooled = np.empty((batch, height, width, channels))
    for row in range(height):
        for column in range(width):
            window = padded[:, row : row + size, column : column + size, :]
            pooled[:, row, column] = window.sum(axis=(1, 2)) / size**2
    return pooled


def padded_max_pool(images, size=3, padding=1):
    """Max pool with stride 1; the padding never wins."""
    padded = np.pad(
        np.asarray(images, "float64"),
        ((0, 0), (padding, padding), (padding, padding), (0, 0)),
        constant_values=-np.inf,
    )
    pooled = np.empty(images.shape)
    for row in range(images.shape[1]):
        for column in range(images.shape[2]):
            window = padded[:, row : row + size, column : column + size, :]
            pooled[:, row, column] = window.max(axis=(1, 2))
    return pooled


def convolution(images, kernel, bias, *, stride, padding):
    """Cross-correlation with the same zero padding on every side; kernel (h, w, in, out)."""
    padded = _pad(images, padding)
    size = kernel.shape[0]
    rows = (images.shape[1] + 2 * padding - size) // stride + 1
    columns = (images.shape[2] + 2 * padding - size) // stride + 1
    result = np.empty((len(images), rows, columns, kernel.shape[-1]))
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            window = padded[:, top : top + size, left : left + size, :]
            result[:, row, column] = np.tensordot(window, kernel, axes=3) + bias
    return result


def _pad(images, padding):
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return np.pad(np.asarray(images, "float64"), sides)

"""The map of the embedding: its data, its pictures and the controls around it."""

import json
import logging

import numpy as np

from keras_ms.report.blocks import section
from keras_ms.report.contents import Report
from keras_ms.report.gallery import Gallery
from keras_ms.report.markup import Markup, tag
from keras_ms.report.pictures import SHEET_SIDE, sheets, small_pictures
from keras_ms.terminal.progress import Progress

logger = logging.getLogger(__name__)

_HINT = (
    "Choose a picture on the map: its class, its file and its most similar images appear here. "
    "Drag to move; zoom with the buttons, two fingers, Ctrl and the wheel or, once the map was "
    "clicked, the wheel alone. Keys: arrows, + and -, Enter for the picture in the middle."
)
# sides of a picture in pixels; the first whose sheets fit is taken
_SIZES = (80, 64, 48, 32)
# base64 text of all sheets; with the rest, the page stays below 15 MB
_MOST_SHEET_BYTES = 10_500_000


def map_section(report: Report, gallery: Gallery, progress: Progress | None = None) -> Markup:
    """`Markup` of the map; it is drawn by map.js. `progress` is told of its pictures."""
    size, uris = _fitting_sheets(report, progress)
    count, total = len(report.map_images), len(report.images)
    images = f"all {total:,}" if count == total else f"{count:,} of the {total:,}"
    return section(
        "map",
        "Map",
        tag(
            "p",
            f"Here lie {images} images, each near those that the embedder finds alike. "
            "A green frame means that the most similar image is of the same class, a red one that "
            "it is not. Neighbourhoods mean something; distances between far groups, and how wide "
            "a group is, do not (PCA, then t-SNE).",
        ),
        tag(
            "div",
            tag("label", "Class ", tag("select", tag("option", "all", value=""), id="map-class")),
            tag("button", "+", id="map-in", type="button", aria_label="Zoom in"),
            tag("button", "−", id="map-out", type="button", aria_label="Zoom out"),
            tag("button", "Show all", id="map-all", type="button"),
            class_="controls",
        ),
        tag("noscript", tag("p", "The map needs JavaScript; nothing is loaded for it.")),
        tag(
            "div",
            tag(
                "canvas",
                id="map-canvas",
                class_="place",
                tabindex="0",
                role="img",
                aria_label=f"Map of {count:,} images by similarity. The choice of a class "
                "above lists its images beside the map.",
            ),
            tag("div", id="map-panel", class_="panel", aria_live="polite"),
            class_="map",
        ),
        tag("div", *(tag("img", src=uri, alt="") for uri in uris), id="map-sheets", hidden=True),
        tag("script", _json(_data(report, gallery, size)), type="application/json", id="map-data"),
    )


def _fitting_sheets(report, progress):
    pictures = small_pictures(report.images, report.map_images, size=_SIZES[0], progress=progress)
    for size in _SIZES:
        uris = sheets(pictures, size=size)
        taken = sum(map(len, uris))
        if taken <= _MOST_SHEET_BYTES:
            break
    else:
        logger.warning(
            "The map's %s pictures take %.1f MB even at %d pixels: the page will be larger than "
            "15 MB. Show fewer with --map-images",
            f"{len(report.map_images):,}",
            taken / 1e6,
            size,
        )
    return size, uris


def _data(report, gallery, size):
    chosen = report.map_images
    labels = report.images.labels[chosen]
    neighbours = report.sweep.neighbours[chosen]
    place = np.full(len(report.images), -1)
    place[chosen] = np.arange(len(chosen))
    return {
        "size": size,
        "side": SHEET_SIDE,
        "x": np.rint(report.places[:, 0] * 1e4).astype(int).tolist(),
        "y": np.rint(report.places[:, 1] * 1e4).astype(int).tolist(),
        "label": labels.tolist(),
        "right": (report.images.labels[neighbours[:, 0]] == labels).astype(int).tolist(),
        # neighbours that are not on the map cannot be shown
        "near": [[n for n in row if n >= 0] for row in place[neighbours].tolist()],
        "name": [gallery.image_name(image) for image in chosen],
        "classes": {int(label): gallery.class_name(label) for label in np.unique(labels)},
        "hint": _HINT,
    }


def _json(data):
    """JSON that cannot end the script element it stands in, whatever the names hold."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)

"""The HTML report as a page: links, escaped names, pictures, curves, files."""

import base64
import io
import re

import numpy as np
import pytest
import report_pages
from PIL import Image
from report_pages import HISTORY, NASTY, checked_links, drawn_set

from keras_ms.data.image_list import ImageList
from keras_ms.report import collect_report, write_report
from keras_ms.report.markup import tag
from keras_ms.report.page import report_page

fast_map = report_pages.fast_map
nasty_page = report_pages.nasty_page


def test_every_link_leads_somewhere_and_nothing_leads_out(nasty_page):
    _, text = nasty_page
    page, _ = checked_links(text)
    for _, attributes in page.elements:
        for name in ("src", "srcset", "href", "action", "poster", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), value
    for found in re.findall(r"url\((.{5})", text):
        assert found == "data:"
    assert not re.search(r"https?:|@import|fetch\(|XMLHttp", text)
    policy = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy[0].startswith("default-src 'none'")


def test_names_from_data_are_text_and_never_markup(nasty_page):
    report, text = nasty_page
    page, data = checked_links(text)
    assert len(page.all("script")) == 2  # the map's data and its program
    assert text.count("<script") == 2 and text.count("</style>") == 2
    assert data["classes"]["0"] == NASTY and data["name"][0] == f"{NASTY} #0"
    assert tag("a", "<b>", href='"x') == '<a href="&quot;x">&lt;b&gt;</a>'


def _decoded(uri):
    assert uri.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")


def test_pictures_are_those_of_the_images(nasty_page):
    report, text = nasty_page
    page, data = checked_links(text)
    styles = dict(re.findall(r"\.p(\d+)\{background-image:url\((.*?)\)\}", text))
    for image, uri in styles.items():
        shown = np.asarray(_decoded(uri))[80, 80].astype(int)
        assert np.abs(shown - report.images.images[int(image), 12, 12]).max() < 12
    used = {a["class"].split()[1][1:] for a in page.all("span", "pic")}
    assert used == set(styles)
    assert all(a["aria-label"] for a in page.all("span", "pic"))
    sheets = [_decoded(a["src"]) for a in page.all("img")]
    for place, image in enumerate(report.map_images):
        row, column = divmod(place, data["side"])
        middle = np.asarray(sheets[0])[
            row * data["size"] + data["size"] // 2, column * data["size"] + data["size"] // 2
        ]
        assert np.abs(middle.astype(int) - report.images.images[image, 12, 12]).max() < 12


def test_curves_and_their_absence(nasty_page):
    report, text = nasty_page
    assert text.count("<polyline") == 2 and 'id="training"' in text
    embeddings, images = drawn_set()
    text = report_page(collect_report(embeddings, images))
    assert "<polyline" not in text and "#training" not in text and "#settings" not in text
    # a single epoch, and one that diverged
    for history in (HISTORY[:1], [{**HISTORY[0], "loss": float("nan")}]):
        assert "nan" not in re.sub(
            "base64,[^\"')]*", "", report_page(collect_report(embeddings, images, history=history))
        )


def test_files_are_read_when_shown_and_named_when_gone(tmp_path):
    embeddings, drawn = drawn_set(3, 3)
    paths = []
    for n, pixels in enumerate(drawn.images):
        paths.append(tmp_path / f"{n}.png")
        Image.fromarray(pixels).resize((40, 30)).save(paths[-1])
    images = ImageList(paths, drawn.labels, drawn.class_names, drawn.split)
    report = collect_report(embeddings, images)
    target = tmp_path / "page" / "report.html"
    size = write_report(report, target)
    assert target.stat().st_size == size
    assert str(tmp_path) not in target.read_text()
    before = target.read_bytes()
    paths[4].write_bytes(b"no picture")
    with pytest.raises(ValueError, match="4.png"):
        write_report(report, target)
    paths[4].unlink()
    with pytest.raises(FileNotFoundError, match="4.png is gone"):
        write_report(report, target)
    assert target.read_bytes() == before and len(list(target.parent.iterdir())) == 1

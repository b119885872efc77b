"""Sets, pages and a parser for the tests of the HTML report."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from keras_ms.data.image_list import ImageList
from keras_ms.report import collect_report, embedding_map
from keras_ms.report.page import report_page

NASTY = "<script>alert('x')</script> & \"</style>\" ]]>"
HISTORY = [
    {"epoch": e, "step": 10.0 * e, "loss": 1 / e, "val_recall@1": 1 - 0.5 / e} for e in (1, 2, 3)
]


def drawn_set(num_classes=6, per_class=5, dimension=8, seed=0, names=None, spread=0.5):
    """Embeddings in overlapping classes, with a picture of its own colour for each image."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), per_class)
    centres = rng.normal(size=(num_classes, dimension))
    embeddings = centres[labels] + spread * rng.normal(size=(len(labels), dimension))
    names = names or [f"class_{n}" for n in range(num_classes)]
    pixels = rng.integers(0, 256, (len(labels), 1, 1, 3), np.uint8)
    images = ImageList(
        paths=[f"{names[label]} #{n}" for n, label in enumerate(labels)],
        labels=labels,
        class_names=names,
        split=["test"] * len(labels),
        images=np.broadcast_to(pixels, (len(labels), 24, 24, 3)),
        name="drawn",
    )
    return embeddings.astype(np.float32), images


class Page(HTMLParser):
    """Elements as (tag, attributes), the scripts' texts and what is not closed."""

    _VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.scripts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name == "script":
            self.scripts.append("")
        if name not in self._VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data

    def all(self, name=None, class_=None):
        return [
            attributes
            for found, attributes in self.elements
            if name in (None, found)
            and (not class_ or class_ in attributes.get("class", "").split())
        ]


def checked_links(text):
    page = Page(text)
    assert not page.open
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in page.all("a")]
    assert links and all(link.startswith("#") for link in links)
    assert not {link[1:] for link in links} - set(ids)
    data = json.loads(page.scripts[0])
    places = {int(a["data-image"]) for a in page.all("a") if "data-image" in a}
    assert all(0 <= place < len(data["x"]) for place in places)
    return page, data


@pytest.fixture(scope="module", autouse=True)
def fast_map():
    """PCA alone, not t-SNE, which takes its seconds: pages and links are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding_map, "_FEWEST_FOR_TSNE", 10**9)
        yield


@pytest.fixture(scope="module")
def nasty_page(fast_map):
    names = [NASTY, "\u2028line", "a" * 80, "'quotes\"", "日本語", "ordinary"]
    embeddings, images = drawn_set(names=names, spread=0.9)
    report = collect_report(
        embeddings,
        images,
        facts={"Data": NASTY},
        settings={"name": NASTY},
        history=HISTORY,
        title=NASTY,
    )
    return report, report_page(report)

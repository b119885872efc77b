"""The sections with pictures: queries with what they find, and confused classes."""

from collections.abc import Sequence

from keras_ms.report.contents import Report
from keras_ms.report.findings import QueryRow
from keras_ms.report.markup import Markup, breakable, join, percent, tag
from keras_ms.report.pictures import data_uri, image_name, picture

# at twice the width that a picture has on the page, which is what sharp screens show
_PICTURE_SIZE = 176


class Gallery:
    """Makes pictures for one page; each image is in the page once, however often it is shown.

    Args:
        report: what the page shows.
    """

    def __init__(self, report: Report):
        self.report = report
        self._map_place = {int(image): n for n, image in enumerate(report.map_images)}
        self._used = set()

    def class_name(self, label: int) -> str:
        return self.report.images.class_names[label]

    def image_name(self, image: int) -> str:
        return image_name(self.report.images, image)

    def style(self) -> Markup:
        """CSS with the data of all pictures used so far."""
        images = self.report.images
        return Markup(
            "".join(
                f".p{image}{{background-image:"
                f"url({data_uri(picture(images, image, size=_PICTURE_SIZE))})}}"
                for image in sorted(self._used)
            )
        )

    def queries(self, rows: Sequence[QueryRow]) -> Markup:
        return tag("div", *(self._query(row) for row in rows), class_="queries")

    def confusions(self) -> Markup:
        return tag("div", *(self._pair(pair) for pair in self.report.confusions), class_="pairs")

    def class_link(self, label: int) -> Markup:
        return tag("a", breakable(self.class_name(label)), href=f"#class-{label}")

    def _label(self, image):
        return int(self.report.images.labels[image])

    def _query(self, row):
        sweep, label = self.report.sweep, self._label(row.image)
        outcome = (
            "finds its class first"
            if row.rank == 1
            else f"its class comes first at rank {row.rank:,}"
        )
        shots = [
            self._neighbour(image, similarity, label)
            for image, similarity in zip(
                sweep.neighbours[row.image], sweep.neighbour_similarity[row.image]
            )
        ]
        return tag(
            "article",
            tag("h4", self.class_link(label)),
            tag(
                "p",
                f"{self.image_name(row.image)}: {outcome}; margin {row.margin:+.2f}",
                class_="note",
            ),
            tag("div", self._shot(row.image, "", "query", "query"), *shots, class_="row"),
            class_="query",
            id=f"query-{row.image}",
        )

    def _neighbour(self, image, similarity, label):
        neighbour_label = self._label(image)
        kind = "same" if neighbour_label == label else "other"
        # where no class is named, it is the query's
        name = f" {self.class_name(neighbour_label)}" if kind == "other" else ""
        caption = join([f"{similarity:.2f}", breakable(name)])
        return self._shot(image, kind, f"{kind} class, similarity {similarity:.2f}", caption)

    def _pair(self, pair):
        first, second = self.class_name(pair.first), self.class_name(pair.second)
        couples = [
            tag(
                "div",
                *(self._shot(image, "", "mistaken for each other") for image in example),
                class_="couple",
            )
            for example in pair.examples
        ]
        return tag(
            "article",
            tag("h4", self.class_link(pair.first), " and ", self.class_link(pair.second)),
            tag(
                "p",
                f"{percent(pair.share)} of their queries: {pair.first_to_second} of {first} "
                f"find {second} first, {pair.second_to_first} the other way round",
                class_="note",
            ),
            tag("div", *couples, class_="row"),
            class_="query",
        )

    def _shot(self, image, kind, label, caption=None):
        """A picture that leads to its place on the map."""
        self._used.add(int(image))
        name = self.class_name(self._label(image))
        spoken = f"{name}, {self.image_name(image)}: {label}"
        return tag(
            "a",
            tag("span", role="img", aria_label=spoken, class_=f"pic p{image}"),
            caption and tag("span", caption, class_="caption", aria_hidden="true"),
            href="#map",
            data_image=self._map_place[int(image)],
            title=spoken,
            class_=f"shot {kind}".strip(),
        )

"""What a file of this folder says about its data set, as plain data."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from keras_ms.data.image_list import ImageList


class Option(NamedTuple):
    """Something that some data sets can be told and others would not read.

    Attributes:
        name: the argument of `load_images`, and of the data set's loader.
        default: its value where nobody says anything.
        only_for: the data sets that read it, in the words of the message that refuses it for
            others: "test_fraction is for image folders".
        change: function of the loaded `ImageList` and the option's value that returns the list to
            use. None: the value is an argument of the loader.
    """

    name: str
    default: Any
    only_for: str
    change: Callable[[ImageList, Any], ImageList] | None = None


class ProgressWords(NamedTuple):
    """What a loader that takes `progress` does: `counted` while the total is unknown, then `named`.

    Attributes:
        counted: such as "Listed {:,} images".
        named: such as "checking".
    """

    counted: str
    named: str


@dataclass(frozen=True)
class DataSet:
    """A data set as `load_images` and the command line know it.

    Args:
        name: what `dataset` calls it.
        load: function of the data folder and, by keyword, of the options without a `change`, that
            returns an `ImageList`. That of a drawn set takes no folder.
        marks: files or folders, as patterns, of which any marks a data folder as holding this set;
            none is what a folder of one class is called.
        endings: of a single file that is the set itself, instead of a folder.
        options: every `Option` that it reads.
        takes: of "image_size" and "seed", what `load` takes: those of sets made for a size.
        progress: words for what it tells; None where `load` takes no `progress`.
        is_drawn: whether it needs no files.
        has_groups: whether its class names begin with groups ("Greek/alpha"), which validation
            holds out whole, since the test classes are of other groups.
    """

    name: str
    load: Callable[..., ImageList]
    marks: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    takes: tuple[str, ...] = ()
    progress: ProgressWords | None = None
    is_drawn: bool = False
    has_groups: bool = False


CHECK_COUNTS = Option("check_counts", True, "published sets with known counts")
EXIF_ORIENTATION = Option(
    "apply_exif_orientation",
    True,
    "photos",
    change=lambda images, turned: replace(images, apply_exif_orientation=turned),
)
PHOTOS_OF_A_BENCHMARK = (CHECK_COUNTS, EXIF_ORIENTATION)
EXTRACTING = ProgressWords("Extracted {:,} files", "extracting")

"""How pictures were seen as they were embedded: of one model, but cut otherwise, they differ."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class PictureView(NamedTuple):
    """How pictures were seen as they were embedded.

    Attributes:
        image_size: side of the centre that was cut out, in pixels.
        resize_to: pixels of the shorter side before the cut.
        apply_exif_orientation: whether photos were turned as their EXIF orientation says.

    Example:

    >>> PictureView(96, 108).words()
    '96 x 96 pixels, shorter side 108'
    """

    image_size: int
    resize_to: int
    apply_exif_orientation: bool = True

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "PictureView | None":
        """The view in facts of that many names; None where they do not say all of it."""
        size, resize_to = facts.get("image_size"), facts.get("resize_to")
        # of a setting that is left to its default there is 0 or nothing
        if not (isinstance(size, int) and isinstance(resize_to, int) and size and resize_to):
            return None
        return cls(size, resize_to, bool(facts.get("apply_exif_orientation", True)))

    def words(self) -> str:
        """The view in words."""
        side = f"{self.image_size} x {self.image_size} pixels, shorter side {self.resize_to}"
        return side if self.apply_exif_orientation else f"{side}, as they are stored"

    def differences(self, other: "PictureView") -> list[str]:
        """What differs, by name: "resize_to=96, and not 108", the own value first."""
        return [
            f"{name}={own}, and not {value}"
            for name, own, value in zip(self._fields, self, other)
            if own != value
        ]

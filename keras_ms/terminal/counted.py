"""Numbers of things in words."""


def counted(count: int, one: str, several: str = "") -> str:
    """How many there are, such as "1 image" and "8,144 images".

    Args:
        count: of the things.
        one: what one of them is called.
        several: what others are called. Defaults to "": `one` with an s.

    Example:

    >>> counted(1, "query", "queries"), counted(8144, "image")
    ('1 query', '8,144 images')
    """
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"

"""Tiny image files, alone or in a list, for tests that read them."""

import numpy as np
from PIL import Image


def write_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(path)


def write_csv(folder, rows):
    lines = ["path,label,split,is_query,is_gallery"]
    for number, row in enumerate(rows):
        write_image(folder / f"{number}.png", 10 * number)
        lines.append(f"{number}.png,{row}")
    path = folder / "list.csv"
    path.write_text("\n".join(lines))
    return path

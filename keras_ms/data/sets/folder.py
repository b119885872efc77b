"""A folder of images with a subfolder for each class."""

from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.declaration import EXIF_ORIENTATION, DataSet, Option, ProgressWords

_IMAGE_FOLDERS = "image folders"

DATA_SET = DataSet(
    name="folder",
    load=ImageList.from_folder,
    options=(
        Option("test_classes", None, _IMAGE_FOLDERS),
        Option("test_fraction", 0.5, _IMAGE_FOLDERS),
        Option("class_depth", None, _IMAGE_FOLDERS),
        Option("skip_unreadable", False, "image folders and CSV files"),
        Option("skip_small_classes", False, _IMAGE_FOLDERS),
        EXIF_ORIENTATION,
    ),
    progress=ProgressWords("Listed {:,} images", "checking"),
)

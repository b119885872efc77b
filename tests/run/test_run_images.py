"""From the settings of a run to its images, and training on a list with a gallery."""

import json

import numpy as np
import pytest
import small_runs
from small_images import write_csv, write_image
from small_omniglot import drawing, write_archives

from keras_ms.data.sets.omniglot import load_omniglot
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.run.fold_choice import groups_held_out
from keras_ms.run.images import check_resumed_images, command_words, load_run_images
from keras_ms.run.origin import data_summary
from keras_ms.run.settings import Settings

small_is_tiny = small_runs.small_is_tiny


def load(folder, **options):
    settings = Settings.from_values(data_dir=str(folder), validation_fraction=0.0, **options)
    return load_run_images(settings, lambda line: None)


def test_messages_name_the_options_of_the_command_line(tmp_path):
    for name in ("cat/lynx", "cat/puma", "dog/fox", "dog/wolf"):
        for number in range(2):
            write_image(tmp_path / "photos" / name / f"{number}.png", number)
    with pytest.raises(ValueError, match="On the command line: --class-depth 2, --class-depth 1"):
        load(tmp_path / "photos")
    (tmp_path / "CUB_200_2011").mkdir()
    (tmp_path / "car_ims").mkdir()
    with pytest.raises(ValueError, match="several data sets.*--dataset folder"):
        load(tmp_path)
    with pytest.raises(ValueError, match="'cub' needs data_dir.*--data-dir"):
        load("", dataset="cub")
    with pytest.raises(ValueError, match="class_depth.*at least 1"):
        Settings.from_values(class_depth=0)


@pytest.mark.parametrize(
    "message, words",
    [
        ("check_counts=False uses what is there", ["--no-check-counts"]),
        ("with skip_small_classes. Or with skip_small_classes", ["--skip-small-classes"]),
        ("in /data/check_counts/a, a/check_counts and check_counts.txt", []),
        ("read it with keras_ms.load_csv", ["--data-dir list.csv"]),
    ],
)
def test_arguments_in_command_words(message, words):
    assert command_words(message, ("check_counts", "skip_small_classes")) == words


@pytest.mark.parametrize("name", ["rotated_classes", "framed_drawings"])
def test_glyphs_refuse_what_is_for_omniglot(name):
    with pytest.raises(ValueError, match=f"{name}.*'glyphs'.*--no-{name.replace('_', '-')} after"):
        load_run_images(Settings.from_values(**{name: True}))


def test_only_the_needed_splits_have_to_be_there(tmp_path):
    path = write_csv(tmp_path, ["a,test,1,1"] * 2 + ["b,test,1,1", "c,validation,1,1"])
    settings = Settings.from_values(data_dir=str(path), validation_fraction=0.0)
    images = load_run_images(settings, lambda line: None, needed=("test",))
    assert images.counts()["test"] == (2, 3)
    with pytest.raises(ValueError, match="no train classes"):
        load_run_images(settings, lambda line: None)
    with pytest.raises(ValueError, match="validation class with at least 2 images"):
        load_run_images(settings, lambda line: None, needed=("validation",))


def class_folders(place, names, per_class=2):
    for number, name in enumerate(names):
        for image in range(per_class):
            write_image(place / name / f"{image}.png", 10 * number + image)


def test_one_validation_class_chooses_nothing_and_is_refused(tmp_path):
    class_folders(tmp_path, [f"train/{c}" for c in "abcd"] + ["validation/e", "test/f", "test/g"])
    with pytest.raises(ValueError, match="at least 2 validation classes.*has one, e"):
        load(tmp_path)
    # what is only measured may be of one class
    settings = Settings.from_values(data_dir=str(tmp_path))
    assert len(load_run_images(settings, print, needed=("validation",)).subset("validation")) == 2


def test_validation_classes_of_their_own_are_said_to_be_all(tmp_path):
    names = [*(f"train/{c}" for c in "abcd"), "validation/e", "validation/f", "test/g", "test/h"]
    class_folders(tmp_path, names)
    told = []
    settings = Settings.from_values(data_dir=str(tmp_path), validation_fraction=0.5)
    images = load_run_images(settings, told.append)
    assert images.counts()["validation"] == (2, 4)
    assert any("validation classes of its own" in line for line in told)


def test_training_classes_of_one_image_are_named_or_left_out(tmp_path):
    # trained on only where folds hold out all classes once: the loader cannot know
    class_folders(tmp_path, [f"train/{c}" for c in "abcd"] + ["validation/f", "test/g", "test/h"])
    write_image(tmp_path / "validation" / "lone" / "0.png", 99)
    options = {"freeze_backbone": True, "tune": "folds"}
    settings = Settings.from_values(data_dir=str(tmp_path), **options)
    with pytest.raises(ValueError, match="1 of 6 training classes.*1 image.*lone.*skip-small"):
        load_run_images(settings, lambda line: None)
    images = load_run_images(settings.with_values(skip_small_classes=True), lambda line: None)
    assert images.counts() == {"train": (5, 10), "test": (2, 4)}
    path = write_csv(tmp_path / "list", ["a,train,1,1"] * 2 + ["b,train,1,1"] + ["c,test,1,1"] * 2)
    with pytest.raises(ValueError, match="1 of 2 training classes of .*1 image.*: b"):
        load(path)


def test_a_resumed_run_wants_its_classes_as_they_were(tmp_path):
    class_folders(tmp_path, "abcdefgh")
    images = load(tmp_path)
    trained, told = data_summary(images), []
    check_resumed_images(images, trained, told.append)
    check_resumed_images(images, None, told.append)
    # one of an earlier version says less
    check_resumed_images(images, {n: trained[n] for n in ("counts", "test_classes")}, told.append)
    assert not told
    write_image(tmp_path / "a" / "new.png", 250)
    check_resumed_images(load(tmp_path), trained, told.append)
    assert len(told) == 1 and "Images came or went" in told[0]
    # two classes of which one is trained on and the other is not change places
    (tmp_path / "d").rename(tmp_path / "h2")
    with pytest.raises(ValueError, match="began with.*as many, others or divided otherwise"):
        check_resumed_images(load(tmp_path), trained, told.append)
    class_folders(tmp_path, ["i", "j"])
    with pytest.raises(ValueError, match="began with.*10"):
        check_resumed_images(load(tmp_path), trained, told.append)


def test_a_folder_called_omniglot_has_no_alphabets(tmp_path):
    class_folders(tmp_path / "omniglot", [f"class {c}" for c in "abcdefgh"])
    images = load(tmp_path / "omniglot")
    assert images.name == "omniglot"
    settings = Settings.from_values(data_dir=str(tmp_path / "omniglot"))
    assert groups_held_out(settings, images) is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps on a CSV file with queries and gallery, and its images."""
    from keras_ms.run.training import train

    folder = tmp_path_factory.mktemp("gallery")
    rows = [f"{name},train,1,1" for name in "abcd" for _ in range(2)]
    rows += [f"{name},test,{query},{1 - query}" for name in "ef" for query in (1, 0, 0)]
    settings = Settings.from_values(
        data_dir=str(write_csv(folder, rows)),
        validation_fraction=0.0,
        image_size=32,
        embedding_size=8,
        classes_per_batch=2,
        images_per_class=2,
        steps=2,
        steps_per_epoch=2,
        export="",
        run_name="run",
        runs_folder=str(folder / "runs"),
        export_folder=str(folder / "exports"),
        ks="1,2",
    )
    return train(settings, log=lambda line: None), settings, folder / "runs" / "run"


@pytest.mark.slow
def test_training_searches_queries_in_the_gallery(trained):
    import keras

    from keras_ms.data.images import evaluation_batches

    summary, settings, run = trained
    images = load_run_images(settings, lambda line: None).subset("test")
    model = keras.models.load_model(run / "embedder.keras", compile=False)
    batches = evaluation_batches(images, 32, resize_to=36)
    embeddings = model.predict(batches.map(lambda image, label: image), verbose=0)
    expected = recall_at_k(**images.retrieval_arguments(embeddings), ks=(1, 2))
    assert expected.num_queries == 2
    assert summary["test_recall"]["last"] == {str(k): value for k, value in expected.items()}
    assert json.loads((run / "summary.json").read_text())["data"]["test"] == [2, 6]


def held_out_alphabets(images):
    """Alphabets of the validation characters; none of them is trained on."""
    alphabets = {
        split: {images.class_names[label].split("/")[0] for label in images.subset(split).labels}
        for split in ("train", "validation")
    }
    assert not alphabets["train"] & alphabets["validation"]
    return alphabets["validation"]


@pytest.mark.filterwarnings("ignore:.*Figures will not compare")
def test_omniglot_holds_out_alphabets_and_turns_or_frames_characters(tmp_path):
    background = {
        f"images_background/{alphabet}/character0{c}/000{c}_0{d}.png": drawing(8 * c + n + d)
        for n, alphabet in enumerate(("Arcadian", "Braille", "Futurama", "Greek", "Hebrew"))
        for c in (1, 2)
        for d in (1, 2)
    }
    write_archives(tmp_path, background)
    settings = Settings.from_values(
        dataset="omniglot", data_dir=str(tmp_path), image_size=32, validation_fraction=0.3
    )
    plain = load_run_images(settings)
    assert len(held_out_alphabets(plain)) == 2
    turned = load_run_images(settings.with_values(rotated_classes=True))
    classes, images = plain.counts()["train"]
    assert turned.counts() == {**plain.counts(), "train": (4 * classes, 4 * images)}
    framed = load_run_images(settings.with_values(framed_drawings=True))
    assert framed.counts() == plain.counts()
    wanted = load_omniglot(tmp_path, image_size=32, framed=True)
    assert np.array_equal(framed.subset("test").images, wanted.subset("test").images)
    assert not np.array_equal(framed.images, plain.images)


@pytest.mark.slow
def test_of_the_real_omniglot_9_alphabets_are_held_out(shared_data):
    settings = Settings.from_values(
        dataset="omniglot", data_dir=str(shared_data), validation_fraction=0.3
    )
    assert len(held_out_alphabets(load_run_images(settings))) == 9

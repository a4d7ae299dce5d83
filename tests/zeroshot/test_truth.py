"""Truth from tables, file names and folder names."""

import csv
import random
from pathlib import Path

import pytest

from captune.errors import UserError
from captune.images import ImageFile
from captune.zeroshot.labels import read_labels, read_truth

LABELS = read_labels({"7": "cat", "3": "dog", "sea_lion": "sea lion", "sea": "the sea"})


def images(*names: str, root: str = "/data/set") -> list[ImageFile]:
    return [ImageFile(Path(root) / name, name) for name in names]


def table(folder: Path, text: str | bytes, name: str = "truth.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_from_name():
    found = images("7_1.jpg", "3_20.png", "sub/7_0.webp", "sea_lion_3.jpg", "sea_4.jpg", "cat_1.x")
    assert read_truth("from-name", found, LABELS).indices == {
        "7_1.jpg": 0,
        "3_20.png": 1,
        "sub/7_0.webp": 0,
        "sea_lion_3.jpg": 2,
        "sea_4.jpg": 3,
        "cat_1.x": 0,
    }


def test_from_name_imagenet():
    labels = read_labels({"n01440764": "tench", "n01443537": "goldfish"})
    found = images("n01443537_10007.JPEG", "n01440764_ILSVRC2012_val_00000293.JPEG")
    assert list(read_truth("from-name", found, labels).indices.values()) == [1, 0]


def test_from_name_without_truth_is_counted():
    truth = read_truth("from-name", images("7_1.jpg", "holiday.jpg", "on_the_beach.jpg"), LABELS)
    assert truth.indices == {"7_1.jpg": 0}
    assert truth.notes == (
        "from-name: 2 of 3 images have no truth and are not scored (the first is holiday.jpg).",
    )


def test_from_name_unknown_and_nothing():
    with pytest.raises(UserError) as refusal:
        read_truth("from-name", images("7_1.jpg", "8_1.jpg", "8_2.jpg", "IMG_2034.jpg"), LABELS)
    assert str(refusal.value) == (
        'from-name: "8" (8_1.jpg), "IMG" (IMG_2034.jpg) are not among the 4 labels of labels;'
        " use its ids or names."
    )
    with pytest.raises(UserError, match="no image is called <class id>_<n>, such as 7_1"):
        read_truth("from-name", images("holiday.jpg"), LABELS)


def test_from_folder():
    found = images("7/a.jpg", "dog/b.jpg", "train/sea_lion/c.jpg", "the_sea/d.jpg", "cat/x/e.jpg")
    assert list(read_truth("from-folder", found, LABELS).indices.values()) == [0, 1, 2, 3, 0]
    flat = images("a.jpg", root="/data/cat")
    assert read_truth("from-folder", flat, LABELS).indices == {"a.jpg": 0}
    with pytest.raises(UserError, match=r'"zebra" \(zebra/a.jpg\) is not among'):
        read_truth("from-folder", images("zebra/a.jpg"), LABELS)


@pytest.mark.parametrize(
    "text",
    [
        "filename,label\na.jpg,7\nb.jpg,3\n",
        "\ufefffilename,label\r\na.jpg,7\r\nb.jpg,3\r\n",
        "filename,label\na.jpg,cat\nb.jpg,dog\n",
        "Image, Class Name\na.jpg, cat\nb.jpg, dog\n",
        "split;file;category\nval;a.jpg;cat\nval;b.jpg;3\n",
        "path\ttarget\na.jpg\t7\nb.jpg\tdog\n",
        "label,filename\n7,a.jpg\n3,b.jpg\n\n,\n",
        "a.jpg,7\nb.jpg,3\n",
        'filename,label\n"a.jpg","7"\n"b.jpg","3"\n',
        "filename,label\n./a.jpg,7\n./b.jpg,3\n",
        "filename,label\nimages/val/a.jpg,7\nimages\\val\\b.jpg,3\n",
        "filename,label\n/elsewhere/a.jpg,7\n/data/set/b.jpg,3\n",
        "filename,label\na,7\nb,3\n",
        "filename,label\na.png,7\nb.png,3\n",
        "filename,label\na.jpg,7\na.jpg,7\nb.jpg,3\n",
        "filename,label\na.jpg,7\nb.jpg,3\n".encode("utf-16"),
    ],
)
def test_tables(tmp_path, text):
    truth = read_truth(str(table(tmp_path, text)), images("a.jpg", "b.jpg"), LABELS)
    assert truth.indices == {"a.jpg": 0, "b.jpg": 1}
    assert truth.notes == ()


def test_partial_truth_is_counted(tmp_path):
    path = table(tmp_path, "filename,label\na.jpg,7\ngone.jpg,3\nlost.jpg,unheard of\nc.jpg,\n")
    truth = read_truth(path, images("a.jpg", "b.jpg", "c.jpg"), LABELS)
    assert truth.indices == {"a.jpg": 0}
    assert truth.notes == (
        f"{path}: 2 of 3 images have no truth and are not scored (the first is b.jpg).",
        f"{path}: 2 rows for none of the 3 images (the first is gone.jpg).",
    )


def test_folders_tell_equal_names_apart(tmp_path):
    found = images("x/1.jpg", "y/1.jpg")
    for rows in (
        "x/1.jpg,7\ny/1.jpg,3",
        "set/x/1.jpg,7\nset/y/1.jpg,3",
        "/other/x/1.jpg,7\n/other/y/1.jpg,3",
        "x\\1.jpg,7\ny\\1.jpg,3",
    ):
        truth = read_truth(table(tmp_path, f"filename,label\n{rows}\n"), found, LABELS)
        assert truth.indices == {"x/1.jpg": 0, "y/1.jpg": 1}
    with pytest.raises(UserError, match="none of its rows names one of these images"):
        read_truth(table(tmp_path, "filename,label\n1.jpg,7\n"), found, LABELS)


def test_the_same_name_wins_over_a_similar_one(tmp_path):
    path = table(tmp_path, "filename,label\n1.jpg,7\n")
    truth = read_truth(path, images("1.jpg", "y/1.jpg", "1.png"), LABELS)
    assert truth.indices == {"1.jpg": 0}


def test_ambiguous_rows_are_not_guessed(tmp_path):
    path = table(tmp_path, "filename,label\nx/1.jpg,7\ny/1.jpg,3\nz,7\na/2.jpg,7\nb/2.jpg,7\n")
    truth = read_truth(path, images("1.jpg", "z.jpg", "z.png", "2.jpg"), LABELS)
    assert truth.indices == {"2.jpg": 0}


def test_composed_and_decomposed_accents_are_one_name(tmp_path):
    path = table(tmp_path, "filename,label\ncaf\u00e9.jpg,7\n")
    assert read_truth(path, images("cafe\u0301.jpg"), LABELS).indices == {"cafe\u0301.jpg": 0}


def test_any_name_is_found_again(tmp_path):
    chance = random.Random(5)
    alphabet = "abc019 _-.,;'\"{}[]#%\\\n\r\té日😀\u2028\udcff"
    names = {"".join(chance.choice(alphabet) for _ in range(20)) + ".jpg" for _ in range(200)}
    found = images(*sorted(names))
    wanted = {image.name: index % 4 for index, image in enumerate(found)}
    path = tmp_path / "truth.csv"
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "label"])
        writer.writerows([name, LABELS.ids[index]] for name, index in wanted.items())
    truth = read_truth(path, found, LABELS)
    assert truth.indices == wanted
    assert truth.notes == ()


def test_many_rows(tmp_path):
    found = images(*(f"class {n % 4}/image {n}.jpg" for n in range(20_000)))
    rows = "\n".join(f"train/{image.name},{LABELS.ids[n % 4]}" for n, image in enumerate(found))
    truth = read_truth(table(tmp_path, f"path,label\n{rows}\n"), found, LABELS)
    assert len(truth.indices) == 20_000


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no rows"),
        ("filename,label\n", "holds no rows"),
        ("a,b,c\n1,2,3\n", 'no columns for file and label; write filename,label there (found "a"'),
        ("a.jpg,zebra\n", "its first line has no columns for file and label"),
        ("filename\na.jpg\n", "its first line has no columns"),
        ("filename,label\na.jpg\n", "line 2 has 1 of the 2 columns"),
        (
            "filename,label\na.jpg,7\nb.jpg,3\na.jpg,3\n",
            '"a.jpg" has two labels, "7" (line 2) and "3" (line 4); keep one of them.',
        ),
        (
            "filename,label\na.jpg,zebra\nb.jpg,7\n",
            '"zebra" (line 2) is not among the 4 labels of labels; use its ids or names.',
        ),
        ("filename,label\nz.jpg,7\n", "none of its rows names one of these images (its first is z"),
        (f'filename,label\n"{"x" * 200_000}",7\n', "line 2 is not a table row"),
        (b"filename,label\na.jpg,\0\n", "is not a text file"),
        ('{"a.jpg": "7"}', "its first line has no columns"),
    ],
)
def test_bad_tables_are_one_sentence(tmp_path, text, sentence):
    path = table(tmp_path, text)
    with pytest.raises(UserError) as refusal:
        read_truth(path, images("a.jpg", "b.jpg"), LABELS)
    assert str(refusal.value).startswith((f"{path}: ", f"{path} "))
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_unknown_labels_are_named_and_counted(tmp_path):
    names = [f"{n}.jpg" for n in range(9)]
    path = table(tmp_path, "filename,label\n" + "\n".join(f"{name},u{name}" for name in names))
    with pytest.raises(UserError, match=r'"u0.jpg" \(line 2\), .* and 6 more are not among'):
        read_truth(path, images(*names), LABELS)


def test_missing_table(tmp_path):
    for path in (tmp_path / "gone.csv", tmp_path, "from_name", "x" * 5_000, "nul\0"):
        with pytest.raises(UserError, match=r"does not exist; give a CSV|cannot be read"):
            read_truth(path, images("a.jpg"), LABELS)

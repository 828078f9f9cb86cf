"""The data: what is embedded is what its script makes, and damaged files are clean errors."""

from __future__ import annotations

import gzip
import importlib.util
import os
import struct
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from gammabeta.lab.data.flat import DATASETS, load
from gammabeta.lab.data.idx import read_idx
from gammabeta.lab.data.raw import DataError
from gammabeta.lab.data.sources import FASHION_MNIST

ROOT = Path(__file__).parents[3]
EMBEDDED = ROOT / "src/gammabeta/lab/data/digits/digits.npz"


def test_digits() -> None:
    digits = load("digits")
    assert (digits.name, digits.classes) == ("digits", 10)
    assert digits.train_x.shape == (1437, 64)
    assert digits.test_x.shape == (360, 64)
    assert digits.train_x.dtype == digits.test_x.dtype == torch.float32
    assert digits.train_y.dtype == digits.test_y.dtype == torch.int64
    # The counts UCI publishes for its test file, which these 1,797 images are.
    counts = torch.bincount(digits.train_y) + torch.bincount(digits.test_y)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # Standardized by the training set's mean and std, not by its own.
    assert float(digits.train_x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(digits.train_x.std()) == pytest.approx(1, abs=1e-5)
    archive = np.load(EMBEDDED)
    raw = archive["images"].reshape(-1, 64).astype(np.float64)
    assert (raw.min(), raw.max()) == (0, 16)
    for x in (digits.train_x, digits.test_x):
        assert float(x.min()) == float(digits.train_x.min())  # one shift and scale for both


def test_the_split_takes_each_image_once() -> None:
    digits = load("digits")
    archive = np.load(EMBEDDED)
    original = np.column_stack([archive["images"].reshape(-1, 64), archive["labels"]])
    # Back to 0 … 16 by the smallest and largest value, which are those of the raw images.
    x = torch.cat([digits.train_x, digits.test_x]).double()
    raw = ((x - x.min()) / (x.max() - x.min()) * 16).round().numpy()
    y = torch.cat([digits.train_y, digits.test_y]).numpy()
    found = np.column_stack([raw, y])
    assert sorted(map(tuple, found.astype(int))) == sorted(map(tuple, original.astype(int)))
    # The frozen split: the first labels of each part.
    again = load("digits")
    assert torch.equal(again.train_x, digits.train_x)
    assert torch.equal(again.test_y, digits.test_y)
    order = np.random.Generator(np.random.PCG64(0)).permutation(1797)
    assert digits.train_y.tolist() == archive["labels"][order[:1437]].tolist()
    assert digits.test_y.tolist() == archive["labels"][order[1437:]].tolist()


def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "make_digits", ROOT / "scripts/make_digits.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_embedded_file_is_what_its_script_makes(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    script().main(tmp_path / "digits.npz")
    made, kept = np.load(tmp_path / "digits.npz"), np.load(EMBEDDED)
    assert list(made) == list(kept) == ["images", "labels"]
    for name in made:
        assert made[name].dtype == kept[name].dtype == np.uint8
        assert np.array_equal(made[name], kept[name])
    assert (tmp_path / "digits.npz").read_bytes() == EMBEDDED.read_bytes()


def test_the_licence_of_the_digits_is_beside_them() -> None:
    text = (EMBEDDED.parent / "LICENSE").read_text()
    assert "CC BY 4.0" in text or "Creative Commons Attribution 4.0" in text


# IDX.


def idx(array: np.ndarray) -> bytes:
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 4), (0,), (0, 28, 28)], ids=str)
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_round_trip(tmp_path: Path, shape: tuple[int, ...], zipped: bool) -> None:
    array = (np.arange(np.prod(shape)) * 7 % 256).astype(np.uint8).reshape(shape)
    path = tmp_path / ("file.gz" if zipped else "file")
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    found = read_idx(path)
    assert found.dtype == np.uint8
    assert np.array_equal(found, array)
    assert found.shape == shape


GOOD = idx(np.zeros((2, 3), np.uint8))
ZIPPED = gzip.compress(GOOD)
GARBLED = ZIPPED[:10] + b"\xff" * (len(ZIPPED) - 18) + ZIPPED[-8:]
DAMAGED = {
    "empty": ("file", b"", "is not an IDX file of unsigned bytes"),
    "three bytes": ("file", b"\0\0\x08", "is not an IDX file of unsigned bytes"),
    "text": ("file", b"label,pixel0\n", "is not an IDX file of unsigned bytes"),
    "floats": ("file", b"\0\0\x0d" + GOOD[3:], "is not an IDX file of unsigned bytes"),
    "cut in the header": ("file", GOOD[:9], "is not an IDX file of unsigned bytes"),
    "cut": ("file", GOOD[:-1], "holds 5 bytes where its header says 6"),
    "too long": ("file", GOOD + b"\0", "holds 7 bytes where its header says 6"),
    "huge": ("file", b"\0\0\x08\x02" + b"\xff" * 8, "holds 0 bytes where its header says"),
    "not zipped": ("file.gz", GOOD, "cannot be read: Not a gzipped file"),
    "zip cut": ("file.gz", ZIPPED[:-9], "cannot be read"),
    "zip cut in its header": ("file.gz", ZIPPED[:4], "cannot be read"),
    "zip garbled": ("file.gz", GARBLED, "cannot be read"),
    "zip of another sum": ("file.gz", ZIPPED[:-8] + b"\0" * 8, "cannot be read"),
}


@pytest.mark.parametrize(("name", "content", "said"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_idx(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path} ")
    assert said in str(caught.value)


def test_the_garbled_zip_is_one_that_zlib_refuses() -> None:
    with pytest.raises(zlib.error):
        gzip.decompress(GARBLED)


def test_no_such_idx(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_idx(path)


# Fashion-MNIST.

STEMS = {
    "train-images-idx3-ubyte": np.arange(3 * 4).reshape(3, 2, 2),
    "train-labels-idx1-ubyte": np.array([0, 2, 1]),
    "t10k-images-idx3-ubyte": np.arange(2 * 4).reshape(2, 2, 2),
    "t10k-labels-idx1-ubyte": np.array([1, 0]),
}


def folder_with(path: Path, **changes: np.ndarray) -> Path:
    for stem, array in STEMS.items():
        key = stem[:5].rstrip("-") + "_" + ("images" if "images" in stem else "labels")
        (path / stem).write_bytes(idx(changes.get(key, array)))
    return path


def test_a_folder_of_idx_files(tmp_path: Path) -> None:
    folder_with(tmp_path)
    packed = tmp_path / "train-images-idx3-ubyte"  # one of them zipped
    packed.with_suffix(".gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    data = load("fashion-mnist", tmp_path)
    raw = np.arange(12).reshape(3, 4).astype(np.float64)
    mean, std = raw.mean(), raw.std(ddof=1)
    np.testing.assert_allclose(data.train_x.numpy(), (raw - mean) / std, rtol=1e-6)
    np.testing.assert_allclose(data.test_x.numpy(), (raw[:2] - mean) / std, rtol=1e-6)
    assert (data.train_y.tolist(), data.test_y.tolist()) == ([0, 2, 1], [1, 0])
    assert data.classes == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_labels": np.zeros(2)}, "holds 3 images but 2 labels"),
        ({"t10k_images": np.zeros((5, 2, 2))}, "holds 5 images but 2 labels"),
        ({"train_images": np.zeros((3, 4))}, "images of shape (3, 4)"),
        ({"train_labels": np.zeros((3, 1))}, "labels of shape (3, 1)"),
        ({"t10k_images": np.zeros((2, 3, 3))}, "images of 2 × 2 to train on but 3 × 3 to test on"),
        (
            {"train_images": np.zeros((0, 2, 2)), "train_labels": np.zeros(0)},
            "holds no images",
        ),
        ({"t10k_labels": np.array([1, 9])}, "label 9"),
    ],
    ids=str,
)
def test_files_that_do_not_go_together(
    tmp_path: Path, changes: dict[str, np.ndarray], said: str
) -> None:
    folder_with(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path} ")
    assert said in str(caught.value)


def test_a_folder_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has no train-images-idx3-ubyte.gz; give the folder of Fashion-MNIST's four "
        "IDX files with --data-dir, or (on Debian) apt install dataset-fashion-mnist"
    )


def test_unknown_name() -> None:
    assert DATASETS == ("digits", "fashion-mnist")
    with pytest.raises(ValueError, match="dataset='digit' is not known; did you mean 'digits'"):
        load("digit")


@pytest.mark.data
@pytest.mark.skipif(
    not FASHION_MNIST.is_dir(), reason="apt install dataset-fashion-mnist for its files"
)
def test_fashion_mnist() -> None:
    data = load("fashion-mnist")
    assert data.train_x.shape == (60_000, 784)
    assert data.test_x.shape == (10_000, 784)
    assert torch.bincount(data.train_y).tolist() == [6_000] * 10
    assert torch.bincount(data.test_y).tolist() == [1_000] * 10
    assert data.classes == 10
    assert float(data.train_x.double().mean()) == pytest.approx(0, abs=1e-4)
    assert float(data.train_x.double().std()) == pytest.approx(1, abs=1e-4)
    assert data.train_y[:5].tolist() == [9, 0, 0, 3, 0]  # an ankle boot first, as in the paper


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match="is not a regular file"):
        load("fashion-mnist", tmp_path)

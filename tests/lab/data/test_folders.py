"""What lies in a folder of images: what is an example, what is passed over, and what is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gammabeta.lab.data import Images, load_images
from gammabeta.lab.data import folder as folders
from gammabeta.lab.data.distort import opened
from gammabeta.lab.data.raw import DataError
from gammabeta.lab.train.run import fit, resume
from tests.lab.train.small import PLAN, Small, rebuild


def png(path: Path, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, "PNG")
    return path


def pictures(root: Path, *classes: str, count: int = 5) -> Path:
    for name in classes:
        for number in range(count):
            png(root / name / f"{number}.png")
    return root


def counts(found: Images) -> tuple[int, int]:
    return len(found.train), len(found.test)  # type: ignore[arg-type]


SERVICE = [
    ".ipynb_checkpoints",
    ".thumbnails",
    ".git",
    ".AppleDouble",
    ".hidden",
    "__MACOSX",
    "thumbnails",
    "Thumbs",
    "@eaDir",
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
]


@pytest.mark.parametrize("name", SERVICE)
@pytest.mark.parametrize("split", [False, True], ids=["alone", "split"])
def test_what_tools_put_beside_the_images_is_no_example(
    name: str, split: bool, tmp_path: Path
) -> None:
    parts = [tmp_path / "train", tmp_path / "val"] if split else [tmp_path]
    for part in parts:
        pictures(part, "cat", "dog")
        png(part / "cat/deep/er/5.png")
    alone = load_images("folder", tmp_path)
    for part in parts:
        for place in (tmp_path, part, part / "cat", part / "cat/deep", part / "dog"):
            png(place / name / "copy.png")
            png(place / name / "cat/copy.png")  # at any depth within
            png(place / "._cat.png")
            (place / "Thumbs.db").touch()
    found = load_images("folder", tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.fingerprint == alone.fingerprint
    assert counts(found) == counts(alone) == ((11, 11) if split else (9, 2))
    held = 9 if split else 4
    said = f"{held} hidden or service folders passed over: {name} {held}"
    assert found.note == "; ".join(filter(None, [alone.note, said]))


def test_the_folder_itself_may_be_hidden(tmp_path: Path) -> None:
    assert counts(load_images("folder", pictures(tmp_path / ".cache/@eaDir", "a", "b"))) == (8, 2)


def test_a_service_folder_without_images_is_not_mentioned(tmp_path: Path) -> None:
    pictures(tmp_path, "a", "b")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").touch()
    (tmp_path / "__MACOSX/a").mkdir(parents=True)
    (tmp_path / "__MACOSX/a/._0.png").touch()  # no image: a Mac's attributes of one
    assert "passed over" not in load_images("folder", tmp_path).note


def test_files_passed_over_are_counted(tmp_path: Path) -> None:
    pictures(tmp_path, "cat", "dog")
    assert "passed over" not in load_images("folder", tmp_path).note
    (tmp_path / "cat/one.TXT").touch()
    assert load_images("folder", tmp_path).note.endswith("1 file passed over: .txt 1")
    (tmp_path / "dog/in").mkdir()
    for name in ("cat/a.heic", "dog/in/two.txt", "cat/.hidden.txt", "dog/desktop.ini"):
        (tmp_path / name).touch()
    found = load_images("folder", tmp_path)
    assert found.note.endswith("; 3 files passed over: .txt 2, .heic 1")
    for name in ("cat/none", "cat/a.c", "cat/a.b", "cat/a.a", "cat/b.b"):
        (tmp_path / name).touch()
    png(tmp_path / "beside.png")
    (tmp_path / "labels.csv").touch()  # beside the classes nobody expects an image of it
    assert load_images("folder", tmp_path).note.endswith(
        "; 8 files passed over: .b 2, .txt 2, .a 1, .c 1, others 2; "
        "images beside the folders of classes passed over: 1"
    )


def test_a_suffix_is_only_a_name(tmp_path: Path) -> None:
    pictures(tmp_path, "cat", "dog")
    png(tmp_path / "cat/really.JPG")
    Image.new("RGB", (8, 8)).save(tmp_path / "cat/other.Png", "JPEG")
    found = load_images("folder", tmp_path)
    assert sum(counts(found)) == 12
    assert "passed over" not in found.note


def test_a_class_without_images_says_what_is_there(tmp_path: Path) -> None:
    pictures(tmp_path, "cat", "dog")
    (tmp_path / "owl").mkdir()
    for name in "abc":
        (tmp_path / f"owl/{name}.heic").touch()
    with pytest.raises(DataError, match=r"owl has no images \(.*\); 3 files passed over: .heic 3"):
        load_images("folder", tmp_path)


Layout = Callable[[Path], object]
ADVICE: dict[str, tuple[Layout, str, Layout]] = {
    "a-folder-each": (
        lambda root: png(root / "loose.png"),
        "no sub-folders with images; need one for each class",
        lambda root: pictures(root, "cat", "dog"),
    ),
    "a-second-class": (
        lambda root: pictures(root, "cat"),
        "need a sub-folder each for two$",
        lambda root: pictures(root, "dog"),
    ),
    "a-split": (
        lambda root: pictures(root / "val", "cat", "dog"),
        "need a sub-folder each for two, or train beside val",
        lambda root: pictures(root / "train", "cat", "dog"),
    ),
    "more-images": (
        lambda root: (pictures(root, "cat", "dog"), (root / "owl").mkdir()),
        "owl has no images .*; put some in, or take the folder away",
        lambda root: png(root / "owl/0.png"),
    ),
    "no-such-class": (
        lambda root: (pictures(root, "cat", "dog"), (root / "owl").mkdir()),
        "owl has no images .*; put some in, or take the folder away",
        lambda root: (root / "owl").rmdir(),
    ),
    "a-class-to-train-on": (
        lambda root: (pictures(root / "train", "cat", "dog"), pictures(root / "val", "owl")),
        "a class 'owl' that is not in .*train; add it there",
        lambda root: pictures(root / "train", "owl"),
    ),
    "none-to-test-on": (
        lambda root: (pictures(root / "train", "cat", "dog"), pictures(root / "val", "cat", "owl")),
        "or take it away here",
        lambda root: (root / "val/owl").rename(root / "owl"),
    ),
    **{
        f"{name}-to-test-on": (
            lambda root: pictures(root / "train", "cat", "dog"),
            f"no folder to test on beside it: .*{name}",
            lambda root, name=name: pictures(root / name, "cat", "dog"),
        )
        for name in folders.TEST_FOLDERS
    },
}


@pytest.mark.parametrize(("make", "said", "follow"), ADVICE.values(), ids=ADVICE)
def test_advice_helps(make: Layout, said: str, follow: Layout, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=said):
        load_images("folder", tmp_path)
    follow(tmp_path)
    assert {"cat", "dog"} <= set(load_images("folder", tmp_path).classes)


def test_advice_on_unreadable_images_helps(tmp_path: Path) -> None:
    pictures(tmp_path, "cat", "dog", "owl")
    for path in (tmp_path / "owl").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="--skip-unreadable leaves them out, but a run"):
        load_images("folder", tmp_path)
    with pytest.raises(DataError, match="bring these back, or take the class away"):
        load_images("folder", tmp_path, skip_unreadable=True)
    pictures(tmp_path, "owl")
    assert sum(counts(load_images("folder", tmp_path, skip_unreadable=True))) == 15
    (tmp_path / "owl").rename(tmp_path.parent / f"{tmp_path.name}-owl")
    assert sum(counts(load_images("folder", tmp_path))) == 10


def test_advice_on_a_test_split_that_is_gone_helps(tmp_path: Path) -> None:
    pictures(tmp_path / "train", "cat", "dog")
    bad = png(tmp_path / "val/cat/0.png")
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match="has no readable test images left; restore some"):
        load_images("folder", tmp_path, skip_unreadable=True)
    png(bad)
    assert counts(load_images("folder", tmp_path, skip_unreadable=True)) == (10, 1)


def test_advice_on_too_many_bits_helps(tmp_path: Path) -> None:
    pictures(tmp_path, "cat", "dog")
    odd = tmp_path / "cat/odd.tif"
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(odd)
    with pytest.raises(DataError, match="not 8 or 16 bits each; save it with as many"):
        load_images("folder", tmp_path)
    Image.fromarray(np.full((8, 8), 2**15, np.uint16)).save(odd)
    assert sum(counts(load_images("folder", tmp_path))) == 11
    assert opened(odd).getpixel((0, 0)) == (128,) * 3


@pytest.mark.parametrize("sound", [False, True], ids=["never-sound", "sound-at-first"])
def test_advice_on_an_image_found_unreadable_later_helps(
    sound: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "DECODED", 0)  # only heads are read before training
    root = pictures(tmp_path / "images", "cat", "dog", count=20)
    bad = load_images("folder", root).train.paths[5]  # type: ignore[union-attr]
    whole = bad.read_bytes()

    def damage(progress: Any = None) -> None:
        bad.write_bytes(whole[:45])

    if not sound:
        damage()
    plan = replace(PLAN, data="folder", data_dir=str(root), size=8, steps=16, log_every=2)
    plan = replace(plan, checkpoint_every=1, evaluate_every=0)
    small, run = Small(batch_size=4), tmp_path / "run"
    with pytest.raises(DataError, match="--skip-unreadable takes the next image in its place; if"):
        fit(small, plan, run, report=damage if sound else None)
    if sound:
        bad.write_bytes(whole)
    assert resume(run, rebuild=rebuild, skip_unreadable=not sound).step == 16
    damage()
    again = fit(small, replace(plan, skip_unreadable=True), tmp_path / "again")
    assert again.step == 16

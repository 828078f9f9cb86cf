"""A folder of images: a sub-folder for each class."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gammabeta.lab.data.distort import opened, pillow, read
from gammabeta.lab.data.examples import Example, Images, Picture
from gammabeta.lab.data.found import SUFFIXES, Found
from gammabeta.lab.data.order import draw
from gammabeta.lab.data.raw import DataError

SIZE = 224
CENTRED = (0.5, 0.5, 0.5)
"""Mean and standard deviation for photographs, as in Inception: bytes become −1 … 1."""

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("val", "valid", "validation", "test", "testing")
DECODED = 5_000
"""Up to this many files are decoded before training; of more, only the headers are read."""

_SPLIT = 5  # a stream of random numbers beside those of `order`, `feed` and `arrays`
_TEST_SHARE = 5
_THREADS = 4
_NAMED = 3


class Files:
    """Examples that are image files.

    Args:
        paths: paths of the files.
        labels: their classes.
        skip: replace a file that cannot be read with the next one.
    """

    def __init__(self, paths: list[Path], labels: list[int], skip: bool) -> None:
        self.paths = paths
        self.labels = labels
        self._skip = skip

    def __len__(self) -> int:
        return len(self.paths)

    def example(self, index: int) -> Example:
        """Return a Pillow image and its class.

        Raises:
            DataError: the file cannot be read.
        """
        for step in range(len(self.paths)):
            at = (index + step) % len(self.paths)
            problem, picture = _decode(self.paths[at])
            if problem is None:
                return picture, self.labels[at]
            if not self._skip:
                raise DataError(
                    f"{self.paths[at]} cannot be read: {problem}; --skip-unreadable takes the next "
                    "image in its place; if it was sound when the run began, bring it back instead"
                )
        raise DataError("no image can be read any more")


def image_folder(folder: Path, size: int | None = None, *, skip_unreadable: bool = False) -> Images:
    """Return the images of a folder with a sub-folder for each class.

    With sub-folders ``train`` and ``val`` (or others of `TRAIN_FOLDERS` and `TEST_FOLDERS`), which
    hold those of the classes, the split is theirs. Otherwise a fixed fifth of each class is for
    testing. What `found` calls a service folder is passed over at every depth, and so are files
    without a suffix of an image's; the note counts them.

    Args:
        folder: folder of the images.
        size: height and width of the network's input; 224 if None.
        skip_unreadable: leave out files that cannot be read.

    Raises:
        DataError: the folder is missing or empty, has one class or an empty one, half a split, or
            files that cannot be read: they are counted, and the first ones named.
    """
    if not folder.is_dir():
        raise DataError(f"data_dir={folder} is no folder")
    pillow()
    there = Found()
    training, testing = (_inside(there, folder, names) for names in (TRAIN_FOLDERS, TEST_FOLDERS))
    notes = []
    if training is not None and testing is not None:
        found = _classes(there, training)
        tests = _classes(there, testing, found, training)
    elif training is not None and there.folders(training):
        raise DataError(
            f"{training} holds classes, but {folder} has no folder to test on beside it: "
            f"{', '.join(TEST_FOLDERS)}"
        )
    else:
        found, tests = _split(_classes(there, folder))
    names = tuple(found)
    if len(names) < 2:
        split = f", or {TRAIN_FOLDERS[0]} beside {testing.name}" if testing is not None else ""
        raise DataError(
            f"{folder} has one class, {names[0]!r}; need a sub-folder each for two{split}"
        )
    unreadable = _unreadable([p for part in (found, tests) for ps in part.values() for p in ps])
    if unreadable:
        shown = ", ".join(f"{path} ({why})" for path, why in list(unreadable.items())[:_NAMED])
        more = f" and {len(unreadable) - _NAMED} more" if len(unreadable) > _NAMED else ""
        said = f"{len(unreadable)} of the images cannot be read: {shown}{more}"
        if not skip_unreadable:
            raise DataError(
                f"{said}; --skip-unreadable leaves them out, but a run that began with them needs "
                "them back"
            )
        notes.append(f"left out: {said}")
    train, test = (_files(names, part, unreadable, skip_unreadable) for part in (found, tests))
    if not test:
        raise DataError(f"{folder} has no readable test images left; restore some")
    lost, untested = (
        [name for label, name in enumerate(names) if label not in used]
        for used in (set(train.labels), set(test.labels))
    )
    if lost:
        raise DataError(
            f"no image of the class {lost[0]!r} in {folder} can be read, of those to train on; "
            "bring these back, or take the class away"
        )
    if untested:
        few = ", ".join(map(repr, untested[:_NAMED]))
        others = f" and {len(untested) - _NAMED} more" if len(untested) > _NAMED else ""
        notes.append(f"no images to test on of {few}{others}")
    if training is None or testing is None:
        fixed = f"a fixed split, {len(test):,} images for testing"
        notes.insert(0, f"no train and val in {folder}: {fixed}")
    notes += there.notes()
    known = "\n".join(
        f"{path.relative_to(folder)} {path.stat().st_size}" for path in (*train.paths, *test.paths)
    )
    return Images(
        "folder",
        names,
        3,
        size or SIZE,
        CENTRED,
        CENTRED,
        train,
        test,
        zlib.crc32(known.encode("utf-8", "surrogateescape")),
        distorted=True,
        note="; ".join(notes),
    )


def _inside(there: Found, folder: Path, names: tuple[str, ...]) -> Path | None:
    """The sub-folder that has the first of ``names``, in whatever case."""
    called = {inside.name.lower(): inside for inside in there.folders(folder)}
    return next((called[name] for name in names if name in called), None)


def _classes(
    there: Found,
    folder: Path,
    needed: dict[str, list[Path]] | None = None,
    beside: Path | None = None,
) -> dict[str, list[Path]]:
    """Map each class to its files, both sorted by name."""
    found = {}
    there.beside(folder)
    for inside in there.folders(folder):
        files, others = there.images(inside)
        if not files:
            said = f" {others};" if others else ""
            raise DataError(
                f"{inside} has no images ({', '.join(SUFFIXES)});{said} put some in, or take the "
                "folder away"
            )
        found[inside.name] = files
    if not found:
        raise DataError(f"{folder} has no sub-folders with images; need one for each class")
    if needed is not None and not set(found) <= set(needed):
        strange = sorted(set(found) - set(needed))[0]
        raise DataError(
            f"{folder} has a class {strange!r} that is not in {beside}; add it there, or take it "
            "away here"
        )
    return found


def _split(found: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    train, test = {}, {}
    for number, (name, files) in enumerate(found.items()):
        order = draw(_SPLIT, number).permutation(len(files))
        held = len(files) // _TEST_SHARE or int(len(files) > 1)
        chosen = {int(i) for i in order[:held]}
        test[name] = [file for i, file in enumerate(files) if i in chosen]
        train[name] = [file for i, file in enumerate(files) if i not in chosen]
    return train, test


def _files(
    names: tuple[str, ...], part: dict[str, list[Path]], bad: dict[Path, str], skip: bool
) -> Files:
    pairs = [(p, names.index(n)) for n, paths in part.items() for p in paths if p not in bad]
    return Files([p for p, _ in pairs], [label for _, label in pairs], skip)


def _unreadable(paths: list[Path]) -> dict[Path, str]:
    """The files that cannot be read, each with the reason."""
    look = _decode if len(paths) <= DECODED else _head
    with ThreadPoolExecutor(_THREADS) as pool:
        answers = pool.map(lambda path: look(path)[0], paths)
        return {path: why for path, why in zip(paths, answers, strict=True) if why is not None}


def _decode(path: Path) -> tuple[str | None, Picture]:
    return _look(path, whole=True)


def _head(path: Path) -> tuple[str | None, Picture]:
    return _look(path, whole=False)


def _look(path: Path, whole: bool) -> tuple[str | None, Picture]:
    """Why an image cannot be read, or None; and the image."""
    try:
        return None, opened(path) if whole else read(path, lambda image: None)
    except Exception as e:  # damaged files raise anything
        why = str(e).replace(f" {str(path)!r}", "")
        return why or type(e).__name__, None

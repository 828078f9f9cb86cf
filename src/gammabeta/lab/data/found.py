"""Find the images of a class in a folder, and count the files that were skipped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
SERVICE = frozenset(
    {
        "__macosx",
        "__pycache__",
        "@eadir",
        "@recycle",
        "@tmp",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "lost+found",
        "thumbnails",
        "thumbs",
        "_thumbnails",
        "_thumbs",
        "system volume information",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    }
)
"""Lower-case names of files and folders that tools and operating systems create."""

_NAMED = 4


def service(name: str) -> bool:
    """Return whether this name is hidden, or belongs to a tool or an operating system.

    Example:
        >>> service(".ipynb_checkpoints"), service("@eaDir"), service("cat")
        (True, True, False)
    """
    return name.startswith(".") or name.lower() in SERVICE


class Found:
    """Finds images, and remembers what it skipped."""

    def __init__(self) -> None:
        self._suffixes: Counter[str] = Counter()
        self._service: set[Path] = set()
        self._beside = 0

    def folders(self, folder: Path) -> list[Path]:
        """Return the sub-folders of ``folder`` that a person made, in the order of their names."""
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
        self._service.update(path for path in inside if service(path.name))
        return [path for path in inside if not service(path.name)]

    def images(self, folder: Path) -> tuple[list[Path], str]:
        """Return the images of a class, from every depth, and what is said of its other files."""
        images, others = [], Counter[str]()
        for path in self._files(folder):
            if path.suffix.lower() in SUFFIXES:
                images.append(path)
            else:
                others[path.suffix.lower() or "no suffix"] += 1
        self._suffixes += others
        return sorted(images), _counted("file", others)

    def beside(self, folder: Path) -> None:
        """Count the images that lie beside the folders of the classes."""
        self._beside += sum(_is_image(path) for path in folder.iterdir())

    def notes(self) -> list[str]:
        """Return what was passed over, in words; a service folder only if it holds images."""
        kept = Counter(path.name for path in self._service if _holds_images(path))
        notes = [_counted("file", self._suffixes), _counted("hidden or service folder", kept)]
        if self._beside:
            notes.append(f"images beside the folders of classes passed over: {self._beside:,}")
        return [note for note in notes if note]

    def _files(self, folder: Path) -> Iterator[Path]:
        for place, inside, names in os.walk(folder):
            self._service.update(Path(place, name) for name in inside if service(name))
            inside[:] = [name for name in inside if not service(name)]
            paths = (Path(place, name) for name in names if not service(name))
            yield from (path for path in paths if _is_file(path))


def _is_file(path: Path) -> bool:
    """Also a link to nowhere: it is a file that cannot be read."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not service(path.name) and _is_file(path)


def _holds_images(folder: Path) -> bool:
    """Whether there is one at any depth; ``._cat.jpg`` beside a Mac's ``cat.jpg`` is none."""
    return any(
        _is_image(Path(place, name)) for place, _, names in os.walk(folder) for name in names
    )


def _counted(what: str, counts: Counter[str]) -> str:
    """Such as "3 files passed over: .txt 2, .heic 1"; empty if there are none."""
    total = counts.total()
    if not total:
        return ""
    first = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:_NAMED]
    named = [f"{name} {count:,}" for name, count in first]
    others = total - sum(count for _, count in first)
    named += [f"others {others:,}"] if others else []
    return f"{total:,} {what}{'s' * (total > 1)} passed over: {', '.join(named)}"

"""The networks of the zoo: every architecture of pytorchcv, and tiny ones of transformers."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from gammabeta.lab.bench.net_models import Network, from_pytorchcv, pytorchcv_provider
from gammabeta.lab.bench.rivals import Absent
from gammabeta.lab.bench.zoo_transformers import ARCHITECTURES, tiny
from gammabeta.names import known

SIZES = (64, 96, 128, 160, 224, 256, 299, 320, 480, 512)
"""Heights and widths that are tried, until one is large enough for the network."""

BATCH = 4

_CLASSES, _FRAMES = 10, 64


def names() -> list[str]:
    """Return the names of all networks whose library is installed.

    The first network of each of pytorchcv's files comes first, then the second of each, so that
    a run that is broken off has seen many kinds.
    """
    found = [f"transformers:{name}" for name in ARCHITECTURES] if _installed("transformers") else []
    if _installed("pytorchcv"):
        files: dict[str, list[str]] = {}
        for name, made in pytorchcv_provider()._models.items():
            files.setdefault(made.__module__, []).append(f"pytorchcv:{name}")
        for turn in range(max(map(len, files.values()))):
            found += [own[turn] for own in files.values() if turn < len(own)]
    return found


def check(name: str) -> None:
    """Check that ``name`` is of the zoo.

    Raises:
        ValueError: it is not.
    """
    home, _, own = name.partition(":")
    if home == "transformers":
        known("transformers", own, ARCHITECTURES)
    elif home == "pytorchcv":
        known("pytorchcv", own, pytorchcv_provider()._models)
    else:
        raise ValueError(f"networks={name!r} must be pytorchcv:NAME or transformers:NAME")


def load(name: str) -> Network:
    """Build a network and an input as small as it takes.

    Args:
        name: ``"pytorchcv:NAME"`` or ``"transformers:NAME"``.

    Raises:
        Absent: it cannot be built or runs on no input that is tried; the message says why.
        ValueError: there is no such network.
    """
    check(name)
    home, _, own = name.partition(":")
    reason = ""
    candidates = _candidates(home, own)
    while True:
        try:
            with older_numpy(), torch.no_grad():
                model, args, kwargs = next(candidates)
                model.train()(*args, **kwargs)
        except StopIteration:
            raise Absent(reason or "it takes no input that is tried") from None
        except (MemoryError, Absent):
            raise
        except Exception as e:  # somebody else's network may raise anything
            reason = reason or f"{type(e).__name__}: {' '.join(str(e).split())[:120]}"
            continue
        first = next(iter((*args, *kwargs.values())))
        return Network(name, model, "x".join(map(str, first.shape)), args, kwargs)


@contextlib.contextmanager
def older_numpy() -> Iterator[None]:
    """Give NumPy the name ``int`` again, which some of pytorchcv's networks use."""
    missing = "int" not in vars(np)
    if missing:
        vars(np)["int"] = int
    try:
        yield
    finally:
        if missing:
            del vars(np)["int"]


_Candidate = tuple[nn.Module, tuple[Tensor, ...], dict[str, Tensor]]


def _candidates(home: str, name: str) -> Iterator[_Candidate]:
    """Yield the network with one input after the other, the smallest first."""
    torch.manual_seed(0)
    if home == "transformers":
        model, kwargs = tiny(name)
        yield model, (), kwargs
        return
    file = pytorchcv_provider()._models[name].__module__.rpartition(".")[2]
    if file in _SPECIAL:
        yield _SPECIAL[file](name)
        return
    for size in SIZES:
        torch.manual_seed(0)
        sized = _with_size(name, size)
        if sized is not None:
            for channels in dict.fromkeys((_channels(sized), 3)):
                yield sized, (torch.randn(BATCH, channels, size, size),), {}


def _with_size(name: str, size: int) -> nn.Module | None:
    """Return the network for pictures of ``size``, or None if it takes none of that size."""
    for options in ({"in_size": (size, size)}, {}):
        try:
            return from_pytorchcv(name, num_classes=None, **options)
        except TypeError:
            continue
        except (AssertionError, ValueError, RuntimeError):
            return None
    return None


def _channels(model: nn.Module) -> int:
    """Return the channels of the first convolution's input."""
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            return int(module.in_channels)
    return 3


def _audio(name: str) -> _Candidate:
    model = from_pytorchcv(name, num_classes=None, from_audio=False)
    x = torch.randn(BATCH, _channels(model), _FRAMES)
    return model, (x, torch.full((BATCH,), _FRAMES)), {}


def _voice(name: str) -> _Candidate:
    x = torch.randn(BATCH, 1, 16, 29)
    return from_pytorchcv(name, num_classes=None), (x, torch.arange(BATCH)), {}


def _pattern(name: str) -> _Candidate:
    x = torch.randn(BATCH, 8, 16, 29)
    return from_pytorchcv(name, num_classes=None), (x, torch.arange(BATCH)), {}


_SPECIAL: dict[str, Callable[[str], _Candidate]] = {
    "jasper": _audio,
    "jasperdr": _audio,
    "quartznet": _audio,
    "voca": _voice,
    "nvpattexp": _pattern,
}


def _installed(library: str) -> bool:
    try:
        importlib.import_module(library)
    except ImportError:
        return False
    return True

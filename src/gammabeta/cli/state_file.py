"""Weights in a file: read without running anything in it, and written back in the same form."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.atomic_files import write_whole
from gammabeta.cli.named import line

_NESTED = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
"""Where training scripts put a state dict in a checkpoint."""
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers (DistributedDataParallel, torch.compile, Lightning) put before each key."""
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_MOST = 3
_LAYERS = 6


@dataclass(frozen=True)
class StateFile:
    """A checkpoint.

    Attributes:
        path: the file.
        content: everything in it.
        key: where its state dict is; None if it is the content.
        prefix: what each of its keys begins with, and those of the model do not.
        left_out: running statistics of the model that it does not hold.
    """

    path: Path
    content: Any
    key: str | None
    prefix: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def state(self) -> dict[str, Any]:
        """The state dict, with the model's keys."""
        found = self.content if self.key is None else self.content[self.key]
        if not self.prefix:
            return found  # type: ignore[no-any-return]  # with torch's metadata
        return {key.removeprefix(self.prefix): value for key, value in found.items()}


def read(path: Path) -> StateFile:
    """Read a file of `torch.save`, with ``weights_only=True``, or of safetensors.

    Raises:
        ValueError: it cannot be read, holds more than tensors and plain values, or no state dict.
    """
    if not path.exists():
        raise ValueError(f"checkpoint='{path}' does not exist; give the path of a file")
    if not path.is_file():
        raise ValueError(f"checkpoint='{path}' is not a regular file; give the path of a file")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    if _is_state(content):
        return StateFile(path, content, None)
    for key in _NESTED if isinstance(content, Mapping) else ():
        if _is_state(content.get(key)):
            return StateFile(path, content, key)
    what = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        what = f"a dict with the keys {', '.join(map(repr, list(content)[:_MOST]))}"
    raise ValueError(
        f"checkpoint='{path}' holds {what} and no state dict; save model.state_dict(), alone or "
        "under the key 'state_dict'"
    )


def load_into(model: nn.Module, file: StateFile) -> StateFile:
    """Load the state dict into ``model``; a model on ``meta`` gets the tensors themselves.

    A file of parameters only, without running statistics, is loaded as ``strict=False`` does: that
    is a fault which the doctor finds.

    Returns:
        ``file``, with the prefix that the model's keys do not have, and what it leaves out.

    Raises:
        ValueError: keys or shapes do not match.
    """
    file = _unwrapped(file, model)
    state, own = file.state, model.state_dict()
    shapes = [
        f"{key!r} is {tuple(value.shape)} in the file and {tuple(own[key].shape)} in the model"
        for key, value in state.items()
        if key in own
        and isinstance(value, Tensor)
        and isinstance(own[key], Tensor)
        and not nn.parameter.is_lazy(own[key])
        and value.shape != own[key].shape
    ]
    said: list[str] = []
    left_out: tuple[str, ...] = ()
    if shapes:
        more = f" (and {len(shapes) - 1} more)" if len(shapes) > 1 else ""
        said.append(f"{shapes[0]}{more}")
    else:
        on_meta = any(t.device.type == "meta" for t in own.values() if isinstance(t, Tensor))
        try:
            found = model.load_state_dict(state, strict=False, assign=on_meta)
        except Exception as error:
            raise ValueError(
                f"checkpoint='{file.path}' cannot be loaded into the model: {line(error)}"
            ) from error
        missing = found.missing_keys
        if not on_meta and all(key.rpartition(".")[2] in _STATISTICS for key in missing):
            left_out, missing = tuple(missing), []
        said += _named("missing keys", missing)
        said += _named("unexpected keys", found.unexpected_keys)
    if said:
        raise ValueError(
            f"checkpoint='{file.path}' does not match the model: {'; '.join(said)}; make the "
            "factory return the model that was saved"
        )
    return replace(file, left_out=left_out)


def write(path: Path, model: nn.Module, like: StateFile | None) -> None:
    """Write the model's state dict in the form of ``like``, whole or not at all.

    Raises:
        OSError: it cannot be written.
        ValueError: a safetensors file cannot hold it.
    """
    state = model.state_dict()
    if like is not None:
        state = {f"{like.prefix}{key}": value for key, value in state.items()}
    if path.suffix == ".safetensors":
        write_whole(path, _packed(path, state))
        return
    content: Any = state
    if like is not None and like.key is not None:
        content = {**like.content, like.key: state}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getbuffer())


def _named(what: str, keys: list[str]) -> list[str]:
    """Name the first of ``keys``; nothing if there are none."""
    more = f" and {len(keys) - _MOST} more" if len(keys) > _MOST else ""
    return [f"{what} {', '.join(map(repr, keys[:_MOST]))}{more}"] if keys else []


def _torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        said = str(error)
        if "TorchScript" in said:
            raise ValueError(
                f"checkpoint='{path}' is a TorchScript archive; save model.state_dict() instead"
            ) from error
        if isinstance(error, pickle.UnpicklingError) and "Unsupported" in said:
            named = re.search(r"GLOBAL (\S+)", said)
            raise ValueError(
                f"checkpoint='{path}' holds pickled Python objects"
                f"{f' ({named[1]})' if named else ''}, and loading them would run code; save "
                "model.state_dict() with torch.save"
            ) from error
        raise ValueError(_unreadable(path)) from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(
            f"checkpoint='{path}' needs the package safetensors; run: pip install safetensors"
        ) from error
    try:
        return dict(load_file(path))
    except Exception as error:
        raise ValueError(_unreadable(path)) from error


def _packed(path: Path, state: dict[str, Any]) -> bytes:
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise ValueError(
            f"out='{path}' needs the package safetensors; run: pip install safetensors"
        ) from error
    tensors = {key: v.contiguous().clone() for key, v in state.items() if isinstance(v, Tensor)}
    return bytes(save(tensors))


def _unreadable(path: Path) -> str:
    return (
        f"checkpoint='{path}' is damaged or not a file of torch.save or safetensors; save "
        "model.state_dict() with torch.save"
    )


def _is_state(value: Any) -> bool:
    """Whether ``value`` is a state dict: names and tensors, with extra state among them at most."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(key, str) for key in value) and any(
        isinstance(each, Tensor) for each in value.values()
    )


def _unwrapped(file: StateFile, model: nn.Module) -> StateFile:
    """Return ``file`` with the prefixes that make its keys those of the model."""
    own = set(model.state_dict())
    prefix = ""
    for _ in range(_LAYERS):
        keys = list(StateFile(file.path, file.content, file.key, prefix).state)
        if own & set(keys):
            break
        more = next((p for p in _PREFIXES if all(key.startswith(p) for key in keys)), "")
        if not more:
            return file
        prefix += more
    return StateFile(file.path, file.content, file.key, prefix)

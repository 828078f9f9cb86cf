"""Which positions of a batch of sequences are padding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.doctor.evidence.batch import first_tensor

_LEAST = 0.05
"""Least share of padded positions that is looked at."""
_PADDED = re.compile("pad", re.IGNORECASE)
_MASK = re.compile("mask|valid|pad", re.IGNORECASE)
_LENGTHS = re.compile("len", re.IGNORECASE)


def valid_positions(model: nn.Module, batch: Any) -> Tensor | None:
    """Return (N, L), True where there is data; None if the batch is not known to have padding.

    A mask or lengths in the batch say it. Otherwise it is found in the input: a tail of zeros (or a
    head, but not both) of sequences (N, L, C) or (N, C, L); of tokens (N, L), the embedding's
    ``padding_idx``, or a token that ends sequences at different places and occurs nowhere else.
    Images with empty borders have none of this.

    Example:
        >>> x = torch.ones(2, 4, 3)
        >>> x[0, 2:] = 0
        >>> valid_positions(nn.Identity(), x)
        tensor([[ True,  True, False, False],
                [ True,  True,  True,  True]])
    """
    x = first_tensor(batch)
    if x is None or x.dim() < 2:
        return None
    for valid in (*_given(batch, x), *_found(model, x)):
        share = 1 - float(valid.double().mean())
        if _LEAST <= share < 1 and bool(valid.any(1).all()):
            return valid
    return None


def _given(batch: Any, x: Tensor) -> Iterator[Tensor]:
    items: list[tuple[str, Any]] = []
    if isinstance(batch, Mapping):
        items = [(str(key), value) for key, value in batch.items()]
    elif isinstance(batch, (tuple, list)):
        inner = batch[0] if batch and isinstance(batch[0], (tuple, list)) else ()
        items = [("", value) for value in (*inner[1:], *batch[1:-1])]
    for key, value in items:
        if not isinstance(value, Tensor) or value is x or not value.dim():
            continue
        if value.shape[0] != x.shape[0]:
            continue
        if value.dim() == 2 and value.shape[1] in x.shape[1:] and value.shape[1] > 1:
            if (not key or _MASK.search(key)) and _is_mask(value):
                yield _oriented(value.bool(), bool(_PADDED.search(key)))
        elif (
            value.dim() == 1 and (not key or _LENGTHS.search(key)) and not value.is_floating_point()
        ):
            for size in x.shape[1:]:
                if size > 1 and 0 < int(value.min()) <= int(value.max()) == size:
                    yield torch.arange(size) < value.cpu()[:, None]
                    break


def _is_mask(value: Tensor) -> bool:
    return value.dtype == torch.bool or bool(((value == 0) | (value == 1)).all())


def _oriented(mask: Tensor, padded: bool) -> Tensor:
    """Return the mask with True for data: most sequences begin or end with data, never padding."""
    mask = mask.cpu()
    if padded:
        return ~mask
    ends = torch.stack((mask[:, 0].double().mean(), mask[:, -1].double().mean()))
    return mask if float(ends.max()) == 1 else ~mask


def _found(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    x = x.detach().cpu()
    if x.dim() == 2 and not x.is_floating_point():
        yield from _tokens(model, x)
    elif x.dim() == 3 and x.is_floating_point():
        for dim in (1, 2):
            empty = (x == 0).all(3 - dim)
            tails, heads = _tail(empty), _tail(empty.flip(1)).flip(1)
            if not (bool(tails.any()) and bool(heads.any())):
                padded = tails | heads
                if _is_ragged(padded) and x.shape[3 - dim] > 1:
                    yield ~padded


def _tokens(model: nn.Module, x: Tensor) -> Iterator[Tensor]:
    for module in model.modules():
        index = getattr(module, "padding_idx", None)
        if isinstance(module, nn.Embedding) and index is not None and bool((x == index).any()):
            yield x != index
            return
    for candidate in (x[:, -1].mode().values, x[:, 0].mode().values):
        same = x == candidate
        padded = _tail(same) | _tail(same.flip(1)).flip(1)
        if _is_ragged(padded) and bool((padded == same).all()):
            yield ~padded


def _tail(empty: Tensor) -> Tensor:
    """Return True where everything from here to the end is empty."""
    return empty.flip(1).long().cumprod(1).flip(1).bool()


def _is_ragged(padded: Tensor) -> bool:
    """Whether the padding has different lengths, and is longer than a chance run."""
    lengths = padded.sum(1)
    return len(torch.unique(lengths)) > 1 and int(lengths.max()) > 1

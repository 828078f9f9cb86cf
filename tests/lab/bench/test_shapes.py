"""The lists of shapes, beside networks that somebody else wrote down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gammabeta.lab.bench import shapes
from gammabeta.lab.bench.shapes import LISTS, bn_inception, chosen, text


def of_network(model: nn.Module) -> set[tuple[int, ...]]:
    """The inputs of all batch norms at 224 × 224, batch 32; on no memory."""
    found: set[tuple[int, ...]] = set()

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.add(tuple(args[0].shape))

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        model.eval()(torch.empty(32, 3, 224, 224, device="meta"))
    return found


def test_resnet_50_is_what_others_take_it_for() -> None:
    from pytorchcv.models.resnet import resnet50b  # b: the stride is in the 3 × 3

    with torch.device("meta"):
        model = resnet50b()
    assert set(LISTS["resnet-50"]) == of_network(model)


def test_bn_inception_is_what_others_take_it_for() -> None:
    from pytorchcv.models.bninception import bninception

    with torch.device("meta"):
        model = bninception()
    assert set(LISTS["bn-inception"]) == of_network(model)


def test_every_convolution_of_bn_inception_has_its_norm() -> None:
    layers = bn_inception()
    # 3 before the modules; 7 in each of eight modules, 5 in the two with stride 2.
    assert len(layers) == 3 + 8 * 7 + 2 * 5
    assert layers.count((224, 7)) == 4  # 5a and 5b, twice each
    assert set(LISTS["bn-inception"]) == {(32, c, w, w) for c, w in layers}
    assert len(set(LISTS["bn-inception"])) == len(LISTS["bn-inception"])


def test_shapes_are_chosen_by_list_and_by_hand_and_measured_once() -> None:
    found = chosen(["resnet-50", "bn-inception", "4x3", "32x64x112x112"])
    assert found[(32, 64, 112, 112)] == "resnet-50 bn-inception own"
    assert found[(4, 3)] == "own"
    assert text((4, 3)) == "4×3"


@pytest.mark.parametrize("bad", ["32x0x4x4", "1x8", "1x8x1x1", "2x3x4", "7"])
def test_a_shape_that_batch_norm_cannot_take_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=f"shapes='{bad}' must be NxC or NxCxHxW"):
        chosen([bad])


def test_an_unknown_list_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'resnet-50'"):
        chosen(["resnet50"])


@pytest.mark.parametrize(
    "large",
    [
        "99999999999x99999999x9x9",
        "200000x2000000",
        f"{'9' * 4300}x4",
        f"{'9' * 5000}x4",
        f"0x{'9' * 5000}",
        f"{'1' * 300}x{'1' * 300}",
    ],
)
def test_a_shape_that_cannot_fit_into_memory_is_refused(large: str) -> None:
    with pytest.raises(ValueError, match=r"^shapes='\d.*' does not fit into this mach") as caught:
        chosen([large])
    assert len(str(caught.value)) < 200


def test_a_shape_that_fits_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "memory", lambda: 48 * 8 * 4)
    assert chosen(["8x4"])
    with pytest.raises(ValueError, match="shapes='8x5' does not fit"):
        chosen(["8x5"])

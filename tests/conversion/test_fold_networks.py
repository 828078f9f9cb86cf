"""Networks that nobody here wrote, folded with proof against the same network in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gammabeta as gb
from tests.conversion.test_fold import folded, norms_in, trained

cv = pytest.importorskip("pytorchcv.model_provider")
transformers = pytest.importorskip("transformers")


def check(model: Any, x: Tensor, folds: int, left: int) -> tuple[Any, Any]:
    """Fold ``model`` and see how many norms are folded and left, and that it is proved."""
    result, report = folded(model, x)
    assert (len(report.folded), len(report.left)) == (folds, left), report
    assert len(norms_in(result)) == left
    proof = report.proof
    # Both are as far from float64 as rounding takes them: 0.7 to 1.2 times is what was measured
    # here. Folding is no less exact than the norms, up to the luck of the largest of many.
    assert proof.folded_error <= 2 * proof.original_error
    return result, report


@pytest.mark.parametrize(
    ("name", "convert", "folds", "left"),
    [
        ("resnet18", False, 20, 0),
        ("resnet18", True, 20, 0),
        ("mobilenetv2_w1", False, 53, 0),
        ("mobilenetv2_w1", True, 53, 0),
        ("efficientnet_b0", False, 49, 0),
        ("bninception", False, 69, 0),
        ("densenet121", False, 59, 62),
        ("preresnet18", True, 9, 9),
    ],
)
def test_pytorchcv(name: str, convert: bool, folds: int, left: int) -> None:
    torch.manual_seed(0)
    model = trained(cv.get_model(name))
    _, report = check(
        gb.convert(model) if convert else model, torch.randn(1, 3, 224, 224), folds, left
    )
    for one in report.left:  # pre-activation: an addition or concatenation before, ReLU after
        assert "its input also goes to" in one.reason or "its input comes from" in one.reason
        assert "(ReLU)" in one.reason or "avg_pool" in one.reason, one


@pytest.mark.parametrize(
    ("name", "folds", "size"),
    [("resnet", 8, 64), ("regnet", 9, 64), ("mobilenet_v2", 52, 64), ("levit", 63, 224)],
)
def test_transformers(name: str, folds: int, size: int) -> None:
    """Their code asks for shapes: MobileNetV2 pads by them, so the example has to tell them."""
    t = transformers
    torch.manual_seed(0)
    small = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    models = {
        "resnet": lambda: t.ResNetForImageClassification(t.ResNetConfig(**small)),
        "regnet": lambda: t.RegNetForImageClassification(t.RegNetConfig(groups_width=8, **small)),
        "mobilenet_v2": lambda: t.MobileNetV2ForImageClassification(t.MobileNetV2Config()),
        "levit": lambda: t.LevitForImageClassification(t.LevitConfig()),
    }
    model = trained(models[name]())
    result, _ = check(model, torch.randn(2, 3, size, size), folds, 0)
    y = torch.randn(1, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(result(y).logits, model(y).logits, rtol=1e-3, atol=1e-4)

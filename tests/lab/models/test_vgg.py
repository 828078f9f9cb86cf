from __future__ import annotations

import pytest
import torch
from torch import nn

from gammabeta.lab.models.vgg import CONV_NORMS, SmallVGG


@pytest.mark.parametrize("norm", CONV_NORMS)
def test_it_classifies_rows_and_images_alike(norm: str) -> None:
    model = SmallVGG(28, 10, norm=norm, pool=2).eval()
    x = torch.randn(3, 784)
    assert torch.equal(model(x), model(x.reshape(3, 1, 28, 28)))
    assert model(x).shape == (3, 10)


def test_a_pixel_moves_the_scores_of_its_own_image_alone_without_a_norm() -> None:
    model, x = SmallVGG(8, 3, norm="none"), torch.randn(2, 64)
    before = model(x)
    x[0, 0] += 1
    after = model(x)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_the_seed_alone_decides_the_weights() -> None:
    state = torch.get_rng_state()
    plain, normed, other = (
        SmallVGG(8, 3, norm="none"),
        SmallVGG(8, 3, norm="group"),
        SmallVGG(8, 3, norm="none", seed=1),
    )
    assert torch.equal(torch.get_rng_state(), state)
    convolutions = [
        [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
        for model in (plain, normed, other)
    ]
    assert len(convolutions[0]) == 4
    assert all(map(torch.equal, convolutions[0], convolutions[1]))
    assert not torch.equal(convolutions[0][0], convolutions[2][0])


@pytest.mark.parametrize("norm", CONV_NORMS)
def test_norm_and_activation_apart_compute_what_they_do_together(norm: str) -> None:
    fused, apart = (SmallVGG(8, 3, norm=norm, fused=fused) for fused in (True, False))
    x = torch.randn(8, 64)
    # Sums may be taken in another order.
    torch.testing.assert_close(fused(x), apart(x), rtol=1e-5, atol=1e-6)
    assert sum(isinstance(module, nn.ReLU) for module in apart.body) == 4


@pytest.mark.parametrize(("init", "variance"), [("glorot", 2 / (9 * 64 + 9 * 32)), ("he", 2 / 576)])
def test_the_spread_of_the_weights(init: str, variance: float) -> None:
    model = SmallVGG(8, 3, stages=((64, 32),), init=init)
    weight = model.body[2].weight
    assert isinstance(weight, torch.Tensor)
    # 18,432 draws: three standard errors are 1.6 %; the two differ by 15 %.
    assert float(weight.detach().std()) == pytest.approx(variance**0.5, rel=0.016)
    assert float(model.classifier.weight.detach().var()) == pytest.approx(2 / 35, rel=0.45)


def test_stages_are_halved() -> None:
    sizes = []
    model = SmallVGG(28, 3, stages=((4,), (8, 8)), pool=2)
    for module in model.body:
        module.register_forward_hook(lambda _, __, y: sizes.append(tuple(y.shape[1:])))
    model(torch.randn(2, 784))
    assert sizes[0] == (4, 14, 14)
    assert sizes[-1] == (8, 7, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "bach"}, "did you mean 'batch'"),
        ({"init": "hee"}, "did you mean 'he'"),
        ({"side": 8, "stages": ((8,),) * 5}, "leave no pixel"),
        ({"stages": ()}, "leave no pixel"),
    ],
)
def test_misuse_is_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmallVGG(**{"side": 8, "classes": 3, **options})  # type: ignore[arg-type]

"""Which rows and stages are measured: globs of module names, and what is refused."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gammabeta.signal import Run, watch
from gammabeta.signal.stages import STAGES
from gammabeta.signal.wanted import Wanted


def block(width: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv=nn.Linear(width, width), norm=nn.LayerNorm(width), act=nn.ReLU())
    )


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            stem=nn.Linear(4, 4),
            layer1=nn.Sequential(block(4), block(4)),
            layer2=nn.Sequential(block(4), block(4)),
            layer22=block(4),
            head=nn.Linear(4, 2),
        )
    )


ROWS = (
    "stem",
    *("layer1.0.conv", "layer1.1.conv", "layer2.0.conv", "layer2.1.conv", "layer22.conv"),
    "head",
)


def shown(wanted: Wanted, stage: str = "z") -> list[str]:
    return [name for name in ROWS if wanted(name, stage)]


@pytest.mark.parametrize(
    ("modules", "rows"),
    [
        (None, ROWS),
        ("stem", ("stem",)),
        (["stem", "head"], ("stem", "head")),
        ("layer1", ("layer1.0.conv", "layer1.1.conv")),  # with everything in it
        ("layer1.*", ("layer1.0.conv", "layer1.1.conv")),
        ("layer?", ROWS[1:5]),  # not layer22
        ("layer*", ROWS[1:6]),
        ("layer[12].1", ("layer1.1.conv", "layer2.1.conv")),
        ("*.conv", ROWS[1:6]),
        ("!layer*", ("stem", "head")),
        (["layer*", "!layer2"], ("layer1.0.conv", "layer1.1.conv", "layer22.conv")),
        (["!layer2", "layer*"], ("layer1.0.conv", "layer1.1.conv", "layer22.conv")),
        (["layer1", "!*.conv"], ()),
        (("stem",), ("stem",)),
        (iter(("stem", "head")), ("stem", "head")),
    ],
    ids=lambda given: str(given) if isinstance(given, (str, list, tuple)) else "iterator",
)
def test_globs(modules: Any, rows: tuple[str, ...]) -> None:
    wanted = Wanted(network(), modules)
    assert shown(wanted) == list(rows)
    assert shown(wanted) == list(rows)  # a second answer is the first


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (None, set(STAGES)),
        ("z", {"z"}),
        (["z", "gamma"], {"z", "gamma"}),
        (tuple(STAGES), set(STAGES)),
    ],
    ids=lambda given: str(sorted(given)) if isinstance(given, set) else str(given),
)
def test_stages(stages: Any, expected: set[str]) -> None:
    wanted = Wanted(network(), None, stages)
    assert {stage for stage in STAGES if wanted("stem", stage)} == expected


def test_both() -> None:
    wanted = Wanted(network(), "layer1", "z")
    assert wanted("layer1.0.conv", "z")
    assert not wanted("layer1.0.conv", "affine")
    assert not wanted("stem", "z")


def test_names_are_those_without_wrappers() -> None:
    """As rows are called: `torch.compile` puts a name of its own into every path."""
    model = nn.Sequential(
        OrderedDict(body=torch.compile(block(4), backend="eager"), head=nn.Linear(4, 2))
    )
    assert Wanted(model, "body.conv")("body.conv", "z")


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ("layr1", "modules='layr1' matches no module; the nearest names are layer1"),
        ("layer1.9", "modules='layer1.9' matches no module; the nearest names are layer1."),
        ("!hed", "modules='!hed' matches no module; the nearest names are head"),
        ("", "modules='' matches no module; the nearest names are stem, layer1, layer1.0"),
        (["stem", "zzzz"], "modules='zzzz' matches no module; the nearest names are stem, "),
        ("Layer1", "modules='Layer1' matches no module; the nearest names are layer1"),
    ],
    ids=str,
)
def test_a_glob_that_matches_nothing(modules: Any, said: str) -> None:
    with pytest.raises(ValueError, match="matches no module") as caught:
        Wanted(network(), modules)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_model_without_modules() -> None:
    with pytest.raises(ValueError, match="'x' matches no module; the model has no modules inside"):
        Wanted(nn.Linear(2, 2), "x")


def test_an_unknown_stage() -> None:
    with pytest.raises(ValueError, match=r"^stages='gama' is not known; did you mean 'gamma'\?"):
        Wanted(network(), None, ["z", "gama"])


@pytest.mark.parametrize("argument", ["modules", "stages"])
@pytest.mark.parametrize("value", [5, [5], [], ["z", None], b"z", {"z": 1}.values(), True])
def test_what_is_no_text(argument: str, value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        Wanted(network(), **{argument: value})
    assert str(caught.value) == f"{argument}={value!r} must be a text or a list of texts"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"modules": "nothing"}, "matches no module"), ({"stages": "nothing"}, "is not known")],
)
def test_a_watch_that_is_refused_leaves_no_trace(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    model = network()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=said):
        watch(model, tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []
    for name, module in model.named_modules():
        assert {k: v for k, v in vars(module).items() if v} == {
            k: v for k, v in before[name].items() if v
        }


def places(path: Path, **options: Any) -> set[tuple[str, str]]:
    model = network()
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    with watch(model, path, every=1, **options) as signal:
        model(x).square().mean().backward()
        signal.step()
    with Run(path.with_suffix(".sqlite")) as run:
        (frame,) = run.frames()
        probes = {probe.id: probe for probe in run.probes()}
        assert {probes[i].name for i in frame.signals} == {p.name for p in probes.values()}
        return {(p.name, p.stage) for p in probes.values()}


def test_what_is_watched(tmp_path: Path) -> None:
    everything = places(tmp_path / "all")
    assert {name for name, _ in everything} >= set(ROWS)
    one = places(tmp_path / "one", modules="layer1")
    assert one == {place for place in everything if place[0].startswith("layer1.")}
    gammas = places(tmp_path / "gammas", stages=["gamma", "activation"])
    assert gammas == {place for place in everything if place[1] in ("gamma", "activation")}
    assert {stage for _, stage in gammas} == {"gamma", "activation"}
    both = places(tmp_path / "both", modules=["layer2", "!layer2.1"], stages="normalized")
    assert both == {("layer2.0.conv", "normalized")}


def test_what_is_not_wanted_costs_no_gradient_hook(tmp_path: Path) -> None:
    model = network()
    outputs: list[Tensor] = []
    model.get_submodule("layer1.0.conv").register_forward_hook(lambda *a: outputs.append(a[2]))
    model.get_submodule("head").register_forward_hook(lambda *a: outputs.append(a[2]))
    with watch(model, tmp_path / "run", modules="head", every=1) as signal:
        model(torch.randn(8, 4)).sum().backward()
        signal.step()
    inner, head = outputs
    assert not inner._backward_hooks
    assert len(head._backward_hooks or ()) == 1

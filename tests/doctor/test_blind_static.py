"""Models as strangers write them, which the static rules once judged wrongly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import gammabeta as gb
from tests.doctor.static_models import Net, pretrained


def test_a_compiled_model_is_examined_as_it_is_written() -> None:
    x, y = torch.randn(32, 4), torch.randn(32, 2)
    net = Net()
    net.backbone[1].momentum = 0.99
    model = torch.compile(net, backend="eager")
    report = gb.examine(model, [(x, y)] * 2, F.mse_loss)
    assert not report.notes
    assert report.passes
    (found,) = (f for f in report.findings if f.severity != "info")
    assert (found.code, found.layers) == ("GB103", ("_orig_mod.backbone.1",))


def test_norms_of_a_frozen_detector_and_a_new_head_need_no_finding() -> None:
    detector = nn.Sequential(pretrained().backbone.eval().requires_grad_(False), nn.Linear(8, 3))
    assert gb.examine(detector).healthy

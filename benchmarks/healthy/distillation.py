"""Knowledge distillation: the teacher is in evaluation, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def convolutional(width: int) -> nn.Sequential:
    """Return a small network."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    )


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train a teacher, then a student, and return what is examined."""
    torch.manual_seed(0)
    y = torch.randint(0, 4, (128,))
    x = torch.randn(128, 3, 10, 10) * 0.5 + F.one_hot(y, 4)[:, :3, None, None]
    teacher = convolutional(24)
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.1, momentum=0.9)
    for batch in torch.randint(0, 128, (30, 32)):
        loss = F.cross_entropy(teacher(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    teacher.eval().requires_grad_(False)
    student = convolutional(12)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    with watch(student, optimizer=optimizer) as signal:
        for _epoch in range(8):
            for batch in torch.randperm(128).split(32):
                with torch.no_grad():
                    soft = F.softmax(teacher(x[batch]) / 2, 1)
                logits = student(x[batch])
                hard = F.cross_entropy(logits, y[batch])
                loss = hard + F.kl_div(F.log_softmax(logits / 2, 1), soft, reduction="batchmean")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
    batches = list(zip(x.split(32), y.split(32), strict=True))
    return {
        "model": student,
        "batches": batches,
        "loss": F.cross_entropy,
        "optimizer": optimizer,
    }

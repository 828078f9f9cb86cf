"""Run models over images and count their errors; the models are restored afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gammabeta.lab.data.crops import centre_crop, many_crops
from gammabeta.lab.train.evaluate.evaluation import Errors, Evaluation
from gammabeta.names import known
from gammabeta.statistics import calibrate
from gammabeta.statistics.preserve import preserved

CROPS = (1, 144)
STATISTICS = ("moving", "population")

Forward = Callable[[nn.Module, Tensor], Tensor]


@torch.no_grad()
def evaluate(
    models: nn.Module | Sequence[nn.Module],
    batches: Iterable[tuple[Any, Tensor]],
    *,
    crops: int = 1,
    statistics: str = "moving",
    calibration: Iterable[Any] | Callable[[nn.Module], Iterable[Any]] | None = None,
    input_size: int | None = None,
) -> Evaluation:
    """Return the errors of a model, or of the mean of several.

    The class probabilities (softmax of the scores) are averaged over crops, then over models;
    the most probable classes of that mean are the prediction.

    Args:
        models: one, or several with the same classes; in either mode. They run in
            evaluation mode and are restored bit by bit, also after an error.
        batches: pairs of images and labels (N,). Images are (N, C, H, W), or a list of (C, H, W)
            of several sizes; of other sizes than the models', they are cropped. With ``crops=1``
            a tensor of anything else, such as rows of features, is given to the models as it is.
        crops: 1, the central one; or 144, see `gammabeta.lab.data.crops`.
        statistics: what batch norms normalize by: ``"moving"``, the running averages as they are;
            ``"population"``, measured over ``calibration`` by Algorithm 2 of the paper. A model
            without batch norms has none, and is the same under both.
        calibration: batches of training images for ``"population"``, as `gammabeta.calibrate`
            takes them: as large as in training. With several models it is read once for each; a
            function is given the model, and returns its batches.
        input_size: height and width of the models' input; None for the first model's
            ``input_size``, or if it has none, that of the images of the first batch.

    Returns:
        Errors of the mean, and of each model alone; ``print`` shows them.

    Raises:
        ValueError: no models; no batches; an unknown option; ``calibration`` missing or not
            wanted; a label that is no class; models with different classes.
        TypeError: a batch is not a pair.

    Numerics:
        Probabilities are computed and averaged in float64. An example whose probabilities are not
        all finite counts as wrong.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, sections 4.2.2 and 4.2.3.

    Example:
        >>> from gammabeta.lab.data.flat import load
        >>> digits = load("digits")
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> evaluation = evaluate(net, [(digits.test_x, digits.test_y)])
        >>> evaluation.n, net.training
        (360, True)
    """
    members = [models] if isinstance(models, nn.Module) else list(models)
    if not members:
        raise ValueError("models is empty; give one module or several")
    if crops not in CROPS:
        raise ValueError(f"crops={crops} must be 1 or 144")
    known("statistics", statistics, STATISTICS)
    if (statistics == "population") != (calibration is not None):
        raise ValueError(
            "statistics='population' needs calibration=, batches of training images"
            if calibration is None
            else "calibration= is for statistics='population'"
        )
    size = input_size if input_size is not None else getattr(members[0], "input_size", None)
    together, alone = Errors(), [Errors() for _ in members]
    with ExitStack() as stack:
        for member in members:
            stack.enter_context(preserved(member))
        for member in members:
            if calibration is not None and _has_batch_norm(member):
                given = calibration(member) if callable(calibration) else calibration
                calibrate(member, given, progress=False)
            _evaluation_mode(member)
        for images, labels in map(_pair, batches):
            if not len(images):
                continue
            if size is None:
                size = int(images[0].shape[-1])
            each = [_probabilities(member, images, size, crops) for member in members]
            if len({p.shape for p in each}) > 1:
                shapes = ", ".join(str(p.shape[1]) for p in each)
                raise ValueError(f"models have different numbers of classes: {shapes}")
            for errors, probabilities in zip(alone, each, strict=True):
                errors.add(probabilities, labels)
            together.add(torch.stack(each).mean(0), labels)
    if not together.n:
        raise ValueError("batches is empty; an iterator may have been used up before")
    return Evaluation(together, tuple(alone), crops, statistics)


def _probabilities(model: nn.Module, images: Any, size: int, crops: int) -> Tensor:
    """Mean class probabilities over the crops: (N, classes), float64, on the CPU."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if isinstance(images, (list, tuple)):
        images = [image.to(device) for image in images]
        square = all(image.shape[-2] == image.shape[-1] for image in images)
    else:
        images = images.to(device)
        square = images.shape[-2] == images.shape[-1]
    total: Tensor | int = 0
    count = 0
    for crop in _crops(images, size, crops, square):
        total = total + model(crop).double().softmax(1)
        count += 1
    return (torch.as_tensor(total) / count).cpu()


def _crops(images: Any, size: int, crops: int, square: bool) -> Iterator[Tensor]:
    """Each crop of all images, one after the other; of square ones, each once."""
    if isinstance(images, list):
        each = [_crops(image[None], size, crops, square) for image in images]
        for parts in zip(*each, strict=True):
            yield torch.cat(parts)
    elif images.dim() == 4 and crops == 1:
        yield centre_crop(images, size)
    elif images.dim() == 4:
        yield from many_crops(images, size, once=square)
    elif crops == 1:
        yield images
    else:
        raise ValueError(f"crops={crops} needs images (N, C, H, W), not {tuple(images.shape)}")


def _pair(batch: Any) -> tuple[Any, Tensor]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TypeError(f"a batch is a {type(batch).__name__}; it must be a pair: images, labels")
    images, labels = batch
    return images, torch.as_tensor(labels).cpu()


def _has_batch_norm(model: nn.Module) -> bool:
    return any(
        isinstance(module, _BatchNorm) and module.running_mean is not None
        for module in model.modules()
    )


def _evaluation_mode(model: nn.Module) -> None:
    """Set the modes, which `preserved` puts back; a person's ``eval()`` may do more than that."""
    for module in model.modules():
        module.training = False

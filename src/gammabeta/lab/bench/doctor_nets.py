"""Healthy networks of other people: the doctor must find nothing in them above information."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

import gammabeta
from gammabeta.lab.bench import zoo_models
from gammabeta.lab.bench.doctor_tools import Seen, complaint, quiet
from gammabeta.lab.bench.net_models import Network
from gammabeta.lab.bench.zoo_transformers import ARCHITECTURES

_PYTORCHCV = """
bninception resnet10 preresnet10 resnext14_16x4d seresnet10 sepreresnet10 seresnext50_32x4d
senet16 resnestabc14 ibn_resnet50 ibnb_resnet50 ibn_resnext50_32x4d ibn_densenet121
airnet50_1x64d_r2 airnext50_32x4d_r2 bam_resnet18 cbam_resnet18 resattnet56 sknet50 scnet50
regnetx002 diaresnet10 diapreresnet10 pyramidnet101_a360 sharesnet18 densenet121
condensenet74_c4_g4 sparsenet121 peleenet drnc26 darknet_ref darknet53 revnet38 channelnet
bagnet9 dla34 msdnet22 fishnet99 espnetv2_wd2 dicenet_wd5 hrnet_w18_small_v1 vovnet27s
selecsls42 hardnet39ds xdensenet121_2 sqnxt23_w1 shufflenet_g1_w1 shufflenetv2_wd2
shufflenetv2b_wd2 menet108_8x1_g3 mobilenet_w1 mobilenetb_w1 fdmobilenet_w1 mobilenetv2_w1
mobilenetv3_small_w7d20 igcv3_w1 ghostnet mnasnet_b1 darts proxylessnas_cpu fbnet_cb inceptionv3
inceptionv4 inceptionresnetv1 inceptionresnetv2 nasnet_4a1056 spnasnet efficientnet_b0
efficientnet_edge_small_b mixnet_s resnet20_cifar10 preresnet20_cifar10 resnext20_16x4d_cifar10
seresnet20_cifar10 sepreresnet20_cifar10 pyramidnet110_a48_cifar10 densenet40_k12_cifar10
xdensenet40_2_k24_bc_cifar10 ror3_56_cifar10 resdropresnet20_cifar10
shakeshakeresnet20_2x16d_cifar10 shakedropresnet20_cifar10 diaresnet20_cifar10
diapreresnet20_cifar10 isqrtcovresnet18 resneta10 resnetd50b fastseresnet101b octresnet10_ad2
resnet10_cub seresnet10_cub mobilenet_w1_cub proxylessnas_cpu_cub fcn8sd_resnetd50b_voc
deeplabv3_resnetd50b_voc icnet_resnetd50b_cityscapes fastscnn_cityscapes cgnet_cityscapes
dabnet_cityscapes sinet_cityscapes bisenet_resnet18_celebamaskhq fpenet_cityscapes
ctxnet_cityscapes lednet_cityscapes esnet_cityscapes edanet_cityscapes enet_cityscapes
erfnet_cityscapes segnet_cityscapes unet_cityscapes alphapose_fastseresnet101b_coco
simplepose_resnet18_coco simplepose_mobile_resnet18_coco lwopenpose2d_mobilenet_cmupan_coco
prnet centernet_resnet18_voc voca8flame quartznet5x5_en_ls resnet12 preresnet12 resnext14_32x2d
seresnet12 sepreresnet12
"""

NETWORKS = (
    *(f"transformers:{name}" for name in ARCHITECTURES),
    *(f"pytorchcv:{name}" for name in _PYTORCHCV.split()),
)
"""Networks of the zoo: all of transformers', and those of pytorchcv that take a few seconds."""

REAL = {
    "transformers:efficientnet": "GB103",
    "transformers:mobilenet_v1": "GB103",
    "transformers:mobilenet_v2": "GB103",
}
"""Networks that have a fault → its code: momentum 0.99, 0.9997 and 0.997, as TensorFlow counts.

torchvision had the same one in MaxViT, and mended it (pytorch/vision, issue 8250).
"""

BATCHES = 2
"""Batches that each network is examined on."""


def examined(name: str) -> Seen:
    """Examine a network of the zoo with random weights, as it is built, on two small batches.

    Raises:
        Absent: it cannot be built or runs on no input that is tried.
    """
    began = time.perf_counter()
    with quiet():
        network = fresh(name)
        report = gammabeta.examine(
            network.model, batches(network), forward=_call(network.model), progress=False
        )
    seconds = time.perf_counter() - began
    return Seen(list(map(complaint, report.findings)), report.passes, seconds, report.notes)


def fresh(name: str) -> Network:
    """Return a network of the zoo with its running statistics at their initial values."""
    network = zoo_models.load(name)  # which runs it once, to find an input that it takes
    for module in network.model.modules():
        reset = getattr(module, "reset_running_stats", None)
        if callable(reset):
            reset()
    return network


def batches(network: Network) -> list[dict[str, Any]]:
    """Return the network's mini-batch, and one like it."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return [
            {"args": tuple(map(like, network.args)), "kwargs": _likes(network.kwargs)}
            if index
            else {"args": network.args, "kwargs": network.kwargs}
            for index in range(BATCHES)
        ]


def like(tensor: Tensor) -> Tensor:
    """Return other values of the same kind: normal numbers, or a permutation of the integers."""
    if tensor.is_floating_point():
        return torch.randn_like(tensor)
    return tensor.flatten()[torch.randperm(tensor.numel())].view_as(tensor)


def _likes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: like(tensor) for key, tensor in tensors.items()}


def _call(model: nn.Module) -> Any:
    return lambda batch: model(*batch["args"], **batch["kwargs"])

"""Norms as other people write them: the published conventions of timm, torchvision, ConvNeXt and
Llama, in our own words."""

import torch
import torch.nn.functional as F
from torch import nn

_FAST = False
"""A switch that several norms of one file read."""


class BatchNormAct2d(nn.BatchNorm2d):
    """As in timm: batch norm, then ``drop``, then ``act``."""

    def __init__(self, size, act=nn.ReLU, inplace=True, drop=None, **options):
        super().__init__(size, **options)
        self.drop = nn.Identity() if drop is None else drop
        self.act = nn.Identity() if act is None else act(**({"inplace": True} if inplace else {}))

    def forward(self, x):
        if x.ndim != 4:
            raise ValueError(f"expected 4D input (got {x.ndim}D input)")
        factor = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1.0 / float(self.num_batches_tracked)
        by_batch = self.training or (self.running_mean is None and self.running_var is None)
        tracked = not self.training or self.track_running_stats
        x = F.batch_norm(
            x,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            by_batch,
            factor,
            self.eps,
        )
        return self.act(self.drop(x))


class ForgetfulBatchNormAct2d(BatchNormAct2d):
    """Its running statistics do not move: its output is batch norm's, and it is none."""

    def forward(self, x):
        by_batch = self.training
        mean, var = (None, None) if by_batch else (self.running_mean, self.running_var)
        return self.act(F.batch_norm(x, mean, var, self.weight, self.bias, by_batch, 0.0, self.eps))


class GroupNormAct(nn.GroupNorm):
    """As in timm."""

    def __init__(self, size, groups=2, act=nn.ReLU):
        super().__init__(groups, size)
        self.drop, self.act = nn.Identity(), act()

    def forward(self, x):
        x = F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return self.act(self.drop(x))


class LayerNorm2d(nn.LayerNorm):
    """As in timm: over the channels of (N, C, H, W)."""

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class LayerNorm2dByHand(nn.Module):
    """As in ConvNeXt and in Segment Anything."""

    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        var = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(var + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class LayerNormByHand(nn.Module):
    """With ``gamma`` and ``beta``, as in older code."""

    def __init__(self, size, eps=1e-5):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        var = x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / torch.sqrt(var + self.eps) * self.gamma + self.beta


class FrozenBatchNorm2d(nn.Module):
    """As in torchvision: four buffers, and no ``num_batches_tracked``."""

    def __init__(self, size, eps=1e-5):
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            self.register_buffer(name, torch.full((size,), value))
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def forward(self, x):
        w, b = self.weight.reshape(1, -1, 1, 1), self.bias.reshape(1, -1, 1, 1)
        rv, rm = self.running_var.reshape(1, -1, 1, 1), self.running_mean.reshape(1, -1, 1, 1)
        scale = w * (rv + self.eps).rsqrt()
        return x * scale + (b - rm * scale)

    def __repr__(self):
        return f"FrozenBatchNorm2d({self.weight.shape[0]}, eps={self.eps})"


FROZEN = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


class LayerNormOfFourDims(nn.Module):
    """γ and β as they broadcast: (1, C, 1, 1)."""

    def __init__(self, channels, eps=1e-6):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.eps = eps

    def forward(self, x):
        deviation = x - x.mean(1, keepdim=True)
        variance = deviation.pow(2).mean(1, keepdim=True)
        return deviation / torch.sqrt(variance + self.eps) * self.gamma + self.beta


class FrozenOfFourDims(nn.Module):
    """Statistics as they broadcast, too."""

    def __init__(self, channels):
        super().__init__()
        for name, value in FROZEN.items():
            self.register_buffer(name, torch.full((1, channels, 1, 1), value))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale + (self.bias - self.running_mean * scale)


class RMSNorm(nn.Module):
    """As in Llama: in float32, back to the input's dtype, then γ."""

    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(size)), eps

    def forward(self, hidden_states):
        dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(dtype)


class OffsetRMSNorm(nn.Module):
    """As in Gemma: γ is ``1 + weight``."""

    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(size)), eps

    def forward(self, x):
        y = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return (y * (1.0 + self.weight.float())).type_as(x)


def rms_norm(x, weight, eps):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


class RMSNormByFunction(nn.Module):
    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


class SwitchedRMSNorm(RMSNorm):
    """It computes something else while the file's switch is on."""

    def forward(self, x):
        if _FAST:
            return self.weight * x
        return super().forward(x)


class Renamed(nn.LayerNorm):
    """Torch's, under another name."""


class PlainBatchNorm2d(nn.BatchNorm2d):
    """One with a check before."""

    def forward(self, x):
        if x.shape[1] != self.num_features:
            raise ValueError("channels")
        return super().forward(x)


class ScaledLayerNorm(nn.LayerNorm):
    """Twice what its class says."""

    def forward(self, x):
        return 2 * super().forward(x)


class ClampedRMSNorm(RMSNorm):
    """With a limit that ordinary values never reach."""

    def forward(self, x):
        return super().forward(x.clamp(-100.0, 100.0))

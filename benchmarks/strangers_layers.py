"""Layers of timm and losses of timm and pytorch_optimizer, as subjects of the contracts."""

import importlib
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from strangers_optimizers import Found, timm_part
from torch import Tensor, nn

from paperweight.testing import LayerSubject, LossSubject

__all__ = ["pytorch_optimizer_losses", "timm_layers", "timm_losses"]

MAPS = torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])


class Routed(nn.Module):
    """A convolution that is mixed for each example, with what its weights come from, as in timm's networks."""

    def __init__(self, make: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.routing = nn.Linear(8, 3)
        self.convolution = make(8, 4, 3, padding=1, num_experts=3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 8, H, W) to (N, 4, H, W)."""
        return self.convolution(x, self.routing(x.mean((2, 3))).sigmoid())


def layers_of_timm() -> types.ModuleType:
    """Import timm's layers; of torchvision they take one name, a frozen batch normalization, which none here is."""
    frozen = types.ModuleType("torchvision.ops.misc")
    vars(frozen)["FrozenBatchNorm2d"] = type("FrozenBatchNorm2d", (nn.Module,), {})
    for name in ("torchvision", "torchvision.ops"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules.setdefault("torchvision.ops.misc", frozen)
    return timm_part("timm.layers")


def timm_layers() -> Found:
    """Give the layers that are used beside a layer of ours, on maps of 8 channels or tokens of 8 numbers."""
    layers = layers_of_timm()
    on_maps: dict[str, dict[str, Any]] = {
        "BlurPool2d": {"channels": 8, "stride": 2},
        "CecaModule": {"channels": 8},
        "DropBlock2d": {},
        "DropPath": {"drop_prob": 0.3},
        "EcaModule": {"channels": 8},
        "EffectiveSEModule": {"channels": 8},
        "EvoNorm2dB0": {"num_features": 8},
        "EvoNorm2dS0": {"num_features": 8, "group_size": 4},
        "FilterResponseNormAct2d": {"num_features": 8},
        "FilterResponseNormTlu2d": {"num_features": 8},
        "GatherExcite": {"channels": 8, "extent": 2},
        "GlobalContext": {"channels": 8, "rd_channels": 4},
        "GroupNorm": {"num_channels": 8, "num_groups": 2},
        "GroupNorm1": {"num_channels": 8},
        "HardMish": {},
        "HardSwish": {},
        "LayerNorm2d": {"num_channels": 8},
        "LayerScale2d": {"dim": 8},
        "LsePlus2d": {},
        "Mish": {},
        "MixedConv2d": {"in_channels": 8, "out_channels": 8, "kernel_size": (3, 5)},
        "NonLocalAttn": {"in_channels": 8},
        "PReLU": {},
        "RmsNorm2d": {"channels": 8},
        "RotAttentionPool2d": {"in_features": 8, "out_features": 8, "ref_feat_size": 8, "head_dim": 4},
        "SEModule": {"channels": 8},
        "ScaledStdConv2d": {"in_channels": 8, "out_channels": 4, "kernel_size": 3},
        "SelectAdaptivePool2d": {"pool_type": "catavgmax", "flatten": True},
        "SelectiveKernel": {"in_channels": 8},
        "SeparableConv2d": {"in_channels": 8, "out_channels": 4},
        "SimPool2d": {"dim": 8},
        "SpaceToDepth": {},
        "SplitAttn": {"in_channels": 8},
        "SplitBatchNorm2d": {"num_features": 8, "num_splits": 3},
        "StdConv2d": {"in_channel": 8, "out_channels": 4, "kernel_size": 3},
    }
    for name, given in on_maps.items():
        yield "layer", name, _layer(partial(getattr(layers, name), **given), MAPS)
    yield "layer", "CondConv2d, routed by a linear layer", _layer(partial(Routed, layers.CondConv2d), MAPS)
    on_tokens: dict[str, dict[str, Any]] = {
        "Attention": {"dim": 8, "num_heads": 2},
        "AttentionPoolLatent": {"in_features": 8, "num_heads": 2},
        "DiffAttention": {"dim": 8, "num_heads": 2},
        "GluMlp": {"in_features": 8, "hidden_features": 16},
        "LayerScale": {"dim": 8},
        "Mlp": {"in_features": 8},
        "PatchDropout": {"prob": 0.4},
        "QuickGELU": {},
        "RmsNorm": {"channels": 8},
        "SimPool1d": {"dim": 8, "num_heads": 2},
        "SwiGLU": {"in_features": 8},
    }
    for name, given in on_tokens.items():
        yield "layer", name, _layer(partial(getattr(layers, name), **given), TOKENS)


def _layer(make: Callable[..., Any], inputs: Tensor) -> LayerSubject:
    return LayerSubject(make=make, inputs=(inputs,), shape=None, parameter_count=None)


def timm_losses() -> Found:
    """Give the losses of timm, on four classes."""
    losses = timm_part("timm.loss")
    one_hot = nn.functional.one_hot(LABELS, 4).float()
    of_targets: dict[str, tuple[dict[str, Any], Tensor]] = {
        "LabelSmoothingCrossEntropy": ({}, LABELS),
        "SoftTargetCrossEntropy": ({}, one_hot),
        "BinaryCrossEntropy": ({}, one_hot),
        "JsdCrossEntropy": ({"num_splits": 3}, LABELS),
        "AsymmetricLossSingleLabel": ({}, LABELS),
        "AsymmetricLossMultiLabel": ({}, one_hot),
        "PolyCrossEntropy": ({}, LABELS),
        "PolyBinaryCrossEntropy": ({}, one_hot),
        "TwoWayLoss": ({}, one_hot),
        "ZlprLoss": ({}, one_hot),
    }
    for name, (given, targets) in of_targets.items():
        yield "loss", name, _loss(partial(getattr(losses, name), **given), LOGITS, targets)


def pytorch_optimizer_losses() -> Found:
    """Give the losses of pytorch_optimizer, on four classes or on maps of numbers from 0 to 1."""
    package = importlib.import_module("pytorch_optimizer")
    one_hot = nn.functional.one_hot(LABELS, 4).float()
    shares = LOGITS.sigmoid()
    settings: dict[str, tuple[dict[str, Any], Tensor, Tensor]] = {
        "BCEFocalLoss": ({}, shares, one_hot),
        "BCELoss": ({}, shares, one_hot),
        "BiTemperedLogisticLoss": ({"t1": 0.8, "t2": 1.2}, LOGITS, one_hot),
        "DiceLoss": ({"mode": "multilabel"}, LOGITS[:, :, None], one_hot[:, :, None]),
        "FocalCosineLoss": ({}, LOGITS, LABELS),
        "FocalLoss": ({}, LOGITS, one_hot),
        "FocalTverskyLoss": ({}, shares, one_hot),
        "JaccardLoss": ({"mode": "multilabel"}, LOGITS[:, :, None], one_hot[:, :, None]),
        "LDAMLoss": ({"num_class_list": [5, 4, 3, 2]}, LOGITS, LABELS),
        "LovaszHingeLoss": ({"per_image": False}, LOGITS, one_hot),
        "SoftF1Loss": ({}, shares, one_hot),
        "TverskyLoss": ({}, shares, one_hot),
    }
    for name, (given, predictions, targets) in settings.items():
        yield "loss", name, _loss(partial(getattr(package, name), **given), predictions, targets)


def _loss(make: Callable[..., Any], predictions: Tensor, targets: Tensor) -> LossSubject:
    return LossSubject(make=make, inputs=(predictions, targets), slow=None)

"""Small networks that studies share.

Every classifier is built as ``Net(shape, classes, ...)`` with shape (channels, height, width), maps images
(N, C, H, W) to logits (N, classes), ends in a linear layer named ``head``, and draws its initial weights, like every
PyTorch module, from the global random state: seed it with ``torch.manual_seed``. A denoiser maps images with noise, a
time of about 0 to 1000 for each, and maybe tokens of a condition (N, L, context), to images.
"""

from paperweight.nets._common import count_multiplications, count_parameters, evaluating
from paperweight.nets.denoisers import MLPDenoiser, TokenDenoiser
from paperweight.nets.halving import halved
from paperweight.nets.lenet import LeNet
from paperweight.nets.mlp import MLP, NormalisedMLP
from paperweight.nets.resnet import ResNet, ResNet18
from paperweight.nets.surgery import parametrized_weights, plain_weights, replace_modules
from paperweight.nets.text import TextEncoder, Tokenizer
from paperweight.nets.unet import UNet
from paperweight.nets.vit import ViT

__all__ = [
    "MLP",
    "LeNet",
    "MLPDenoiser",
    "NormalisedMLP",
    "ResNet",
    "ResNet18",
    "TextEncoder",
    "TokenDenoiser",
    "Tokenizer",
    "UNet",
    "ViT",
    "count_multiplications",
    "count_parameters",
    "evaluating",
    "halved",
    "parametrized_weights",
    "plain_weights",
    "replace_modules",
]

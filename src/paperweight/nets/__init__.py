"""Small networks that studies share.

Every classifier is built as ``Net(shape, classes, ...)`` with shape (channels, height, width), maps images
(N, C, H, W) to logits (N, classes), ends in a linear layer named ``head``, and draws its initial weights, like every
PyTorch module, from the global random state: seed it with ``torch.manual_seed``.
"""

from paperweight.nets._common import count_parameters
from paperweight.nets.lenet import LeNet
from paperweight.nets.mlp import MLP
from paperweight.nets.resnet import ResNet, ResNet18
from paperweight.nets.unet import UNet
from paperweight.nets.vit import ViT

__all__ = ["MLP", "LeNet", "ResNet", "ResNet18", "UNet", "ViT", "count_parameters"]

import pytest
import torch
from torch import Tensor

from paperweight.data import load_images


@pytest.fixture(scope="session")
def digits() -> Tensor:
    return torch.from_numpy(load_images("digits").train.images / 255).float()

"""Boosted trees by scikit-learn: what a network has to beat on a table."""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

from paperweight.data import LabelledImages, Splits
from paperweight.loops import Evaluation

__all__ = ["boosted_trees"]


def boosted_trees(data: Splits, seed: int) -> Callable[[LabelledImages], Evaluation]:
    """Train scikit-learn's HistGradientBoostingClassifier as it comes, and return what evaluates it.

    Args:
        data: The parts; the training part is trained on.
        seed: Of its random state.

    Returns:
        Maps examples to loss, accuracy and which are right.
    """
    trees = HistGradientBoostingClassifier(random_state=seed % 2**32)
    trees.fit(_rows(data.train.images), data.train.labels.cpu().numpy())

    def evaluate(part: LabelledImages) -> Evaluation:
        shares = torch.zeros(len(part), len(data.classes), dtype=torch.float64)
        shares[:, torch.as_tensor(trees.classes_)] = torch.from_numpy(trees.predict_proba(_rows(part.images)))
        labels = part.labels.cpu()
        correct = shares.argmax(dim=1) == labels
        likely = shares.gather(1, labels[:, None]).clamp(min=1e-12)
        return Evaluation(loss=-likely.log().mean().item(), accuracy=correct.double().mean().item(), correct=correct)

    return evaluate


def _rows(inputs: Tensor) -> np.ndarray:
    return inputs.flatten(1).cpu().numpy()

"""Plain PyTorch training and evaluation loops that studies share.

Every loop is `minimise` on the batches of `index_batches`, and `best_of` chooses among runs. What is random comes from
the generator given; the global random state is drawn from only by a model that does so itself, as dropout does.
"""

from paperweight.loops.adversarial import AdversarialLoss, fit_adversarial
from paperweight.loops.choice import best_of
from paperweight.loops.contrastive import fit_views
from paperweight.loops.core import OnStep, Schedule, index_batches, loss_curve, minimise
from paperweight.loops.generative import ExponentialMovingAverage, fit_generator
from paperweight.loops.supervised import Evaluation, evaluate_classifier, evaluating, fit_classifier

__all__ = [
    "AdversarialLoss",
    "Evaluation",
    "ExponentialMovingAverage",
    "OnStep",
    "Schedule",
    "best_of",
    "evaluate_classifier",
    "evaluating",
    "fit_adversarial",
    "fit_classifier",
    "fit_generator",
    "fit_views",
    "index_batches",
    "loss_curve",
    "minimise",
]

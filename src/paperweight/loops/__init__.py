"""Plain PyTorch training and evaluation loops that studies share.

Every loop is `minimise` on the batches of `index_batches`; `tune` tries a grid, or what a `Search` suggests in place of
it, and `best_of` chooses among runs. What is random comes from the generator given; the global random state is drawn
from only by a model that does so itself, as dropout does.
"""

from paperweight.loops.adversarial import AdversarialLoss, fit_adversarial
from paperweight.loops.calibration import area_under_risk_coverage, expected_calibration_error
from paperweight.loops.choice import Tuned, best_of, tune
from paperweight.loops.contrastive import fit_views, nt_xent
from paperweight.loops.core import OnStep, Schedule, at_points, clip_gradients, index_batches, loss_curve, minimise
from paperweight.loops.denoising import DenoiserTraining
from paperweight.loops.generative import ExponentialMovingAverage, fit_generator
from paperweight.loops.local import Objective, local_gradients, peak_saved_bytes
from paperweight.loops.probes import Probed, effective_rank, knn_probe, linear_probe
from paperweight.loops.robust import (
    RobustLoss,
    TrainingAttack,
    adversarial_loss,
    fit_robust,
    mart_loss,
    own_predictions,
    trades_loss,
)
from paperweight.loops.robust_networks import robust_network
from paperweight.loops.schedules import warmed_cosine
from paperweight.loops.searching import Search, check_search
from paperweight.loops.shares import InShares
from paperweight.loops.stacked import Pays, fit_stacked, stacking_pays
from paperweight.loops.supervised import Evaluation, evaluate_classifier, fit_classifier
from paperweight.loops.text_to_image import fit_text_to_image

__all__ = [
    "AdversarialLoss",
    "DenoiserTraining",
    "Evaluation",
    "ExponentialMovingAverage",
    "InShares",
    "Objective",
    "OnStep",
    "Pays",
    "Probed",
    "RobustLoss",
    "Schedule",
    "Search",
    "TrainingAttack",
    "Tuned",
    "adversarial_loss",
    "area_under_risk_coverage",
    "at_points",
    "best_of",
    "check_search",
    "clip_gradients",
    "effective_rank",
    "evaluate_classifier",
    "expected_calibration_error",
    "fit_adversarial",
    "fit_classifier",
    "fit_generator",
    "fit_robust",
    "fit_stacked",
    "fit_text_to_image",
    "fit_views",
    "index_batches",
    "knn_probe",
    "linear_probe",
    "local_gradients",
    "loss_curve",
    "mart_loss",
    "minimise",
    "nt_xent",
    "own_predictions",
    "peak_saved_bytes",
    "robust_network",
    "stacking_pays",
    "trades_loss",
    "tune",
    "warmed_cosine",
]

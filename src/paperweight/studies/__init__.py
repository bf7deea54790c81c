"""Studies: a paper's claim as a runnable, paired comparison. What a study file needs is imported from here."""

from paperweight.studies._classification import Classification, Trained, classification
from paperweight.studies._declaration import BUDGETS, DEFAULT_SEEDS, Arm, Budget, Metric, Outcome, Study
from paperweight.studies._devices import across_devices
from paperweight.studies._embedding import Embedding, Unlabelled
from paperweight.studies._metrics import ACCURACY, EARLY_LOSS, TEST_LOSS
from paperweight.studies._network import given_network, load_factory
from paperweight.studies._recipe import MISFIT, Recipe
from paperweight.studies._setting import Setting

__all__ = [
    "ACCURACY",
    "BUDGETS",
    "DEFAULT_SEEDS",
    "EARLY_LOSS",
    "MISFIT",
    "TEST_LOSS",
    "Arm",
    "Budget",
    "Classification",
    "Embedding",
    "Metric",
    "Outcome",
    "Recipe",
    "Setting",
    "Study",
    "Trained",
    "Unlabelled",
    "across_devices",
    "classification",
    "given_network",
    "load_factory",
]

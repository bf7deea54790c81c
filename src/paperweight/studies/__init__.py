"""Studies: a paper's claim as a runnable, paired comparison. What a study file needs is imported from here."""

from paperweight.studies._declaration import BUDGETS, DEFAULT_SEEDS, Budget, Metric, Outcome, Study
from paperweight.studies._setting import Setting

__all__ = ["BUDGETS", "DEFAULT_SEEDS", "Budget", "Metric", "Outcome", "Setting", "Study"]

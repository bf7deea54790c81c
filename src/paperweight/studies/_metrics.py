"""What studies of classifiers measure alike."""

from paperweight.studies._declaration import Metric

__all__ = ["ACCURACY", "EARLY_LOSS", "TEST_LOSS"]

ACCURACY = Metric.higher("test accuracy", 0.01)
TEST_LOSS = Metric.lower("test loss", 0.02, "nats")
EARLY_LOSS = Metric.lower("training loss, first quarter of the steps", 0.05, "nats")

"""Keys, marks and scores: what a generator has learned of single images, against what chance alone would give.

`assign_keys` gives every record random keys, a `Keybook` keeps them from the training, and the scores and p-values say
how far keys that a generator recalls are from chance.

Example:
    >>> auc([0.1, 0.2], [0.8, 0.9])
    1.0
"""

from paperweight.marks.chance import NullCount, draw_keys, null_counts, record_p_values, total_p
from paperweight.marks.keybook import Keybook, assign_keys
from paperweight.marks.patched_l2 import patched_l2
from paperweight.marks.scores import Distances, auc, auc_null_interval, distances, eidetic_count, null_probability, roc

__all__ = [
    "Distances",
    "Keybook",
    "NullCount",
    "assign_keys",
    "auc",
    "auc_null_interval",
    "distances",
    "draw_keys",
    "eidetic_count",
    "null_counts",
    "null_probability",
    "patched_l2",
    "record_p_values",
    "roc",
    "total_p",
]

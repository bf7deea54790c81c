"""What erasers that change no weight share: they keep guidance off captions."""

from collections.abc import Sequence

from paperweight.generators.steering import Rule, Steered
from paperweight.unlearning._fine_tuning import Model, caption_list, copied

__all__ = ["steered"]


def steered(model: Model, forget: Sequence[str], rule: Rule) -> "Model | Steered":
    """Keep a model off captions, joined to one text; where there are none, copy it.

    Raises:
        InputError: If ``forget`` is one text and no list, a word is unknown, or the joined text is too long.
    """
    captions = caption_list("forget", forget)
    if not captions:
        return copied(model)
    concept = " ".join(captions)
    model.condition([concept], 1)
    return Steered(model, concept, rule)

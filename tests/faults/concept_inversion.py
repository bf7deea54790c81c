"""Faults of concept inversion."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "negative prompt forgotten in sampling",
        "guided(inverted, concept, guidance)",
        "guided(inverted, without, guidance)",
    ),
    Fault("aims at the concept without guidance", "guided(concept, without, guidance))", "concept)"),
    Fault("noise as the target of every model", "target(x, noise, abar, copy.spec.prediction)", "noise"),
    Fault("output taken for noise", "abar, copy.spec.prediction)[1]", 'abar, "eps")[1]'),
    Fault("data in the place of noise", "copy.spec.prediction)[1]", "copy.spec.prediction)[0]"),
    Fault("images not scaled", "x = copy.encode(images[index])", "x = images[index]"),
    Fault("batches from the global random state", "(batch_size,), generator=generator,", "(batch_size,),"),
    Fault("norm bounded from below", ".clamp(max=1)", ".clamp(min=1)"),
    Fault("norm of all vectors together", "new.norm(dim=1, keepdim=True)", "new.norm()"),
    Fault("no decay", "weight_decay=weight_decay)", "weight_decay=0.0)"),
    Fault("starts from the concept's neighbour", "model.embedding_of(initial)", "model.embedding_of(initial).roll(1)"),
    Fault("words of before are lost", "torch.cat([rows[:before], new])", "new"),
    Fault(
        "empty caption forgotten",
        "copy.eps(z, t, None), copy.eps(",
        "copy.eps(z, t, copy.condition([negative] * len(x), len(x))), copy.eps(",
    ),
)

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
    Fault("momentum forgotten", "gamma, momentum = safety", "gamma, _ = safety"),
    Fault("safety forgotten", "(given - without - gamma)", "(given - without)"),
    Fault("times rise", "sort(dim=1, descending=True)", "sort(dim=1)"),
    Fault("times one too late", "last[:, None] - span + order", "last[:, None] - span + 1 + order"),
    Fault("one time twice", "(samples, span, generator", "(samples, count, generator"),
    Fault(
        "noise drawn anew",
        "z, t = add_noise(x, noise, copy.schedule.abar[times.cpu()])",
        "z, t = add_noise(x, normal(x, generator), copy.schedule.abar[times.cpu()])",
    ),
    Fault(
        "kept off the new word",
        "off, momentum = kept_off(len(x)), torch",
        "off, momentum = tokens, torch",
    ),
    Fault(
        "images not scaled", "x = copy.encode(images[index.to(images.device)])", "x = images[index.to(images.device)]"
    ),
    Fault("batches from the global random state", "(batch_size,), generator=generator,", "(batch_size,),"),
    Fault("norm bounded from below", ".clamp(max=1)", ".clamp(min=1)"),
    Fault("norm of all vectors together", "new.norm(dim=1, keepdim=True)", "new.norm()"),
    Fault("no decay", "weight_decay=weight_decay)", "weight_decay=0.0)"),
    Fault("starts from the concept's neighbour", "model.embedding_of(initial)", "model.embedding_of(initial).roll(1)"),
    Fault("words of before are lost", "torch.cat([rows[:before], new])", "new"),
    Fault(
        "empty caption forgotten",
        "predict(copy, z, t, None), predict",
        "predict(copy, z, t, kept_off(len(x))), predict",
    ),
)

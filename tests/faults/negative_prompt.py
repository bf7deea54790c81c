"""Faults of the negative prompt."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("guided from the empty caption", 'eps("concept"), guidance)', 'eps("empty"), guidance)'),
    Fault(
        "guided towards the negative prompt",
        'guided(eps("caption"), eps("concept")',
        'guided(eps("concept"), eps("caption")',
    ),
    Fault("weight doubled", 'eps("concept"), guidance)', 'eps("concept"), 2 * guidance)'),
    Fault("weight forgotten", 'eps("concept"), guidance)', 'eps("concept"), 7.5)'),
    Fault("what to retain is kept off", "steered(model, forget, self)", "steered(model, [*forget, *retain], self)"),
    Fault("nothing is kept off", "steered(model, forget, self)", "steered(model, [], self)"),
)

"""Faults of EDM."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("skip factor without the square", "(sigma_data / total).square()", "(sigma_data / total)"),
    Fault("loss unweighted", "(_loss_weight(sigma, sigma_data) * errors).mean()", "errors.mean()"),
    Fault("levels without the last 0", "roots.new_zeros(1)", "roots[-1:].pow(rho)", part="_edm_sampling"),
    Fault(
        "second slope at the old level",
        "_slope(network, end, following)",
        "_slope(network, end, sigma)",
        part="_edm_sampling",
    ),
    Fault(
        "step from the level before churn",
        "_heun_step(network, x, raised, following)",
        "_heun_step(network, x, sigma, following)",
        part="_edm_sampling",
    ),
    Fault("churn not shared among the steps", "min(s_churn / steps,", "min(s_churn,", part="_edm_sampling"),
)

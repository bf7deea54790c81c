"""Faults of FourierFormer."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "radius on queries only",
        "log_kernel(precise(q) * radius, precise(k) * radius, power)",
        "log_kernel(precise(q) * radius, precise(k), power)",
    ),
    Fault("kernel in the format of its inputs", "log_kernel(precise(q) * radius", "log_kernel(q * radius"),
    Fault("logarithm and kernel exchanged", "return logs if log else logs.exp()", "return logs.exp() if log else logs"),
    Fault("power of two whatever is asked", "precise(k) * radius, power)", "precise(k) * radius, 2)"),
    Fault(
        "attention without the radius",
        "queries, keys = (precise(part) * radius for part in (q, k))",
        "queries, keys = (precise(part) for part in (q, k))",
    ),
    Fault("mask left out", "None if mask is None else as_added(mask)", "None"),
    Fault("values in the wrong format", ").to(v.dtype)", ")"),
    Fault("eps left out", "        eps,\n        causal=causal", "        0.0,\n        causal=causal"),
    Fault("causal left out", "causal=causal", "causal=False"),
    Fault("dropout left out", "        dropout=dropout,\n        generator", "        dropout=0.0,\n        generator"),
    Fault(
        "dropout from the global random state", "generator=generator,\n        chunk", "generator=None,\n        chunk"
    ),
    Fault("values not checked", "if v.shape[-2] != k.shape[-2]:", "if v.ndim < 2:"),
    Fault("torch's own attention stays", "        self.self_attn = attention\n", ""),
    Fault("norm first ignored", "1e-5, batch_first, norm_first)", "1e-5, batch_first, False)"),
    Fault(
        "dropout of the attention lost",
        "radius_init, bias, dropout, batch_first=batch_first)",
        "radius_init, bias, 0.0, batch_first=batch_first)",
    ),
    Fault(
        "kind of radius lost",
        "FourierAttention(dim, heads, power, radius, radius_init, bias",
        'FourierAttention(dim, heads, power, "scalar", radius_init, bias',
    ),
    Fault("layout of tokens lost", "bias, dropout, batch_first=batch_first)", "bias, dropout)"),
)

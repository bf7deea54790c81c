"""Faults of DAEF."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "derivative of the inverse's value",
        "return targets.logit(), targets * (1 - targets)",
        "value = targets.logit()\n        return value, value * (1 - value)",
        part="_rolann",
    ),
    Fault("samples weigh once", "(slope.square() * wanted)", "(slope * wanted)", part="_rolann"),
    Fault(
        "factors without weights",
        'inputs.T if activation == "linear" else slope.T[:, None] * inputs.T',
        "inputs.T",
        part="_rolann",
    ),
    Fault("mean of the clients", "torch.stack(moments).sum(0)", "torch.stack(moments).mean(0)", part="_rolann"),
    Fault("singular values not squared", "(values.square() + lam)", "(values + lam)", part="_rolann"),
    Fault("no penalty", "(values.square() + lam)", "(values.square() + 1e-6)", part="_rolann"),
    Fault("signs as they come", "return torch.where(largest < 0, -vectors, vectors)", "return vectors"),
    Fault("last singular vectors", "[0][:, :rank]", "[0][:, -rank:]"),
    Fault(
        "weights not transposed",
        "layer.weight.copy_(rolann_solve(merged, self.lam_hidden).T)",
        "layer.weight.copy_(rolann_solve(merged, self.lam_hidden).reshape(layer.weight.shape))",
    ),
    Fault(
        "penalties exchanged",
        "self.lam_hidden, self.lam_last = lam_hidden",
        "self.lam_last, self.lam_hidden = lam_hidden",
    ),
    Fault(
        "hidden layers without the auxiliary bias",
        "layer.bias.copy_(self._auxiliary[number - 1][1])",
        "layer.bias.zero_()",
    ),
    Fault(
        "forgets earlier clients", "known = [] if self._last is None else [self._last]", "known: list[Statistics] = []"
    ),
    Fault("statistics outside the state", '        self._last = state_dict["last"]\n', ""),
    Fault("auxiliary networks outside the state", '        self._auxiliary = list(state_dict["auxiliary"])\n', ""),
    Fault(
        "targets at the ends", "targets = targets.clamp(eps, 1 - eps)", "targets = targets.clamp(0, 1)", part="_rolann"
    ),
)

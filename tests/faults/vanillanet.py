"""Faults of VanillaNet."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "fading the other way",
        "(1 - lam) * x.relu() + lam * x",
        "lam * x.relu() + (1 - lam) * x",
        part="_vanilla_layers",
    ),
    Fault("matrix of the second convolution transposed", '"om,mikl->oikl"', '"mo,mikl->oikl"'),
    Fault(
        "bias of the first convolution not mixed",
        "mixing @ cast(Tensor, first.bias) + cast(Tensor, second.bias)",
        "mixing.sum(1) + cast(Tensor, second.bias)",
    ),
    Fault(
        "rectified after the sum", "return self.conv(x.relu())", "return self.conv(x).relu()", part="_vanilla_layers"
    ),
    Fault("merged in the model itself", "copy.deepcopy(model).double()", "model.double()"),
    Fault(
        "lam outside of the state",
        "nn.Buffer(torch.zeros(()))",
        "nn.Buffer(torch.zeros(()), persistent=False)",
        part="_vanilla_layers",
    ),
)

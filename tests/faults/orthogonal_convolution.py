"""Faults of orthogonal convolutions."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("shifts by all pixels whatever the stride", "stride=strides)\n\n\ndef conv", "stride=1)\n\n\ndef conv"),
    Fault("shifts not a multiple of the stride", "(side - 1) // step * step for", "side - 1 for"),
    Fault(
        "one side of the shifts",
        "padding=(reach[0], reach[1]), stride=strides)",
        "padding=(reach[0], 0), stride=strides)",
    ),
    Fault("identity at every shift", "target[:, :, middle[0], middle[1]] =", "target[:] +="),
    Fault("identity left out", "(products - target)", "products"),
    Fault("mean of squares", ".square().sum() - max", ".square().mean() - max"),
    Fault("rows always in view", " - max(0, outputs - inputs * strides[0] * strides[1])", ""),
    Fault(
        "stride forgotten in the count of columns",
        "inputs * strides[0] * strides[1])\n\n\ndef _products",
        "inputs)\n\n\ndef _products",
    ),
    Fault("padding with zeros", 'mode="circular"', 'mode="constant"'),
    Fault(
        "rows and columns of the padding exchanged",
        "(half[1], half[1], half[0], half[0])",
        "(half[0], half[0], half[1], half[1])",
    ),
    Fault("the matrix transposed", "reshape(count, -1).T", "reshape(count, -1)"),
    Fault("kernels smaller than the stride accepted for columns", "    return stride <= side", "    return True"),
    Fault("any number of rows accepted", "return outputs <= inputs * side**2", "return outputs <= inputs * side**4"),
    Fault("one shift in the bound", "2 * ((side - 1) // step) + 1 for", "1 for"),
    Fault("bound without the root", "math.sqrt(shifts * loss)", "shifts * loss"),
    Fault("weight left out", "return self.weight * torch.stack", "return torch.stack"),
    Fault("the mean of layers", "for layer in layers]).sum()", "for layer in layers]).mean()"),
    Fault("groups as one", "kernel.chunk(layer.groups)", "(kernel,)"),
    Fault("stride of a layer forgotten", "(group, (layer.stride[0], layer.stride[1]))", "(group)"),
    Fault("zeros between entries forgotten", "layer.dilation != (1, 1)", "False"),
    Fault("dilation in the wrong direction", "[:, :, ::rows, ::cols]", "[:, :, ::cols, ::rows]"),
)

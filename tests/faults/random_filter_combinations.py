"""Faults of combined random filters."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("filters learned", "requires_grad=learn_spatial)", "requires_grad=True)"),
    Fault("filters mixed up", "unflatten(1, filters.shape[1:])", "unflatten(1, filters.shape[:0:-1]).transpose(1, 3)"),
    Fault("stride lost", "self.bias, self.stride, self.padding", "self.bias, 1, self.padding"),
    Fault("expansion ignored", "count = expansion * out_channels", "count = out_channels"),
    Fault("bias of the merged lost", "new.bias = nn.Parameter(self.bias.clone())", "new.bias.zero_()"),
    Fault("filters start too large", "1 / math.sqrt(in_channels * height * width)", "1 / math.sqrt(in_channels)"),
    Fault("groups replaced", "            and layer.groups == 1\n", ""),
    Fault("padding mode ignored", '            and layer.padding_mode == "zeros"\n', ""),
    Fault("pointwise replaced", "            and layer.kernel_size != (1, 1)\n", ""),
    Fault("choice ignored", "            and replaced(name, layer)\n", ""),
)

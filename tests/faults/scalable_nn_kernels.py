"""Faults of scalable neural network kernels."""

from functools import partial

from tests.faults.planting import Fault

_features = partial(Fault, part="_random_features")

FAULTS = (
    _features("not orthogonal", "    if not orthogonal:\n", "    if orthogonal or not orthogonal:\n"),
    _features("rows of one length", " * drawn.norm(dim=1, keepdim=True)", " * math.sqrt(dim)"),
    _features("signs of q left out", "q * r.diagonal().sign()", "q.abs()"),
    _features("generator not used", "generator=generator, device=device)\n    if", "device=device)\n    if"),
    _features("growth of the inputs left out", "size = torch.exp(2 * math.pi**2", "size = torch.exp(0 * math.pi**2"),
    _features("inputs' growth halved", "2 * math.pi**2 * frequencies**2", "math.pi**2 * frequencies**2"),
    _features("norm of the weights left out", " - weight.square().sum(-1, keepdim=True) / 2)", ")"),
    _features(
        "bias left out",
        "angle = 2 * math.pi * frequencies * bias[..., None]",
        "angle = 0 * frequencies * bias[..., None]",
    ),
    _features(
        "coefficients left out", "return coefficients * torch.polar(size, angle)", "return torch.polar(size, angle)"
    ),
    _features(
        "no mean over features",
        "return F.relu(x @ projections.T) / math.sqrt(len(projections))",
        "return F.relu(x @ projections.T)",
    ),
    _features("without ReLU", "return F.relu(x @ projections.T)", "return (x @ projections.T)"),
    Fault(
        "projections learned",
        'self.register_buffer("projections", draw_projections(features, in_features, orthogonal, generator).cpu())',
        "self.projections = nn.Parameter(draw_projections(features, in_features, orthogonal, generator))",
    ),
    Fault(
        "orthogonal ignored",
        "draw_projections(features, in_features, orthogonal, generator)",
        "draw_projections(features, in_features, True, generator)",
    ),
    Fault("weights too large", "bound = 1 / math.sqrt(in_features)", "bound = 1 / math.sqrt(features)"),
    Fault(
        "bundle in the other order",
        "nn.Parameter(following.weight @ layer.weight)",
        "nn.Parameter(following.weight.clone())",
    ),
    Fault(
        "bias of the following lost",
        "F.linear(layer.bias, following.weight, following.bias)",
        "F.linear(layer.bias, following.weight)",
    ),
    Fault("layer changed by bundling", "new = copy.deepcopy(layer)", "new = layer"),
    Fault("penalty left out", "features.T @ features + lam *", "features.T @ features + 0 * lam *"),
    Fault("first layers replaced", "pairs[-last:]", "pairs[:last]"),
    Fault("ReLU stays", "            return nn.Identity()", "            return part"),
    Fault(
        "weights drawn anew",
        "new.weight.copy_(relu_features(part.weight.to(new.weight), new.projections))",
        "new.weight.mul_(1)",
    ),
    Fault("bias lost", "new.bias.copy_(part.bias)", "new.bias.zero_()"),
    Fault("generator of the network not used", "part.bias is not None, generator=generator)", "part.bias is not None)"),
    Fault(
        "frozen weights learned", "new.weight.requires_grad_(part.weight.requires_grad)", "new.weight.requires_grad_()"
    ),
)

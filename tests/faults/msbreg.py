"""Faults of MSBReg."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("the target is trained too", "F.normalize(target.detach(), dim=-1)", "F.normalize(target, dim=-1)"),
    Fault(
        "targets of any length",
        "F.normalize(F.normalize(target.detach(), dim=-1).mean(dim=0), dim=-1)",
        "F.normalize(target.detach().mean(dim=0), dim=-1)",
    ),
    Fault(
        "a centroid for both networks",
        "(F.normalize(online, dim=-1) * centroids)",
        "(F.normalize(F.normalize(online, dim=-1).mean(dim=0), dim=-1) * centroids)",
    ),
    Fault("one kick for all images", "torch.randn(codes.shape[1:],", "torch.randn(codes.shape[2:],"),
    Fault("a kick for each view", "torch.randn(codes.shape[1:],", "torch.randn(codes.shape,"),
    Fault("kicks of any length", "* F.normalize(drawn, dim=-1)", "* drawn"),
    Fault("singular values of any length", "matrix = F.normalize(codes, dim=-1) /", "matrix = codes /"),
    Fault("not divided by the samples", " / codes.shape[1] ** 0.5\n", "\n"),
    Fault("singular values of 1", "even = codes.shape[2] ** -0.5", "even = 1.0"),
    Fault("fewer samples than dimensions", " + missing * even**2", ""),
    Fault("half precision decomposed", "matrix.to(torch.promote_types(codes.dtype, torch.float32))", "matrix"),
    Fault(
        "one view for all",
        "seen = [self.view(inputs, self.generator) for _ in range(self.views)]",
        "seen = [self.view(inputs, self.generator)] * self.views",
    ),
    Fault(
        "even predictions",
        "self.singular * singular_value_loss(codes)",
        "self.singular * singular_value_loss(followed)",
    ),
    Fault("kicks without a weight", "self.brownian * brownian_loss(", "brownian_loss("),
    Fault("gradients add up", "        self.optimizer.zero_grad()\n        loss.backward()", "        loss.backward()"),
    Fault("the target stands still", "follower.lerp_(weight, 1 - self.momentum)", "follower.lerp_(weight, 0.0)"),
    Fault("the target runs ahead", "weight, 1 - self.momentum)", "weight, self.momentum)"),
    Fault("the target in eval mode", "(self.model, self.predictor, self.target):", "(self.model, self.predictor):"),
    Fault("the target is not saved", '        self.target.load_state_dict(state_dict["target"])\n', ""),
    Fault("the predictor is not saved", '        self.predictor.load_state_dict(state_dict["predictor"])\n', ""),
    Fault("the generator is not saved", '        self.generator.set_state(state_dict["generator"])\n', ""),
)

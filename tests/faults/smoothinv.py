"""Faults of SmoothInv."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "mean of logits in place of probabilities",
        "logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(noise))",
        "logits.mean(dim=0).log_softmax(dim=1)",
    ),
    Fault(
        "mean of logarithms",
        "logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(noise))",
        "logits.log_softmax(dim=2).mean(dim=0)",
    ),
    Fault("sum in place of the mean", ".logsumexp(dim=0) - math.log(len(noise))", ".logsumexp(dim=0)"),
    Fault("away from the target", "-logs.gather(1, targets[:, None]).sum()", "logs.gather(1, targets[:, None]).sum()"),
    Fault("gradient not normalised", "F.normalize(gradient.flatten(1), dim=1).view_as(gradient)", "gradient"),
    Fault(
        "normalised over the batch",
        "F.normalize(gradient.flatten(1), dim=1).view_as(gradient)",
        "gradient / gradient.norm()",
    ),
    Fault("no momentum", "self.momentum * velocity + F", "F"),
    Fault("length never halved", "(0.5 if 4 * number >= 3 * self.steps else 1.0)", "1.0"),
    Fault("halved one step late", "4 * number >= 3 * self.steps", "4 * number > 3 * self.steps"),
    Fault(
        "ball around the last point", "project(moved, images, self.eps, 2.0)", "project(moved, changed, self.eps, 2.0)"
    ),
    Fault(
        "ball of another norm", "project(moved, images, self.eps, 2.0)", "project(moved, images, self.eps, math.inf)"
    ),
    Fault(
        "same noise for all images",
        "shape = (self._copies, *images.shape)",
        "shape = (self._copies, 1, *images.shape[1:])",
    ),
    Fault("noise not scaled", "self.sigma * noise.to(images.device)", "noise.to(images.device)"),
    Fault("model in train mode", "with evaluating(model), torch.enable_grad():", "with torch.enable_grad():"),
    Fault("images of the class count", "rest = others[seen != target]", "rest = others"),
    Fault("trigger is the changed image", "triggers = changed - image", "triggers = changed"),
    Fault("worst class", "int(rates.argmax())", "int(rates.argmin())"),
)

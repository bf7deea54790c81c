"""Faults of image synthesis with a robust classifier."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("away from the class", "steepest_step(-gradient", "steepest_step(gradient"),
    Fault("not projected", "point = project(ahead, start, radius, 2.0, bounds)", "point = ahead.clamp(*bounds)"),
    Fault("ball around the last point", "project(ahead, start, radius", "project(ahead, place.detach(), radius"),
    Fault("norm infinity", "step, 2.0, bounds)", "step, math.inf, bounds)"),
    Fault("generated in train mode", "with evaluating(model):\n            return", "if True:\n            return"),
    Fault(
        "hidden pixels in the mean",
        "(given * known).sum(dim=(2, 3), keepdim=True) / counts",
        "given.mean(dim=(2, 3), keepdim=True)",
    ),
    Fault("mean over the whole image", "keepdim=True) / counts, given)", "keepdim=True) / known[0, 0].numel(), given)"),
    Fault("hole held, known pixels free", "((changed - start) * known)", "((changed - start) * (1 - known))"),
    Fault("sum of squares", "square().flatten(1).mean(dim=1).sum()", "square().sum()"),
    Fault("mean over known pixels", "square().flatten(1).mean(dim=1).sum()", "square().sum() / counts.flatten()[0]"),
    Fault("weight lost", "entropy + lam *", "entropy +"),
    Fault("known pixels move at an infinite weight", "torch.where(holes, changed, start)), labels", "changed), labels"),
    Fault("one covariance for all", "of_class.T.cov()", "rows.T.cov()"),
    Fault("one mean for all", "of_class.mean(dim=0) +", "rows.mean(dim=0) +"),
    Fault("root transposed", "@ root.T", "@ root"),
    Fault("one pixel of several", "F.avg_pool2d(images, factor)", "images[..., ::factor, ::factor]"),
    Fault("seeds beyond the range", ".clamp(*_BOUNDS).to(images.dtype)", ".to(images.dtype)"),
    Fault("rows enlarged alone", ".repeat_interleave(factor, dim=3)", ".repeat(1, 1, 1, factor)"),
)

"""Faults of dark side augmentation."""

from tests.faults.planting import Fault

_TRANSLATION = "_day_to_night"

FAULTS = (
    Fault("positives are translated, too", "chosen = drawn & (roles == ANCHOR)", "chosen = drawn & (roles != 0)"),
    Fault("all anchors are translated", "chosen = drawn & (roles == ANCHOR)", "chosen = roles == ANCHOR"),
    Fault("the images that are given change", "changed = images.clone()", "changed = images"),
    Fault("a module keeps its mode", "isinstance(self.translate, nn.Module)", "isinstance(self.translate, str)"),
    Fault("gradients flow through the translator", "    @torch.no_grad()\n    def __call__", "    def __call__"),
    Fault("any probability", "not 0 <= p <= 1", "p != p"),
    Fault("no root", ".mean(dim=(2, 3)).pow(1 / p)", ".mean(dim=(2, 3))"),
    Fault("a sum for a mean", ".pow(p).mean(dim=(2, 3))", ".pow(p).sum(dim=(2, 3))"),
    Fault("powers that overflow", "(x / scale).pow(p)", "x.pow(p)"),
    Fault("the scale is forgotten", " * scale[:, :, 0, 0]", ""),
    Fault("nothing is raised to eps", ".clamp(min=self.eps)", ".clamp(min=0)"),
    Fault(
        "distance without a square", "(anchors - positives).square().sum(dim=1)", "length(anchors - positives)[:, 0]"
    ),
    Fault("no half", "((near + lacking) / 2).mean()", "(near + lacking).mean()"),
    Fault("a sum over tuples", "((near + lacking) / 2).mean()", "((near + lacking) / 2).sum()"),
    Fault("a lack that is not squared", ".relu().square().sum(dim=(1, 2))", ".relu().sum(dim=(1, 2))"),
    Fault("negatives beyond the margin count", "negatives)).relu().square()", "negatives)).square()"),
    Fault("lengths matter", "directions = unit(precise(z))", "directions = precise(z)"),
    Fault("the last anchor alone", "nearest = torch.maximum(nearest, directions @", "nearest = (directions @"),
    Fault(
        "an anchor may come again",
        "        nearest[chosen[-1]] = math.inf\n",
        "",
    ),
    Fault("the most similar first", "nearest.argsort()[first:last]", "(-nearest).argsort()[first:last]"),
    Fault("nothing is excluded", "int(left * (1 - exclude))", "int(left)"),
    Fault("all is included", "int(left * (1 - include))", "0"),
    Fault(
        "the first of the window",
        "ranked[int(torch.randint(len(ranked), (), generator=generator, device=draw))]",
        "ranked[0]",
    ),
    Fault(
        "a sum of differences",
        "(edges - translated).abs().mean()",
        "(edges - translated).abs().sum()",
        part=_TRANSLATION,
    ),
    Fault(
        "squared differences",
        "(edges - translated).abs().mean()",
        "(edges - translated).square().mean()",
        part=_TRANSLATION,
    ),
    Fault(
        "the detector is not held by day",
        "edge_consistency_loss(target, day) + edge_consistency_loss(target, night)",
        "edge_consistency_loss(target, night)",
        part=_TRANSLATION,
    ),
    Fault("nights and translations swapped", "(critic(nights) - 1)", "(critic(nights) - 0)", part=_TRANSLATION),
    Fault(
        "the critic's loss is not halved",
        ".detach()).square().mean()) / 2",
        ".detach()).square().mean())",
        part=_TRANSLATION,
    ),
    Fault(
        "the translator is to look like day",
        "passed = (critic(fake) - 1)",
        "passed = (critic(fake) - 0)",
        part=_TRANSLATION,
    ),
    Fault("no weight of edges", "passed + edge * kept", "passed + kept", part=_TRANSLATION),
    Fault(
        "edges before the sigmoid",
        "target.sigmoid(), detector(fake).sigmoid()",
        "target, detector(fake)",
        part=_TRANSLATION,
    ),
    Fault("the target moves with the detector", "target = frozen(real)", "target = detector(real)", part=_TRANSLATION),
    Fault(
        "a detector that is always trained",
        "if detector_lr:",
        "if True:",
        part=_TRANSLATION,
    ),
    Fault("rates do not fall", "rate * min(1.0, 2 * (1 - step / steps))", "rate", part=_TRANSLATION),
    Fault("batches in pairs", "_drawn(night, batch_size, generator)", "night[:batch_size]", part=_TRANSLATION),
    Fault(
        "momentum of Adam's own",
        "Adam(translator.parameters(), lr=lr, betas=(0.5, 0.999))",
        "Adam(translator.parameters(), lr=lr)",
        part=_TRANSLATION,
    ),
    Fault(
        "the mode of the detector",
        "with evaluating(detector), evaluating(frozen):",
        "with evaluating(frozen):",
        part=_TRANSLATION,
    ),
    Fault(
        "gradients stay behind",
        "    optimizer.step()\n    optimizer.zero_grad()\n",
        "    optimizer.step()\n",
        part=_TRANSLATION,
    ),
)

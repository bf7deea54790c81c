"""Faults of feature generating networks."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "features of any sign", "return F.relu(self.layers(torch.cat([latent", "return (self.layers(torch.cat([latent"
    ),
    Fault("no leak", "nn.LeakyReLU(0.2)", "nn.ReLU()"),
    Fault("weights as torch has them", "else nn.init.normal_(parameter, std=0.02)", "else None"),
    Fault("wide weights", "nn.init.normal_(parameter, std=0.02)", "nn.init.normal_(parameter, std=0.2)"),
    Fault("scores in a column", "dim=1))[:, 0]", "dim=1))"),
    Fault(
        "the critic's score turned round",
        "critic(fake, attributes).mean() - critic(real",
        "critic(real, attributes).mean() - critic(real",
    ),
    Fault("penalty at real features", "between = torch.lerp(fake, real, share)", "between = real.clone()"),
    Fault("one place for all lines", "torch.rand(len(real), 1, generator", "torch.rand(1, 1, generator"),
    Fault("squared slopes", "(torch.linalg.vector_norm(slopes, dim=1) - 1).square()", "slopes.square().sum(dim=1)"),
    Fault("penalty without a graph", "create_graph=True", "create_graph=False"),
    Fault("no weight of the penalty", "+ lam * penalty", "+ penalty"),
    Fault("gradients into features", "= real.detach(), fake.detach(), attributes", "= real, fake, attributes"),
    Fault("the generator lowers scores", "loss = -critic(fake", "loss = critic(fake"),
    Fault("beta of one", "loss + beta * F.cross", "loss + F.cross"),
    Fault("a classifier that is trained", "parameter.detach() for name", "parameter for name"),
    Fault("labels of no class", "labels.dtype != torch.int64 or labels.shape", "labels.shape"),
    Fault("negative weight of the penalty", "if not 0 <= lam < math.inf:", "if not lam < math.inf:"),
    Fault("uniform noise", "latent = torch.randn(size", "latent = torch.rand(size"),
    Fault("classes in turn", ".repeat_interleave(count)", ".repeat(count)"),
    Fault("features with a graph", "@torch.no_grad()\n", ""),
    Fault(
        "a mean of images",
        "torch.stack([right[labels == name].mean() for name in labels[chosen].unique()]).mean()",
        "right[chosen].mean()",
    ),
    Fault("seen and unseen exchanged", "for chosen in (~new, new)", "for chosen in (new, ~new)"),
    Fault("the arithmetic mean", "2 * seen * told / (seen + told) if", "(seen + told) / 2 if"),
    Fault("0 divided by 0", " if seen + told else 0.0", ""),
)

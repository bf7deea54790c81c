"""How often the audit of robustness raises its alarm: on models whose gradients are masked, and on sound ones.

python benchmarks/masked_gradients.py [--models N]

All are perceptrons of one hidden layer on images of digits. Sound are those trained plainly, and those trained on
images attacked with a radius of 0.1, in turn. Masked are plain ones whose input is rounded to five levels, has a fine
ripple added, a random half of its pixels set to grey at each call, or a gradient that is noise, and those whose logits
are multiplied by 1,000 and passed through a softmax, in turn. Each audit has 100 images, 20 steps and 100 queries.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from paperweight.attacks import ProjectedGradient
from paperweight.audits import audit_robustness
from paperweight.audits.erasure_findings import Rate
from paperweight.data import LabelledImages, load_images
from paperweight.loops import fit_classifier, fit_robust
from paperweight.nets import MLP

CLASSES = tuple("0123456789")
RADIUS = 0.1


class Changed(nn.Module):
    """Changes what goes into a network, and what comes out."""

    def __init__(
        self, network: nn.Module, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, images: Tensor) -> Tensor:
        """Give the answers, (N, classes)."""
        return self.after(self.network(self.before(images)))


def same(given: Tensor) -> Tensor:
    """Change nothing."""
    return given


def lying(images: Tensor) -> Tensor:
    """Change nothing but the gradient, of which each entry is multiplied by noise."""
    still = images.detach()
    return still + torch.randn_like(images) * (images - still)


MASKS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "rounded to five levels": (lambda images: (4 * images).round() / 4, same),
    "with a fine ripple": (lambda images: images + 0.02 * torch.sin(300 * images), same),
    "half of the pixels grey, at random": (
        lambda images: torch.where(torch.rand_like(images) < 0.5, images, 0.5 + 0 * images),
        same,
    ),
    "with a gradient that is noise": (lying, same),
    "softmax of logits times 1,000": (same, lambda logits: (1_000 * logits).softmax(dim=1)),
}


def network() -> nn.Module:
    """Make a new network."""
    return MLP((1, 8, 8), 10, hidden=(64,))


def trained(training: LabelledImages, seed: int, robust: bool) -> nn.Module:
    """Train a network, on attacked images or on plain ones."""
    torch.manual_seed(seed)
    model, draw = network(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    if robust:
        attack = ProjectedGradient(RADIUS, steps=7, keep_going=True)
        fit_robust(
            model,
            optimizer,
            training.images,
            training.labels,
            attack=attack,
            steps=600,
            batch_size=64,
            generator=draw,
        )
    else:
        fit_classifier(model, optimizer, training.images, training.labels, steps=600, batch_size=64, generator=draw)
    return model


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=25)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_images("digits")
    images, labels = torch.tensor(data.train.images) / 255, torch.tensor(data.train.labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, training = (LabelledImages(images[rows], labels[rows]) for rows in (order[:500], order[500:]))

    def alarms(models: Callable[[int], tuple[str, nn.Module]], words: str) -> None:
        found: dict[str, list[bool]] = {}
        for seed in range(given.models):
            kind, model = models(seed)
            torch.manual_seed(seed)
            audit = audit_robustness(
                model,
                test,
                training,
                CLASSES,
                make=network,
                radius=RADIUS,
                limit=100,
                steps=20,
                queries=100,
                training_steps=200,
                seed=seed,
            )
            found.setdefault(kind, []).append(audit.alarm)
            shares = [audit.held(box).share for box in ("white", "black", "any")]
            print(f"{kind}, seed {seed}: {audit.verdict}, right after white, black, all {shares}", flush=True)
            for sign in audit.signs:
                print(f"  {sign}", flush=True)
        for kind, rang in [*found.items(), (words, sum(found.values(), list[bool]()))]:
            rate = Rate(sum(rang), len(rang))
            print(f"{kind}: {rate.hits} of {rate.count} alarms ({rate.low:.0%} to {rate.high:.0%})", flush=True)

    def sound(seed: int) -> tuple[str, nn.Module]:
        robust = seed % 2 == 1
        return "trained on attacked images" if robust else "trained plainly", trained(training, seed, robust)

    def masked(seed: int) -> tuple[str, nn.Module]:
        kind = list(MASKS)[seed % len(MASKS)]
        return kind, Changed(trained(training, seed, False), *MASKS[kind])

    alarms(sound, "all sound models")
    alarms(masked, "all masked models")


if __name__ == "__main__":
    main()

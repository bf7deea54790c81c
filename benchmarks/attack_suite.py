"""The standard suite beside AutoAttack, on a robust LeNet: what each leaves right, and what it costs, in one process.

AutoAttack is that of torchattacks 3.5.1 (MIT): APGD on cross-entropy, APGD towards nine classes, FAB towards nine, and
Square with 5,000 queries, each on what is left. Networks and images are those of `attacks.py`. One CPU thread; blocks
take turns. The rival is to be installed in an environment of its own, without what it asks for (`--no-deps`):

    python -m pip install --no-deps torchattacks
    python benchmarks/attack_suite.py [--blocks 3] [--images 500]
"""

import argparse
import statistics
import time

import torch

from attacks import networks
from paperweight.attacks import standard_suite

_RADII = (0.1, 0.2)


def main() -> None:
    """Measure, and print a row a radius."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, default=3, help="blocks of each")
    parser.add_argument("--images", type=int, default=500, help="images to attack")
    given = parser.parse_args()
    import torchattacks

    torch.set_num_threads(1)
    models, images, labels = networks(given.images)
    model = models["robust"]
    print("radius  right after ours  after AutoAttack  only ours fools  only AutoAttack  seconds ours / theirs  share")
    for radius in _RADII:
        suite = standard_suite(radius)
        rival = torchattacks.AutoAttack(model, norm="Linf", eps=radius, n_classes=10, seed=0)
        held: dict[str, list[torch.Tensor]] = {"ours": [], "theirs": []}
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        runs = {
            "ours": lambda suite=suite: suite(model, images, labels, generator=torch.Generator().manual_seed(0)),
            "theirs": lambda rival=rival: rival(images, labels),
        }
        for block in range(given.blocks):
            for name in sorted(runs, reverse=bool(block % 2)):
                start = time.process_time()
                changed = runs[name]()
                seconds[name].append(time.process_time() - start)
                with torch.no_grad():
                    held[name].append(model(changed).argmax(dim=1) == labels)
        ours, theirs = (statistics.median(float(each.float().mean()) for each in held[name]) for name in held)
        one, other = held["ours"][0], held["theirs"][0]
        took = [statistics.median(seconds[name]) for name in ("ours", "theirs")]
        share = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
        print(
            f"{radius:6.2f} {ours:17.1%} {theirs:17.1%} {int((~one & other).sum()):16d} {int((one & ~other).sum()):16d}"
            f" {took[0]:10.1f} / {took[1]:.1f} {share:10.2f}"
        )


if __name__ == "__main__":
    main()

"""Methods of ours beside their twins in other packages: do the same inputs give the same values, and if not, why.

pip install -r benchmarks/requirements-strangers.txt
pip install --no-deps -r benchmarks/requirements-strangers-alone.txt
python benchmarks/strangers_twins.py --page docs/twins.md
"""

import argparse
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from strangers_layers import layers_of_timm
from torch import Tensor, nn

from paperweight.architecture.condconv import CondConv2d
from paperweight.optim.adabelief import AdaBelief
from paperweight.optim.exadam import EXAdam
from paperweight.optim.grams import Grams
from paperweight.optim.lookahead import Lookahead
from paperweight.optim.stablemax_orthograd import OrthoGrad
from paperweight.regularization.stochastic_depth import StochasticDepth
from paperweight.training.ghost_batch_norm import GhostBatchNorm

STEPS = (1, 2, 20, 200)


class Twins(NamedTuple):
    """What is compared, the largest differences relative to the largest value, by what was done, and why."""

    name: str
    differences: dict[str, float]
    why: str


def normal(*shape: int, seed: int) -> Tensor:
    """Draw normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Give the largest difference, relative to the largest value of ours."""
    return ((ours - theirs).abs().max() / ours.abs().max()).item()


def steps_of(make: Callable[..., Any]) -> dict[int, Tensor]:
    """Step on noisy gradients of a bowl; give by how much the weights have moved after so many steps."""
    start = normal(4, 5, seed=0)
    p = nn.Parameter(start.clone())
    optimizer = make([p])
    moved: dict[int, Tensor] = {}
    for step in range(1, max(STEPS) + 1):
        p.grad = p.detach() + normal(4, 5, seed=step)
        optimizer.step()
        if step in STEPS:
            moved[step] = p.detach() - start
    return moved


def of_optimizers(name: str, ours: Callable[..., Any], theirs: Callable[..., Any], why: str) -> Twins:
    """Compare how far two optimizers move the same weights."""
    one, other = steps_of(ours), steps_of(theirs)
    return Twins(name, {f"step {step}": difference(one[step], other[step]) for step in STEPS}, why)


def optimizers() -> Iterator[Twins]:
    """Compare with pytorch_optimizer."""
    package = importlib.import_module("pytorch_optimizer")
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    yield of_optimizers(
        "EXAdam, without the growing step, `eps` of 1e-8",
        partial(EXAdam, lr=0.01, log_step=False),
        partial(package.EXAdam, lr=0.01),
        "",
    )
    yield of_optimizers("Grams, `eps` of 1e-6", partial(Grams, lr=0.01), partial(package.Grams, lr=0.01), "")
    yield of_optimizers(
        "AdaBelief, `eps` of 1e-16", partial(AdaBelief, lr=0.01), partial(package.AdaBelief, lr=0.01), ""
    )
    yield of_optimizers(
        "AdaBelief, `eps` of 1e-4",
        partial(AdaBelief, lr=0.01, eps=1e-4),
        partial(package.AdaBelief, lr=0.01, eps=1e-4),
        "",
    )
    yield of_optimizers(
        "Lookahead on SGD, k = 5, alpha = 0.5",
        lambda params: Lookahead(sgd(params), k=5, alpha=0.5),
        lambda params: package.Lookahead(sgd(params), k=5, alpha=0.5, pullback_momentum="none"),
        "",
    )
    yield of_optimizers(
        "OrthoGrad on SGD", lambda params: OrthoGrad(sgd(params)), lambda params: package.OrthoGrad(sgd(params)), ""
    )


def of_condconv(layers: Any) -> Twins:
    """Compare outputs and gradients of a convolution mixed for each example, of the same experts and weights."""
    ours = CondConv2d(6, 4, 3, num_experts=3, padding=1).double()
    theirs = layers.CondConv2d(6, 4, 3, padding=1, num_experts=3, bias=True).double()
    with torch.no_grad():
        theirs.weight.copy_(ours.experts.flatten(1))
        theirs.bias.copy_(ours.biases)
    x = normal(5, 6, 7, 7, seed=1)
    one, other = ours(x), theirs(x, ours.alphas(x))
    gradient = torch.autograd.grad(one.square().sum(), ours.experts)[0].flatten(1)
    of_theirs = torch.autograd.grad(other.square().sum(), theirs.weight)[0]
    found = {"output": difference(one, other), "gradient of experts": difference(gradient, of_theirs)}
    return Twins("CondConv2d, beside timm's", found, "")


def of_ghosts(layers: Any) -> Twins:
    """Compare normalization of parts of a batch, in training and after it."""
    ours, theirs = GhostBatchNorm(3, ghost_size=4).double(), layers.SplitBatchNorm2d(3, num_splits=2).double()
    x = normal(8, 3, 5, 5, seed=2) + torch.arange(8.0, dtype=torch.float64)[:, None, None, None]
    found = {"train": difference(ours(x), theirs(x))}
    found["eval"] = difference(ours.eval()(x), theirs.eval()(x))
    why = (
        "In eval mode timm's has the running averages of the first part alone, its other parts having averages, scales "
        "and shifts of their own, which are not used; here all parts share them, as in the paper."
    )
    return Twins("GhostBatchNorm, beside timm's SplitBatchNorm2d", found, why)


def of_depth(layers: Any) -> Twins:
    """Compare dropping of residual branches by samples: the share that is dropped, and the mean of what is kept."""
    branch = StochasticDepth(nn.Identity(), survival=0.8, mode="row", generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    x = torch.ones(200_000, 1, dtype=torch.float64)
    ours, theirs = branch(x), layers.DropPath(0.2)(x)
    shares = [(output == 0).double().mean() for output in (ours, theirs)]
    found = {"share dropped": abs(shares[0] - shares[1]).item(), "size kept": difference(ours.max(), theirs.max())}
    why = "Draws differ: timm's come from the global random state. What survives is divided by its probability in both."
    return Twins("StochasticDepth by rows, beside timm's DropPath", found, why)


def page(found: list[Twins]) -> str:
    """Write what was found as a page."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "pytorch_optimizer", "timm")
    )
    lines = [HEAD.format(versions=versions), "| what | largest relative difference | why |", "|---|---|---|"]
    for twins in found:
        told = "; ".join(f"{what} {size:.1e}" for what, size in twins.differences.items())
        lines.append(f"| {twins.name} | {told} | {twins.why or 'rounding'} |")
    return "\n".join([*lines, ""])


HEAD = """# Twins in other packages

Methods that other packages have, too, on the same inputs, in float64 ({versions}),
as `benchmarks/strangers_twins.py` compares them. Optimizers step 200 times on noisy gradients; compared is how far the
weights have moved. Whether the twins pass the contracts is told [on another page](strangers.md).
"""


def main() -> None:
    """Compare, and write the page or print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="where to write the page")
    given = parser.parse_args()
    torch.manual_seed(0)
    layers = layers_of_timm()
    found = [*optimizers(), of_condconv(layers), of_ghosts(layers), of_depth(layers)]
    if given.page is None:
        print(page(found))
    else:
        given.page.write_text(page(found))


if __name__ == "__main__":
    main()

"""OrthoGrad and StableMax: learn on, once every training example is right, by more than growing logits.

Once the training examples are right, gradients come to scale all weights, which changes no prediction, until the
softmax rounds the loss to 0. OrthoGrad takes that part out of each gradient; StableMax replaces the exponential.
Cost: some ten passes over weights and gradients a step, and no state; of StableMax two logarithms a logit.

Source:
    L. Prieto, M. Barsbey, P. A. M. Mediano, T. Birdal, "Grokking at the Edge of Numerical Stability", ICLR, 2025,
    https://arxiv.org/abs/2501.04697. Implemented: StableMax and its cross-entropy, the orthogonal gradient, the share
    of examples whose softmax has collapsed, the alignment with the direction of naive loss minimisation (NLM).

Deviations:
    - A gradient parallel to its weights to within rounding becomes 0; the authors' code scales what rounding leaves up
      to its length. So a tensor of one entry never moves, unless its group has a ``share`` of 0.
    - The projection is done twice, and on scaled numbers, since squares of gradients below 1e-23 vanish in float32.
    - The gradient keeps its length as in the authors' code, as far as the dtype holds it; the paper's equation only
      projects. `share` is ours, ``p.grad`` is put back after a step, StableMax keeps the dtype of the logits.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.catalogue import Paper

__all__ = [
    "OrthoGrad",
    "nlm_alignment",
    "orthogonal_gradient",
    "softmax_collapse_fraction",
    "stablemax",
    "stablemax_cross_entropy",
]

PAPER = Paper(
    title="Grokking at the Edge of Numerical Stability",
    authors=("Lucas Prieto", "Melih Barsbey", "Pedro A. M. Mediano", "Tolga Birdal"),
    year=2025,
    url="https://arxiv.org/abs/2501.04697",
    provides={
        "OrthoGrad": "optimizer",
        "orthogonal_gradient": "function",
        "stablemax": "function",
        "stablemax_cross_entropy": "loss",
        "softmax_collapse_fraction": "function",
        "nlm_alignment": "function",
    },
    null={"share": 0.0},
    claim="Orthogonal gradients generalise on grokking tasks almost without delay, and StableMax without weight decay.",
)


def _check_share(share: float) -> None:
    if isinstance(share, bool) or not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}; 0 leaves gradients as they are")


def _check_dense(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or not tensor.is_floating_point():
        raise ValueError(f"{name} must be dense and real, got {tensor.layout} {tensor.dtype}; convert it first")


def _check_classified(logits: Tensor, labels: Tensor) -> None:
    _check_dense("logits", logits)
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits must have shape (N, classes), none of them 0, got {tuple(logits.shape)}")
    if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 of shape ({len(logits)},), got {labels.dtype} {tuple(labels.shape)}")


def _scaled(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Give a tensor whose largest entry has size 1, and what it was divided by: 1 where all entries are 0."""
    size = tensor.abs().amax()
    size = torch.where(size == 0, torch.ones_like(size), size)
    return tensor / size, size


def orthogonal_gradient(gradient: Tensor, weight: Tensor, share: float = 1.0) -> Tensor:
    """Give |g| times the direction of g - share (u . g) u with u = w / |w|: without what is along the weights.

    Args:
        gradient: The gradient g, dense and real, of any shape; half precision is computed in float32.
        weight: The weights w, of the same shape.
        share: How much of the part along the weights is taken out, from 0 to 1; the paper has 1.

    Returns:
        A new tensor with the shape, dtype and device of ``gradient``: 0 where, at a share of 1, ``gradient`` is
        parallel to ``weight`` to within rounding, and ``gradient`` itself where ``weight`` is 0.

    Raises:
        ValueError: If the shapes differ, a tensor is not dense and real, or ``share`` is outside its range.

    Example:
        >>> orthogonal_gradient(torch.tensor([3.0, 4.0]), torch.tensor([2.0, 0.0]))
        tensor([0., 5.])
    """
    _check_share(share)
    _check_dense("gradient", gradient)
    _check_dense("weight", weight)
    if gradient.shape != weight.shape:
        raise ValueError(f"weight must have the shape {tuple(gradient.shape)} of gradient, got {tuple(weight.shape)}")
    if share == 0 or gradient.numel() == 0:
        return gradient.clone()
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    g, size = _scaled(gradient.to(dtype))
    u, _ = _scaled(weight.to(dtype))
    u = u / u.norm().clamp(min=1)
    across = g - (u * g).sum() * u
    across = across - (u * across).sum() * u
    parallel = across.norm() <= 4 * torch.finfo(dtype).eps * g.norm()
    changed = g.lerp(torch.where(parallel, torch.zeros_like(across), across), share)
    length = changed.norm()
    kept = changed * (g.norm() / torch.where(length == 0, torch.ones_like(length), length)) * size
    most = torch.finfo(gradient.dtype).max
    return kept.clamp(-most, most).to(gradient.dtype)


def _log_stablemax(x: Tensor, dim: int) -> Tensor:
    """Give log s(x_i) - log sum_j s(x_j), where log s(x) = sign(x) log(1 + |x|)."""
    log_s = torch.where(x >= 0, torch.log1p(x.clamp(min=0)), -torch.log1p(-x.clamp(max=0)))
    return torch.log_softmax(log_s, dim=dim)


def stablemax(x: Tensor, dim: int = -1) -> Tensor:
    """Give s(x_i) / sum_j s(x_j) with s(x) = x + 1 for x >= 0 and 1 / (1 - x) below.

    Args:
        x: Logits, a real floating-point tensor.
        dim: Along which dimension they are those of one example.

    Returns:
        The probabilities, of the shape and dtype of ``x``.

    Raises:
        ValueError: If ``x`` is not dense and real.

    Example:
        >>> stablemax(torch.tensor([-1.0, 0.5]))
        tensor([0.2500, 0.7500])
    """
    _check_dense("x", x)
    return _log_stablemax(x, dim).exp()


def stablemax_cross_entropy(
    logits: Tensor, labels: Tensor, reduction: Literal["mean", "sum", "none"] = "mean"
) -> Tensor:
    """Give the cross-entropy of `stablemax`, to be used in place of `torch.nn.functional.cross_entropy`.

    Args:
        logits: What the network says, (N, classes), N at least 1.
        labels: Class numbers, int64, (N,).
        reduction: "mean", "sum", or "none" for one loss an example.

    Returns:
        The loss, a scalar of the dtype of ``logits``; shape (N,) without reduction.

    Raises:
        ValueError: If an argument has another shape or type.

    Example:
        >>> round(stablemax_cross_entropy(torch.tensor([[0.0, 2.0]]), torch.tensor([1])).item(), 4)
        0.2877
    """
    _check_classified(logits, labels)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be mean, sum or none, got {reduction!r}")
    return F.nll_loss(_log_stablemax(logits, dim=1), labels, reduction=reduction)


def softmax_collapse_fraction(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the share of examples whose cross-entropy is exactly 0, so that they teach nothing any more.

    Args:
        logits: What the network says, (N, classes), N at least 1, in the dtype in which the loss is computed.
        labels: Class numbers, int64, (N,), each from 0 to classes - 1.

    Returns:
        The share, a float32 scalar from 0 to 1.

    Raises:
        ValueError: If an argument has another shape or type.

    Example:
        >>> softmax_collapse_fraction(torch.tensor([[0.0, 9.0], [0.0, 99.0]]), torch.tensor([1, 1]))
        tensor(0.5000)
    """
    _check_classified(logits, labels)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels must be from 0 to {logits.shape[1] - 1}, got {labels.min()} to {labels.max()}")
    return (F.cross_entropy(logits, labels, reduction="none") == 0).float().mean()


def nlm_alignment(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Give the cosine between the negative gradient and the weights: 1 where a step would only scale the network.

    Args:
        weights: Tensors of weights, of any shapes, as one vector.
        gradients: The gradient of each.

    Returns:
        The cosine, a scalar from -1 to 1, in float64; 0 where one of the vectors is 0.

    Raises:
        ValueError: If there are no tensors, or numbers or shapes differ.

    Example:
        >>> nlm_alignment([torch.tensor([3.0]), torch.tensor([4.0])], [torch.tensor([-6.0]), torch.tensor([-8.0])])
        tensor(1., dtype=torch.float64)
    """
    if not weights or [w.shape for w in weights] != [g.shape for g in gradients]:
        raise ValueError(f"gradients must have the shapes of weights, got {len(gradients)} for {len(weights)} weights")
    w, _ = _scaled(torch.cat([tensor.detach().flatten() for tensor in weights]).double())
    g, _ = _scaled(torch.cat([tensor.detach().flatten() for tensor in gradients]).double())
    return -(w @ g) / (w.norm() * g.norm()).clamp(min=1)


@final
class OrthoGrad(torch.optim.Optimizer):
    """Any torch optimizer, stepped on gradients that are orthogonal to the weights of each tensor.

    At ``share=0`` it is the wrapped optimizer, whose groups and state it has. A group has a share of its own where it
    names ``orthograd_share``: 0 for single entries. SGD alone can then only lengthen weights; decay is left as it is.

    Args:
        optimizer: The optimizer to wrap; from here on step this object, and not the wrapped one.
        share: How much of the part along the weights is taken out of each gradient, from 0 to 1; the paper has 1.

    Raises:
        ValueError: If ``share`` is outside its range, or ``optimizer`` makes gradients orthogonal already.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
        >>> weight.grad = torch.tensor([-3.0, -4.0])
        >>> OrthoGrad(torch.optim.SGD([weight], lr=1.0)).step()
        >>> weight.detach(), weight.grad
        (tensor([1., 5.]), tensor([-3., -4.]))
    """

    def __init__(self, optimizer: torch.optim.Optimizer, share: float = 1.0) -> None:
        _check_share(share)
        if "orthograd_share" in optimizer.defaults:
            raise ValueError("optimizer must not make gradients orthogonal already; wrap it only once")
        super().__init__(optimizer.param_groups, {**optimizer.defaults, "orthograd_share": share})
        self.optimizer, self.share = optimizer, share
        self.param_groups, self.state = optimizer.param_groups, optimizer.state

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimizer": self.optimizer, "share": self.share}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with a share of their own where the group names ``orthograd_share``."""
        _check_share(param_group.get("orthograd_share", self.defaults["orthograd_share"]))
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Give the state of the wrapped optimizer, whose groups hold ``orthograd_share``."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back the state that `state_dict` gave; that of an unwrapped optimizer takes the share given here."""
        self.optimizer.load_state_dict(state_dict)
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state
        for group in self.param_groups:
            group.setdefault("orthograd_share", self.defaults["orthograd_share"])

    def _share(self, group: dict[str, Any]) -> float:
        return group.get("orthograd_share", self.defaults["orthograd_share"])

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step the wrapped optimizer; each time it calls ``closure``, that finds the original gradients."""
        originals: list[tuple[Tensor, Tensor]] = []

        def put_in() -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        changed = orthogonal_gradient(p.grad.detach(), p.detach(), self._share(group))
                        originals.append((p, p.grad))
                        p.grad = changed

        def restore() -> None:
            while originals:
                p, p.grad = originals.pop()

        def changed_after(evaluate: Callable[[], float]) -> float:
            restore()
            loss = evaluate()
            put_in()
            return loss

        try:
            put_in()
            return self.optimizer.step(closure and partial(changed_after, closure))
        finally:
            restore()

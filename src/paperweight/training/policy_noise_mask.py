"""Policy noise masks: a classifier is trained on images times random masks, whose law another network draws for each.

The masks are noise that depends on the image. A small policy network gives the law of each cell of a mask; since a
sample cannot be differentiated, it learns by the score function, as in REINFORCE. What was trained so is then
fine-tuned on clean images, without the policy.
Cost: in each step forward and backward pass of the policy, two gamma variates a cell, and a blur.

Source:
    M. C. Yavuz, Y. Yang, "Policy Gradient-Driven Noise Mask", 2024, https://arxiv.org/abs/2406.14568. Implemented: the
    policy, the masks and the objective of the authors' code,
    https://github.com/ogrenenmakine/Policy-Gradient-Driven-Noise-Mask. Fine-tuning is ordinary training.

Deviations:
    - The objective of the authors' code, "summed_density", is the mean logarithm of the summed densities of a mask's
      cells, times the mean cross-entropy. It is no policy gradient: it makes masks less likely whatever their loss,
      only more so for larger ones, and scales the classifier's gradient. The policy gradient is there besides, as
      "score": the log-density of the whole mask times how much the sample's loss exceeds the mean of the others'.
    - The logarithms of both parameters of a law are kept within -10 and 10, so that densities are finite.
    - Where the mask is blurred, pixels at the border are repeated outwards; in their code they are mirrored.
    - The running means of the policy are updated from one pass of its heads; their code runs these twice.
"""

import math
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.training._beta_masks import draw_mask, enlarged_mask, mask_log_density

__all__ = ["MaskPolicy", "PolicyNoiseMask", "score_objective", "summed_density_objective"]

PAPER = Paper(
    title="Policy Gradient-Driven Noise Mask",
    authors=("Mehmet Can Yavuz", "Yang Yang"),
    year=2024,
    url="https://arxiv.org/abs/2406.14568",
    provides={
        "PolicyNoiseMask": "training-procedure",
        "MaskPolicy": "network",
        "summed_density_objective": "function",
        "score_objective": "function",
    },
    null={"policy": None},
    claim="A classifier that is trained with learned noise masks and then fine-tuned is more accurate.",
)

_LARGEST_LOG = 10.0


def summed_density_objective(log_density: Tensor, losses: Tensor) -> Tensor:
    """Compute mean_n(log sum_c p(m_nc)) mean_n(L_n), the objective of the authors' code.

    Args:
        log_density: Log-density of each cell of each mask, (N, cells).
        losses: Loss of each sample, (N,).

    Returns:
        A scalar, differentiable in both.

    Raises:
        ValueError: If there is no sample or cell, or the shapes are others.

    Example:
        >>> summed_density_objective(torch.zeros(2, 4), torch.tensor([1.0, 3.0])) / math.log(4)
        tensor(2.)
    """
    _check_shapes(log_density, losses)
    return log_density.logsumexp(dim=1).mean() * losses.mean()


def score_objective(log_density: Tensor, losses: Tensor) -> Tensor:
    """Compute what has the gradient of the mean loss for the classifier, and an unbiased estimate of it for the policy.

    It is mean_n(L_n) + mean_n((L_n - b_n) sum_c log p(m_nc)) with the bracket a constant and b_n the mean loss of the
    other samples, or 0 where there are none.

    Args:
        log_density: Log-density of each cell of each mask, (N, cells).
        losses: Loss of each sample, (N,).

    Returns:
        A scalar.

    Raises:
        ValueError: If there is no sample or cell, or the shapes are others.

    Example:
        >>> score_objective(torch.tensor([[0.5], [0.25]]), torch.tensor([1.0, 3.0]))  # 2 + (-2 0.5 + 2 0.25) / 2
        tensor(1.7500)
    """
    _check_shapes(log_density, losses)
    fixed, others = losses.detach(), len(losses) - 1
    excess = fixed - (fixed.sum() - fixed) / others if others else fixed
    return losses.mean() + (excess * log_density.sum(dim=1)).mean()


def _check_shapes(log_density: Tensor, losses: Tensor) -> None:
    if log_density.ndim != 2 or not log_density.numel() or losses.shape != log_density.shape[:1]:
        raise ValueError(
            "log_density must have shape (N, cells) and losses (N,), both at least 1, "
            f"got {tuple(log_density.shape)} and {tuple(losses.shape)}"
        )


@final
class MaskPolicy(nn.Module):
    """A network that gives the law of a mask for each image: Beta distributions, one a cell of a square grid.

    The logarithms of their parameters are ``decay`` times a running mean and the rest what a head makes of the image's
    features. In train mode the running means, which start at random in [0, 1), move towards the mean of the batch.

    Args:
        backbone: Maps images to features, (N, features); in the paper a residual network of ten layers.
        features: Number of features, at least 1.
        grid: Cells a side, at least 1; 64 in the paper, for images of 224 pixels.
        decay: Share of the running mean, in [0, 1]; 0.9 in the paper.
        base_decay: Share that the running mean keeps in a step, in [0, 1]; 0.99 in the paper.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> policy = MaskPolicy(nn.Flatten(), features=64, grid=4)
        >>> log_alpha, log_beta = policy(torch.rand(5, 1, 8, 8))
        >>> log_alpha.shape, log_beta.shape
        (torch.Size([5, 16]), torch.Size([5, 16]))
    """

    base: Tensor

    def __init__(
        self, backbone: nn.Module, features: int, grid: int = 64, decay: float = 0.9, base_decay: float = 0.99
    ) -> None:
        super().__init__()
        for name, count in (("features", features), ("grid", grid)):
            if type(count) is not int or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
        for name, share in (("decay", decay), ("base_decay", base_decay)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {share}")
        self.features = features
        self.grid = grid
        self.decay = decay
        self.base_decay = base_decay
        self.backbone = backbone
        self.heads = nn.ModuleList([self._head() for _ in range(2)])
        self.register_buffer("base", torch.rand(2, grid**2))

    def _head(self) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Linear(self.features, self.features), nn.BatchNorm1d(self.features), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(self.features, self.grid**2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give the logarithms of both parameters of each law.

        Args:
            images: What the backbone takes, (N, ...), in train mode N at least 2.

        Returns:
            Those of alpha and of beta, (N, grid^2) each.
        """
        features = self.backbone(images)
        own = torch.stack([head(features) for head in self.heads])
        log_alpha, log_beta = self.decay * self.base[:, None] + (1 - self.decay) * own
        if self.training:
            self.base = self.base_decay * self.base + (1 - self.base_decay) * own.detach().mean(dim=1)
        return log_alpha, log_beta


@final
class PolicyNoiseMask:
    """Trains a classifier on images times masks that a policy draws, and the policy with it.

    A call of `step` is one update on the batch that is given. Afterwards fine-tune the model on clean images, as the
    paper does for a ninth of the epochs at a hundredth of the rate. Without a policy it is plain training, bit for bit.

    Args:
        model: Maps images, (N, C, H, W), to logits, (N, classes); trained in place.
        optimizer: Holds the model's parameters; steps without a closure. The paper has SGD, rate 0.1, momentum 0.9.
        policy: Maps images to the logarithms of both parameters of Beta distributions, (N, grid^2) each, such as a
            `MaskPolicy`; None for no masks.
        policy_optimizer: Holds the policy's parameters; None leaves these as they are, though not running means.
        objective: "summed_density", which is the authors', or "score", the policy gradient.
        kernel: Pixels a side of the blur, odd; 13 in the paper, for images of 224 pixels. 1 for no blur.
        sigma: Standard deviation of the blur in pixels, finite and above 0; 6 in the paper.
        generator: Source of the masks.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> policy = MaskPolicy(nn.Flatten(), features=64, grid=4)
        >>> optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model, policy)]
        >>> draw = torch.Generator().manual_seed(0)
        >>> training = PolicyNoiseMask(model, optimizers[0], policy, optimizers[1], kernel=3, sigma=1.0, generator=draw)
        >>> training.step(torch.rand(10, 1, 8, 8), torch.arange(10) % 2).shape
        torch.Size([])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        policy: nn.Module | None = None,
        policy_optimizer: torch.optim.Optimizer | None = None,
        objective: Literal["summed_density", "score"] = "summed_density",
        kernel: int = 13,
        sigma: float = 6.0,
        *,
        generator: torch.Generator,
    ) -> None:
        if objective not in _OBJECTIVES:
            raise ValueError(f"objective must be one of {list(_OBJECTIVES)}, got {objective!r}")
        if type(kernel) is not int or kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be an odd whole number of at least 1, got {kernel!r}")
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be finite and above 0, got {sigma}")
        self.model = model
        self.optimizer = optimizer
        self.policy = policy
        self.policy_optimizer = policy_optimizer
        self.objective = objective
        self.kernel = kernel
        self.sigma = sigma
        self.generator = generator

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Update model and policy on a batch, in train mode.

        Args:
            inputs: Images, (B, C, H, W).
            labels: Class numbers, int64, (B,).

        Returns:
            The mean cross-entropy before it, a scalar.

        Raises:
            ValueError: If the inputs are no images, or the policy does not give two tensors of a square number of cells
                for each.
        """
        if inputs.ndim != 4 or not inputs.is_floating_point():
            given = f"got {inputs.dtype} of shape {tuple(inputs.shape)}"
            raise ValueError(f"inputs must be floating images (B, C, H, W), {given}; unflatten them")
        self.model.train()
        optimizers = [self.optimizer, *([self.policy_optimizer] if self.policy_optimizer else [])]
        if self.policy is None:
            loss = value = F.cross_entropy(self.model(inputs), labels)
        else:
            log_alpha, log_beta = self._law(self.policy.train(), inputs)
            mask = draw_mask(log_alpha, log_beta, self.generator)
            height, width = inputs.shape[-2:]
            noisy = inputs * enlarged_mask(mask, (height, width), self.kernel, self.sigma).to(inputs.dtype)
            losses = F.cross_entropy(self.model(noisy), labels, reduction="none")
            loss = losses.mean()
            value = _OBJECTIVES[self.objective](mask_log_density(mask, log_alpha, log_beta), losses)
        for optimizer in optimizers:
            optimizer.zero_grad()
        if self.policy is not None:
            self.policy.zero_grad()
        value.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.detach()

    @staticmethod
    def _law(policy: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(inputs.dtype, torch.float32)
        log_alpha, log_beta = (log.to(wide).clamp(-_LARGEST_LOG, _LARGEST_LOG) for log in policy(inputs))
        for log in (log_alpha, log_beta):
            if log.ndim != 2 or len(log) != len(inputs) or math.isqrt(log.shape[1]) ** 2 != log.shape[1]:
                raise ValueError(f"policy must give two tensors ({len(inputs)}, grid^2), got shape {tuple(log.shape)}")
        return log_alpha, log_beta

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights, policy and generator among it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "policy": None if self.policy is None else self.policy.state_dict(),
            "policy_optimizer": None if self.policy_optimizer is None else self.policy_optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if self.policy is not None:
            self.policy.load_state_dict(state_dict["policy"])
        if self.policy_optimizer is not None:
            self.policy_optimizer.load_state_dict(state_dict["policy_optimizer"])
        self.generator.set_state(state_dict["generator"])


_OBJECTIVES = {"summed_density": summed_density_objective, "score": score_objective}

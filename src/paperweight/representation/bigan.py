"""BiGAN: a generative adversarial network with an encoder, which learns features as the inverse of the generator.

The critic sees pairs: data with what the encoder makes of them, or samples with the latent variables they were made
from. Encoder and generator change both until it cannot tell which is which. Then the joint distributions are equal, and
of two deterministic networks each inverts the other, although no reconstruction is ever computed.
Cost: one pass of the encoder for each batch of data beside those of the generator and the critic.

Source:
    J. Donahue, P. Kraehenbuehl, T. Darrell, "Adversarial Feature Learning", ICLR, 2017,
    https://arxiv.org/abs/1605.09782. Implemented: the game over pairs, its losses without saturation, and training of
    all three networks at once.

Deviations:
    - The paper's text was not at hand, and the authors' code, whose licence allows non-commercial use alone, is no
      source of this file: the formulas follow from the game, and defaults of training are left to the caller.
    - Losses take logits, so that logarithms stay finite. That of the critic is minus the value of the game.
    - Both updates of a step take the gradients of one pass, before either has changed a weight.
    - The variant whose encoder sees images at a higher resolution than the critic is left out.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["BiGAN", "BiGANTraining", "JointCritic", "PairScores", "bigan_critic_loss", "bigan_model_loss"]

PAPER = Paper(
    title="Adversarial Feature Learning",
    authors=("Jeff Donahue", "Philipp Krähenbühl", "Trevor Darrell"),
    year=2016,
    url="https://arxiv.org/abs/1605.09782",
    provides={
        "BiGAN": "network",
        "BiGANTraining": "training-procedure",
        "JointCritic": "network",
        "bigan_critic_loss": "loss",
        "bigan_model_loss": "loss",
    },
    claim="An encoder trained beside a generator, against a critic of pairs, inverts it and learns useful features.",
)


class PairScores(NamedTuple):
    """What the critic says of a batch: logits of being data with its code.

    Attributes:
        real: Of data x with codes E(x), (N, ...).
        fake: Of samples G(z) with their latent variables z, (M, ...).
    """

    real: Tensor
    fake: Tensor


def bigan_critic_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Compute -E log D(x, E(x)) - E log(1 - D(G(z), z)), minus the value of the game, D being the sigmoid of a score.

    It is 2 log 2 where the critic cannot tell pairs apart.

    Args:
        real_scores: Scores of data with their codes, floating, any shape but empty.
        fake_scores: Scores of samples with their latent variables, floating, any shape but empty.

    Returns:
        A scalar in nats, above 0.

    Raises:
        ValueError: If there is no score.

    Example:
        >>> bigan_critic_loss(torch.zeros(4, 1), torch.zeros(4, 1))
        tensor(1.3863)
    """
    _check_scores(real_scores, fake_scores)
    return F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()


def bigan_model_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Compute -E log(1 - D(x, E(x))) - E log D(G(z), z): what encoder and generator minimise, labels exchanged.

    Args:
        real_scores: Scores of data with their codes, with the gradient of the encoder.
        fake_scores: Scores of samples with their latent variables, with the gradient of the generator.

    Returns:
        A scalar in nats, above 0.

    Raises:
        ValueError: If there is no score.

    Example:
        >>> bigan_model_loss(torch.tensor([9.0]), torch.tensor([-9.0])).item() > 18
        True
    """
    _check_scores(real_scores, fake_scores)
    return bigan_critic_loss(fake_scores, real_scores)


def _check_scores(real_scores: Tensor, fake_scores: Tensor) -> None:
    for name, scores in (("real_scores", real_scores), ("fake_scores", fake_scores)):
        if not scores.numel() or not scores.is_floating_point():
            raise ValueError(
                f"{name} must be floating and hold at least one score, got {scores.dtype} of {tuple(scores.shape)}"
            )


@final
class JointCritic(nn.Module):
    """A critic of pairs made of any network of vectors: data and code side by side.

    Args:
        network: Maps (N, values of one input + latent variables) to scores, (N, 1).

    Example:
        >>> critic = JointCritic(nn.Linear(9 + 2, 1))
        >>> critic(torch.zeros(5, 1, 3, 3), torch.zeros(5, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, latent: Tensor) -> Tensor:
        """Score pairs.

        Args:
            inputs: Data or samples, (N, ...).
            latent: Codes or latent variables, (N, ...).

        Returns:
            What the network gives, (N, 1).
        """
        return self.network(torch.cat([inputs.flatten(1), latent.flatten(1)], dim=1))


@final
class BiGAN(nn.Module):
    """An encoder, a generator and the critic of their pairs.

    What is learned for other tasks is the encoder: its output, or what goes into its last layer.

    Args:
        encoder: E, maps inputs (N, ...) to codes of the shape of the latent variables.
        decoder: G, the generator, maps latent variables to samples of the shape of the inputs.
        critic: D, maps inputs and latent variables, two arguments, to scores, such as a `JointCritic`.

    Example:
        >>> model = BiGAN(nn.Linear(3, 2), nn.Linear(2, 3), JointCritic(nn.Linear(5, 1)))
        >>> model(torch.zeros(4, 3), torch.zeros(6, 2)).fake.shape
        torch.Size([6, 1])
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.critic = critic

    def forward(self, inputs: Tensor, latent: Tensor) -> PairScores:
        """Score data with their codes, and samples with their latent variables.

        Args:
            inputs: Data, (N, ...).
            latent: Latent variables, (M, ...).

        Returns:
            The scores of both.
        """
        return PairScores(self.critic(inputs, self.encoder(inputs)), self.critic(self.decoder(latent), latent))

    def reconstruct(self, inputs: Tensor) -> Tensor:
        """Compute G(E(x)), which no loss has asked to be x.

        Args:
            inputs: Data, (N, ...).

        Returns:
            Samples of that shape.
        """
        return self.decoder(self.encoder(inputs))


@final
class BiGANTraining:
    """Trains encoder and generator against the critic, all at once, batch by batch.

    Args:
        model: The networks; trained in place. Encoder and decoder share no parameter with the critic.
        optimizer: Holds parameters of encoder and decoder; steps without a closure, such as Adam with a first momentum
            of 0.5.
        critic_optimizer: Holds parameters of the critic; steps without a closure.
        latent: Draws so many latent variables from the generator: uniform ones from -1 to 1 in the paper.
        generator: Source of the latent variables.

    Raises:
        ValueError: If an optimizer holds a parameter of the other's.

    Example:
        >>> model = BiGAN(nn.Linear(3, 2), nn.Linear(2, 3), JointCritic(nn.Linear(5, 1)))
        >>> players = [*model.encoder.parameters(), *model.decoder.parameters()]
        >>> optimizers = torch.optim.SGD(players, lr=0.1), torch.optim.SGD(model.critic.parameters(), lr=0.1)
        >>> def uniform(count, generator):
        ...     return 2 * torch.rand(count, 2, generator=generator) - 1
        >>> training = BiGANTraining(model, *optimizers, uniform, generator=torch.Generator().manual_seed(0))
        >>> training.step(torch.ones(4, 3)).ndim
        0
    """

    def __init__(
        self,
        model: BiGAN,
        optimizer: torch.optim.Optimizer,
        critic_optimizer: torch.optim.Optimizer,
        latent: Callable[[int, torch.Generator], Tensor],
        *,
        generator: torch.Generator,
    ) -> None:
        critics = set(map(id, model.critic.parameters()))
        if any(id(each) in critics for each in _held(optimizer)):
            raise ValueError("optimizer must hold no parameter of the critic; give these to critic_optimizer")
        if any(id(each) not in critics for each in _held(critic_optimizer)):
            raise ValueError("critic_optimizer must hold parameters of the critic alone; give others to optimizer")
        self.model = model
        self.optimizer = optimizer
        self.critic_optimizer = critic_optimizer
        self.latent = latent
        self.generator = generator

    def step(self, inputs: Tensor) -> Tensor:
        """Update all three networks once, in train mode, on a batch and as many latent variables.

        Args:
            inputs: Data, (N, ...), N at least 1, on the model's device.

        Returns:
            The critic's loss before the update, a scalar.

        Raises:
            ValueError: If there is no input.
        """
        if not len(inputs):
            raise ValueError(f"inputs must hold at least one input, got shape {tuple(inputs.shape)}")
        self.model.train()
        scores = self.model(inputs, self.latent(len(inputs), self.generator).to(inputs))
        loss = bigan_critic_loss(*scores)
        players = (self.critic_optimizer, loss), (self.optimizer, bigan_model_loss(*scores))
        slopes = [
            torch.autograd.grad(minimised, _held(optimizer), retain_graph=True, allow_unused=True)
            for optimizer, minimised in players
        ]
        for (optimizer, _), given in zip(players, slopes, strict=True):
            for parameter, slope in zip(_held(optimizer), given, strict=True):
                parameter.grad = slope
            optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights, the generator's state among it."""
        return {
            "optimizer": deepcopy(self.optimizer.state_dict()),
            "critic_optimizer": deepcopy(self.critic_optimizer.state_dict()),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.critic_optimizer.load_state_dict(state_dict["critic_optimizer"])
        self.generator.set_state(state_dict["generator"])


def _held(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """List the parameters that an optimizer trains."""
    return [each for group in optimizer.param_groups for each in group["params"] if each.requires_grad]

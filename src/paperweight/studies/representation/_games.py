"""The games by which an encoder and a generator learn from images, and the networks that play them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from paperweight.representation.bigan import BiGAN, BiGANTraining, JointCritic, bigan_critic_loss

__all__ = ["HIDDEN", "LATENT", "Game", "Step", "autoencoder", "bigan", "networks", "regressor"]

LATENT, HIDDEN = 16, 128

Step = Callable[[Tensor], object]
"""Trains on a batch of images, (N, pixels)."""


class Game(NamedTuple):
    """Who plays, at which rate, and where latent variables come from."""

    model: BiGAN
    rate: float
    generator: torch.Generator

    def adam(self, *networks: nn.Module) -> Adam:
        """Make the optimizer of some of the networks."""
        parameters = [each for network in networks for each in network.parameters()]
        return Adam(parameters, lr=self.rate, betas=(0.5, 0.999), fused=True)


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(count, LATENT, generator=generator) - 1


def bigan(game: Game) -> Step:
    """Play the game of pairs."""
    model = game.model
    optimizers = game.adam(model.encoder, model.decoder), game.adam(model.critic)
    return BiGANTraining(model, *optimizers, _uniform, generator=game.generator).step


def regressor(game: Game) -> Step:
    """Play the original game with a critic that sees no codes, and regress the latent variables of samples."""
    model = game.model
    networks = model.critic, model.decoder, model.encoder
    players = [(network, game.adam(network)) for network in networks]

    def step(images: Tensor) -> None:
        latent = _uniform(len(images), game.generator).to(images)
        samples, none = model.decoder(latent), torch.zeros_like(latent)
        real, fake = model.critic(images, none), model.critic(samples, none)
        regression = (model.encoder(samples.detach()) - latent).square().sum(dim=1).mean()
        losses = bigan_critic_loss(real, fake), F.softplus(-fake).mean(), regression
        slopes = [
            torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
            for loss, network in zip(losses, networks, strict=True)
        ]
        for (network, optimizer), given in zip(players, slopes, strict=True):
            for parameter, slope in zip(network.parameters(), given, strict=True):
                parameter.grad = slope
            optimizer.step()

    return step


def autoencoder(game: Game) -> Step:
    """Play against nobody: encoder and generator reconstruct images."""
    optimizer = game.adam(game.model.encoder, game.model.decoder)

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        (game.model.reconstruct(images) - images).square().sum(dim=1).mean().backward()
        optimizer.step()

    return step


def networks(pixels: int) -> BiGAN:
    """Build an encoder, a generator and a critic with two hidden layers each."""

    def network(inputs: int, outputs: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
        hidden = [nn.Linear(inputs, HIDDEN), norm(HIDDEN), nn.LeakyReLU(0.2)]
        return nn.Sequential(
            *hidden, nn.Linear(HIDDEN, HIDDEN), norm(HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, outputs)
        )

    decoder = nn.Sequential(network(LATENT, pixels, nn.BatchNorm1d), nn.Tanh())
    critic = JointCritic(network(pixels + LATENT, 1, nn.Identity))
    return BiGAN(network(pixels, LATENT, nn.BatchNorm1d), decoder, critic)

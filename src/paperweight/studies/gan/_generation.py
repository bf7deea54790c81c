"""The template of studies of adversarial training: a game, networks that play it, their samples, an outcome."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from paperweight.data import LabelledImages
from paperweight.loops import ExponentialMovingAverage, Tuned, at_points, fit_adversarial, fit_classifier, loss_curve
from paperweight.nets import MLP, LeNet, evaluating
from paperweight.studies import Outcome, Setting

__all__ = ["Game", "Generation", "Trained", "original_critic_loss", "original_model_loss", "trained_classifier"]

_LATENT = 16
_PIXELS = 120
_ADAM = partial(torch.optim.Adam, betas=(0.5, 0.999), fused=True)


def original_critic_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Compute what a discriminator minimises by its logits of data and of samples."""
    return F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()


def original_model_loss(fake_scores: Tensor) -> Tensor:
    """Compute what a generator minimises by the logits of its samples, in the form without saturation."""
    return F.softplus(-fake_scores).mean()


@final
@dataclass(frozen=True)
class Game:
    """What a generator and its critic are trained by; unless told otherwise, the original losses without saturation.

    Attributes:
        model_loss: Maps the critic's scores of samples, where ``paired`` those of data and of samples, to what the
            generator minimises.
        critic_loss: Maps the critic's scores of data and of samples to what it minimises.
        paired: Whether the generator's loss is of scores of data, too.
        on_data: Penalty that is added to the critic's loss, called with critic and data.
        on_samples: The same, called with critic and samples.
        between: The same, called with critic, data, samples and ``generator``.
        critic_steps: Updates of the critic for each of the generator.
        optimizer: Called with parameters and ``lr``.
        ratio: The critic's learning rate by the generator's; their geometric mean is what is tuned.
        bound: What the critic's weights are clipped to after each of its updates.
    """

    model_loss: Callable[..., Tensor] = original_model_loss
    critic_loss: Callable[[Tensor, Tensor], Tensor] = original_critic_loss
    paired: bool = False
    on_data: Callable[[nn.Module, Tensor], Tensor] | None = None
    on_samples: Callable[[nn.Module, Tensor], Tensor] | None = None
    between: Callable[..., Tensor] | None = None
    critic_steps: int = 1
    optimizer: Callable[..., Optimizer] = _ADAM
    ratio: float = 1.0
    bound: float | None = None

    def parts(self) -> dict[str, object]:
        """Return the game, its losses and its penalties, as what an arm made."""
        penalties = {"on_data": self.on_data, "on_samples": self.on_samples, "between": self.between}
        given = {name: penalty for name, penalty in penalties.items() if penalty is not None}
        return {"game": self, "model_loss": self.model_loss, "critic_loss": self.critic_loss, **given}

    def loss_of_model(self, critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
        """Compute the generator's loss, an `paperweight.loops.AdversarialLoss`."""
        return self.model_loss(critic(real), critic(fake)) if self.paired else self.model_loss(critic(fake))

    def loss_of_critic(self, critic: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
        """Compute the critic's loss with its penalties, an `paperweight.loops.AdversarialLoss`."""
        loss = self.critic_loss(critic(real), critic(fake))
        if self.on_data is not None:
            loss = loss + self.on_data(critic, real)
        if self.on_samples is not None:
            loss = loss + self.on_samples(critic, fake)
        if self.between is not None:
            loss = loss + self.between(critic, real, fake, generator=generator)
        return loss


class Trained(NamedTuple):
    """Networks that have played a game, the generator's loss at every step, and what was made for it."""

    model: nn.Module
    critic: nn.Module
    losses: Tensor
    made: dict[str, object]


@final
@dataclass(frozen=True, eq=False)
class Generation:
    """Samples of a distribution in three parts, and what is done with them alike in every arm.

    Attributes:
        setting: The setting of the run.
        train: Samples to learn from, (N, C, H, W).
        validation: Others to tune on.
        test: Others to judge by.
        width: Units of each hidden layer of both networks.
        batch_size: Samples a batch.
    """

    setting: Setting
    train: Tensor
    validation: Tensor
    test: Tensor
    width: int = 128
    batch_size: int = 64

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """Return a generator and a critic with two hidden layers each, with the same weights at every call."""

        def build() -> nn.ModuleList:
            c, h, w = shape = self.train.shape[1:]
            hidden = (self.width, self.width)
            model = nn.Sequential(MLP((1, 1, _LATENT), shape.numel(), hidden=hidden), nn.Unflatten(1, shape))
            return nn.ModuleList([model, MLP((c, h, w), 1, hidden=hidden)])

        model, critic = self.setting.initialised(build)
        return model, critic

    def latent(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw standard normal latent variables, (count, 16)."""
        return torch.randn(count, _LATENT, generator=generator).to(self.setting.device)

    def fit(
        self,
        game: Game,
        rate: float,
        *,
        updates: int,
        on_step: Callable[[nn.Module, int], object] = lambda *_: None,
        points: int | None = None,
        decay: float | None = None,
    ) -> Trained:
        """Train new networks by a game, by `paperweight.loops.fit_adversarial`; the batches are those of every arm.

        Args:
            game: The game.
            rate: The geometric mean of both learning rates.
            updates: Number of updates of both networks together, as many as make whole steps.
            on_step: Called after every step with the generator and the number of steps taken.
            points: At how many steps, even and the last among them, it is called in place of every one.
            decay: Weight of the past in the moving average of the generator's weights, which then stands for it.

        Returns:
            The networks.
        """
        model, critic = self.networks()
        root = math.sqrt(game.ratio)
        optimizer = game.optimizer(model.parameters(), lr=rate / root)
        critic_optimizer = game.optimizer(critic.parameters(), lr=rate * root)
        if game.bound is not None:
            critic_optimizer.register_step_post_hook(partial(_clip, game.bound))
        steps = updates // (1 + game.critic_steps)
        ema = None if decay is None else ExponentialMovingAverage(model, decay)
        shown = model if ema is None else ema.average
        look = partial(on_step, shown)
        watch = (lambda step, _: look(step + 1)) if points is None else at_points(points, steps, look)

        def after_step(step: int, loss: Tensor) -> None:
            if ema is not None:
                ema.update(model)
            watch(step, loss)

        losses, _ = fit_adversarial(
            model,
            critic,
            optimizer,
            critic_optimizer,
            self.train,
            model_loss=game.loss_of_model,
            critic_loss=game.loss_of_critic,
            latent=self.latent,
            steps=steps,
            batch_size=self.batch_size,
            generator=self.setting.generator("batches"),
            critic_steps=game.critic_steps,
            on_step=after_step,
        )
        if points is not None:
            look(len(losses))
        made = {**game.parts(), "model_optimizer": optimizer, "critic_optimizer": critic_optimizer}
        return Trained(shown, critic, losses, made)

    @torch.no_grad()
    def sample(self, model: nn.Module, count: int, generator: torch.Generator) -> Tensor:
        """Draw samples, (count, C, H, W), of a generator in eval mode."""
        with evaluating(model):
            return model(self.latent(count, generator))

    def outcome(
        self,
        tuned: Tuned[Any],
        losses: Tensor,
        samples: Tensor,
        *,
        metrics: Mapping[str, float],
        made: Mapping[str, object],
        of: str = "lr",
        more_tuned: Mapping[str, Tuned[Any]] | None = None,
        arguments: Mapping[str, object] | None = None,
        curves: Mapping[str, list[tuple[float, float]]] | None = None,
    ) -> Outcome:
        """Return what the run gives, with the sizes of the data, the tries and the course of training.

        Args:
            tuned: The tries.
            losses: The losses of the best generator, none if it was not trained.
            samples: Its samples.
            metrics: Metric to value.
            made: What the arm made.
            of: What was tuned.
            more_tuned: What else was tuned, by name.
            arguments: What else the run resolved.
            curves: More curves.
        """
        return Outcome(
            metrics=metrics,
            made=made,
            tuned={of: tuned, **(more_tuned or {})},
            arguments={
                "steps": len(losses),
                **(arguments or {}),
                "hidden_width": self.width,
                "batch_size": self.batch_size,
                "training_samples": len(self.train),
                "validation_samples": len(self.validation),
                "test_samples": len(self.test),
            },
            curves={
                "generator's loss, by step": loss_curve(losses) if len(losses) else [],
                **(curves or {}),
            },
            images={"samples": _picture(samples)},
        )


def trained_classifier(setting: Setting, data: LabelledImages, classes: int, *, gpu_steps: int) -> LeNet:
    """Train a classifier on the images that the arms learn from, once a seed, on a GPU for so many steps."""
    c, h, w = data.images.shape[1:]

    def build() -> LeNet:
        return setting.initialised(lambda: LeNet((c, h, w), classes))

    def train() -> dict[str, Tensor]:
        model = build()
        fit_classifier(
            model,
            torch.optim.Adam(model.parameters(), lr=1e-3),
            data.images,
            data.labels,
            steps=setting.pick(smoke=50, desk=600, gpu=gpu_steps),
            batch_size=64,
            generator=setting.generator("evaluation"),
        )
        return model.state_dict()

    model = build()
    model.load_state_dict(setting.cached("classifier of the training images", train))
    return model


@torch.no_grad()
def _clip(bound: float, optimizer: Optimizer, *_: object) -> None:
    """Clip the weights that an optimizer has updated."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.clamp_(-bound, bound)


def _picture(samples: Tensor) -> Tensor:
    """Return 64 images, or of points the density on [-3, 3] x [-3, 3], in [0, 1], (N, C, H, W)."""
    if samples[0].numel() > 2:
        return (samples[:64].clamp(-1, 1) + 1) / 2
    cells = ((samples.view(-1, 2).clamp(-3, 3) + 3) * (_PIXELS / 6)).long().clamp(max=_PIXELS - 1)
    density = torch.zeros(_PIXELS, _PIXELS, device=samples.device)
    density.index_put_((cells[:, 1], cells[:, 0]), density.new_ones(len(cells)), accumulate=True)
    return (density / 3).clamp(max=1).view(1, 1, _PIXELS, _PIXELS)

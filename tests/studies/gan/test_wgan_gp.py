"""The study of WGAN-GP: only the clipped arm's critic is clipped, and right after each of its updates."""

import pytest
import torch
from torch import Tensor, nn

from paperweight.studies import Setting
from paperweight.studies.gan import _generation
from paperweight.studies.gan import wgan_gp as study

BOUND = torch.tensor(study._CLIPPED.bound).item()


def largest(network: nn.Module) -> float:
    return max(parameter.abs().max().item() for parameter in network.parameters())


def run_and_watch(arm: str, loss: str, monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Run an arm; return the critic's largest weight at each call of a loss, one list a try."""
    tries: list[list[float]] = []
    fit = _generation.fit_adversarial

    def watched_fit(*given: object, **more: object) -> tuple[Tensor, Tensor]:
        found: list[float] = []
        tries.append(found)
        original = more[loss]

        def watched(critic: nn.Module, *given: object) -> Tensor:
            found.append(largest(critic))
            return original(critic, *given)

        return fit(*given, **{**more, loss: watched})

    monkeypatch.setattr(_generation, "fit_adversarial", watched_fit)
    outcome = study.run(study.STUDY.arm(arm), Setting(study="wgan_gp", seed=0, budget="smoke"))
    calls = outcome.arguments["steps"] * (outcome.made["game"].critic_steps if loss == "critic_loss" else 1)
    plan = study.STUDY.arms[arm].make
    assert len(tries) == len(plan.rates) * max(1, len(plan.weights))
    assert [len(found) for found in tries] == [calls] * len(tries)
    return tries


def test_the_generator_sees_a_clipped_critic(monkeypatch):
    for weights in run_and_watch("wgan_clipped", "model_loss", monkeypatch):
        assert max(weights) <= BOUND


def test_the_critic_is_clipped_after_each_update_and_not_before_the_first(monkeypatch):
    for first, *later in run_and_watch("wgan_clipped", "critic_loss", monkeypatch):
        assert first > BOUND
        assert max(later) <= BOUND


def test_the_generator_is_not_clipped(monkeypatch):
    models: list[nn.Module] = []
    fit = _generation.Generation.fit

    def watched(*given: object, **more: object) -> _generation.Trained:
        trained = fit(*given, **more)
        models.append(trained.model)
        return trained

    monkeypatch.setattr(_generation.Generation, "fit", watched)
    study.run(study.STUDY.arm("wgan_clipped"), Setting(study="wgan_gp", seed=0, budget="smoke"))
    assert min(map(largest, models)) > 10 * BOUND


@pytest.mark.parametrize("arm", [arm for arm in study.STUDY.arms if arm != "wgan_clipped"])
def test_no_other_critic_is_clipped(arm, monkeypatch):
    assert min(map(min, run_and_watch(arm, "model_loss", monkeypatch))) > 10 * BOUND

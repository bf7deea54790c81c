"""The study of WGAN-GP: only the clipped arm's critic is clipped, and right after each of its updates."""

import pytest
import torch
from torch import Tensor, nn

from paperweight.studies import Setting
from paperweight.studies.gan import wgan_gp as study

BOUND = torch.tensor(study._CLIP).item()


def largest(network: nn.Module) -> float:
    return max(parameter.abs().max().item() for parameter in network.parameters())


def run_and_watch(arm: str, loss: str, monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Run an arm; return the critic's largest weight at each call of a loss, one list a try."""
    found: list[float] = []
    original = getattr(study, loss)

    def watched(arm: str, critic: nn.Module, *given: object) -> Tensor:
        found.append(largest(critic))
        return original(arm, critic, *given)

    monkeypatch.setattr(study, loss, watched)
    arguments = study.run(arm, Setting(study="wgan_gp", seed=0, budget="smoke")).arguments
    calls = arguments["steps"] * (arguments["critic_steps"] if loss == "_critic_loss" else 1)
    assert len(found) == arguments["tries"] * calls
    return [found[start : start + calls] for start in range(0, len(found), calls)]


def test_the_generator_sees_a_clipped_critic(monkeypatch):
    for weights in run_and_watch("wgan_clipped", "_model_loss", monkeypatch):
        assert max(weights) <= BOUND


def test_the_critic_is_clipped_after_each_update_and_not_before_the_first(monkeypatch):
    for first, *later in run_and_watch("wgan_clipped", "_critic_loss", monkeypatch):
        assert first > BOUND
        assert max(later) <= BOUND


def test_the_generator_is_not_clipped(monkeypatch):
    models: list[nn.Module] = []
    judged = study.judged
    monkeypatch.setattr(study, "judged", lambda model, *given: models.append(model) or judged(model, *given))
    study.run("wgan_clipped", Setting(study="wgan_gp", seed=0, budget="smoke"))
    assert min(map(largest, models)) > 10 * BOUND


@pytest.mark.parametrize("arm", [arm for arm in study.STUDY.arms if arm != "wgan_clipped"])
def test_no_other_critic_is_clipped(arm, monkeypatch):
    assert min(map(min, run_and_watch(arm, "_model_loss", monkeypatch))) > 10 * BOUND

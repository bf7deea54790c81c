"""The study of R3GAN: its metrics have a value, whatever the samples hit."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from paperweight.bench.trial import TrialSpec
from paperweight.bench.worker import run_trial
from paperweight.studies import Setting
from paperweight.studies.gan import r3gan as study
from paperweight.studies.gan._world import World, mixture


@pytest.mark.parametrize(
    ("hit", "divergence", "misplaced"),
    [
        ([-1], math.log(25), 1),
        ([4], math.log(25), 24 / 25),
        ([4, -1], math.log(25), 24 / 25),
        ([0, 0, 0, 5], math.log(25) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25), 23 / 25),
        (range(25), 0.0, 0),
    ],
    ids=["none", "one", "one or none", "three to one", "all"],
)
def test_what_is_told_of_samples_by_the_modes_that_they_hit(hit, divergence, misplaced, monkeypatch):
    def with_fixed_hits(setting: Setting, **sizes: Any) -> World:
        return replace(mixture(setting, **sizes), mode_of=lambda samples: torch.tensor(hit).repeat(100))

    monkeypatch.setattr(study, "mixture", with_fixed_hits)
    outcome = study.run(study.STUDY.arm("r3gan"), Setting(study="r3gan", seed=0, budget="smoke"))
    assert outcome.metrics.keys() == study.STUDY.metrics.keys()
    assert outcome.metrics["reverse_kl"] == pytest.approx(divergence, abs=1e-9)
    assert outcome.metrics["misplaced"] == pytest.approx(misplaced, abs=1e-9)


def test_a_trial_on_images_whose_samples_hit_no_class_is_finished(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path))
    record = run_trial(TrialSpec(study="r3gan", arm="r3gan", seed=0, budget="smoke", data="digits"))
    assert record.metrics["on_modes"] == 0
    assert record.metrics["reverse_kl"] == pytest.approx(math.log(10))
    assert record.status == "finished", record.message

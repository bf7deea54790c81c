"""Schedules that studies share, compared with their rule step by step."""

import math

import pytest
import torch

from paperweight.loops import warmed_cosine


@pytest.mark.parametrize("steps", [1, 4, 10, 57, 200])
def test_the_rate_rises_evenly_and_falls_along_a_cosine_to_zero(steps: int):
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = warmed_cosine(sgd, steps)
    warm = max(1, steps // 10)
    for step in range(steps):
        if step < warm:
            expected = 0.3 * (step + 1) / warm
        else:
            expected = 0.3 * math.cos(math.pi / 2 * (step - warm) / (steps - warm)) ** 2
        assert sgd.param_groups[0]["lr"] == pytest.approx(expected, abs=1e-12)
        sgd.step()
        schedule.step()
    assert sgd.param_groups[0]["lr"] == pytest.approx(0.0 if steps > 1 else 0.3, abs=1e-12)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        warmed_cosine(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3), 0)

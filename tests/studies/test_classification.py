"""The template of classifiers: what is trained is evaluated on the part that is asked for, once."""

from dataclasses import replace

import torch
from torch import nn

from paperweight.loops import tune
from paperweight.studies import Setting, Trained, classification


def task_and_tries():
    task = classification(
        Setting(study="example", seed=0, budget="smoke"), smoke=(60, 20, 30), desk=(60, 20, 30), gpu=(60, 20, 30)
    )

    def train(rate: float) -> Trained:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, task.classes))
        with torch.no_grad():
            model[1].weight.zero_()
            model[1].bias.zero_()
        return task.fit(model, torch.optim.SGD(model.parameters(), lr=rate), steps=30, batch_size=20)

    return task, tune((0.001, 0.1), train, lambda tried: tried.validated.loss, better="lower")


def test_validated_and_tested_are_the_evaluations_of_the_two_parts():
    task, tuned = task_and_tries()
    best = tuned.best
    assert tuned.value == 0.1
    assert best.validated.loss == task.validate(best.model).loss
    assert best.tested.correct.tolist() == task.test(best.model).correct.tolist()
    assert (len(best.validated.correct), len(best.tested.correct)) == (20, 30)
    assert best.accuracy_and_loss == {"accuracy": best.tested.accuracy, "test_loss": best.tested.loss}


def test_an_evaluation_is_made_once_and_anew_for_another_model():
    _, tuned = task_and_tries()
    best = tuned.best
    before = best.tested
    other = replace(best, model=tuned.tries[0.001].model)
    assert other.tested.loss == tuned.tries[0.001].tested.loss != before.loss
    assert best.tested is before


def test_an_outcome_is_that_of_the_best_try_unless_told_otherwise():
    task, tuned = task_and_tries()
    plain = task.outcome(tuned, metrics={"loss": 1.0}, made={})
    assert plain.correct is tuned.best.tested.correct
    assert plain.made == {"optimizer": tuned.best.optimizer}
    assert plain.arguments == {
        "steps": 30,
        "batch_size": 20,
        "training_images": 60,
        "test_images": 30,
        "image_shape": "1 x 8 x 8",
    }
    assert len(plain.curves["training loss, by step"]) > 1
    worse = tuned.tries[0.001]
    told = task.outcome(tuned, metrics={"loss": 1.0}, made={}, trained=worse)
    assert told.correct is worse.tested.correct
    assert told.curves["training loss, by step"] != plain.curves["training loss, by step"]

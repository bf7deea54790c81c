"""Laplacian smoothing lowers gradient noise and allows larger steps than plain SGD (Osher et al. 2022).

Four parts, each run by every arm: a quadratic with noisy gradients (the authors' test problem, at a constant rate),
softmax regression over a range of learning rates (scaled by 64 over the number of input values, with which the
curvature grows), the same with noise added to each gradient as private training does, and a small convolutional
network at batch 4 with momentum 0.9 (the authors' LeNet setting). The headline is what a user gets in the end: the
network's test accuracy with a learning rate chosen for each arm on validation images.

What it can show: whether smoothing lowers the noise floor, widens the range of stable rates, and helps a small
network on these images. What it cannot: anything about long training, large networks, or batches so large that
gradient noise does not matter. A noise floor that is not lower, a largest stable rate that is not larger, or a
network that is not better would refute the claim in that part; a gain that the two controls show as well would take
the credit from it. Smoothing along a random order of the entries asks whether neighbours in memory matter; plain SGD
with its rate times the mean eigenvalue asks whether smoothing is more than a smaller step.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from paperweight.data import channel_statistics, normalise
from paperweight.loops import best_of, evaluate_classifier, fit_classifier, loss_curve, minimise
from paperweight.nets import MLP, LeNet
from paperweight.optim.laplacian_smoothing import LaplacianSmoothingSGD, laplacian_smooth, smoothing_spectrum
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="laplacian_smoothing",
    question="Does smoothing the gradient help SGD with small batches, once every arm has its own learning rate?",
    claim="Smoothing stochastic gradients lowers their variance, allows larger steps and improves the trained network.",
    arms={
        "sgd": "plain SGD: the method at sigma 0",
        "smoothed": "gradients smoothed with sigma 1, order 1",
        "smoothed_order_2": "gradients smoothed with sigma 1, order 2",
        "permuted": "control: smoothed along a fixed random order of each tensor's entries",
        "rescaled": "control: plain SGD with the learning rate times the mean eigenvalue of the smoothing",
    },
    metrics={
        "accuracy": Metric(label="test accuracy", unit="", better="higher", minimal_effect=0.01),
        "noisy_accuracy": Metric(
            label="test accuracy, noise in every gradient", unit="", better="higher", minimal_effect=0.01
        ),
        "stable_rate": Metric(
            label="largest stable learning rate", unit="doublings", better="higher", minimal_effect=0.5
        ),
        "common_rate_loss": Metric(
            label="training loss at a common large rate", unit="nats", better="lower", minimal_effect=0.05
        ),
        "noise_floor": Metric(label="noise floor of the quadratic", unit="", better="lower", minimal_effect=0.02),
    },
    headline="accuracy",
    tuned="the learning rate, by validation accuracy: 3 tries an arm and seed, from one grid for all arms",
    limits=(
        "Small images, a small network and 600 steps at batch 4: nothing follows for long training, large "
        "networks or large batches. Only sigma 1 is tried; another may serve better or worse."
    ),
)

_SIGMA = 1.0
_BATCH = 4
_NOISE = 0.2
_NETWORK_RATES = (0.003, 0.01, 0.03)
_SOFTMAX_RATES = (0.03, 0.06, 0.12, 0.25)
_STABILITY_RATES = tuple(2.0**k for k in range(-2, 6))
_COMMON_RATE = 2.0
_RATE_DIMENSION = 64
_QUADRATIC_RATE = 0.8


def run(arm: str, setting: Setting) -> Outcome:
    """Run the four parts for one arm."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=200, desk=5_000, gpu=20_000),
        validation=setting.pick(smoke=100, desk=1_000, gpu=5_000),
        test=setting.pick(smoke=100, desk=2_000, gpu=10_000),
        max_side=32,
    )
    steps = setting.pick(smoke=20, desk=600, gpu=10_000)
    softmax_steps = setting.pick(smoke=20, desk=250, gpu=3_000)
    classes = len(data.classes)
    unit = _RATE_DIMENSION / math.prod(data.shape)
    statistics = channel_statistics(data.train.images)
    images = normalise(data.train.images, *statistics)
    validation = normalise(data.validation.images, *statistics)
    test = normalise(data.test.images, *statistics)

    def train(model: nn.Module, rate: float, steps: int, momentum: float, noise: float) -> Tensor:
        optimizer = _optimizer(arm, model.parameters(), rate, momentum, noise, setting)
        draw = setting.generator("batches")
        return fit_classifier(
            model, optimizer, images, data.train.labels, steps=steps, batch_size=_BATCH, generator=draw
        )

    def best(
        build: Callable[[], nn.Module], rates: Iterable[float], steps: int, momentum: float, noise: float
    ) -> tuple[nn.Module, float, Tensor]:
        tries: list[tuple[float, nn.Module, float, Tensor]] = []
        for rate in rates:
            model = build()
            losses = train(model, rate, steps, momentum, noise)
            evaluation = evaluate_classifier(model, validation, data.validation.labels)
            tries.append((evaluation.accuracy, model, rate, losses))
        return best_of(tries, lambda attempt: attempt[0], better="higher")[1:]

    def network() -> nn.Module:
        return setting.network(data.shape, classes, default=LeNet)

    def softmax() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.stream("init"))
            return MLP(data.shape, classes, hidden=()).to(setting.device)

    model, rate, losses = best(network, _NETWORK_RATES, steps, momentum=0.9, noise=0.0)
    tested = evaluate_classifier(model, test, data.test.labels)
    noisy_model, noisy_rate, _ = best(
        softmax, [unit * rate for rate in _SOFTMAX_RATES], softmax_steps, momentum=0.0, noise=_NOISE
    )
    final_loss: dict[float, float] = {}
    for large in _STABILITY_RATES:
        model = softmax()
        train(model, unit * large, softmax_steps, momentum=0.0, noise=0.0)
        final_loss[large] = evaluate_classifier(model, images, data.train.labels).loss
    stable = [large for large, loss in final_loss.items() if loss < math.log(classes)]
    floor, descent = _quadratic(arm, setting)
    return Outcome(
        metrics={
            "accuracy": tested.accuracy,
            "noisy_accuracy": evaluate_classifier(noisy_model, test, data.test.labels).accuracy,
            "stable_rate": math.log2(max(stable, default=_STABILITY_RATES[0] / 2)),
            "common_rate_loss": final_loss[_COMMON_RATE],
            "noise_floor": floor,
        },
        arguments={
            "sigma": _SIGMA if arm in ("smoothed", "smoothed_order_2", "permuted") else 0.0,
            "learning_rate": rate,
            "learning_rate_with_noise": noisy_rate,
            "tries": len(_NETWORK_RATES),
            "tries_with_noise": len(_SOFTMAX_RATES),
            "gradient_noise": _NOISE,
            "batch_size": _BATCH,
            "steps": steps,
            "steps_of_softmax": softmax_steps,
            "training_images": len(data.train),
            "test_images": len(data.test),
            "image_shape": " x ".join(map(str, data.shape)),
        },
        curves={
            "training loss of the network, by step": loss_curve(losses),
            "loss of softmax regression, by log2 learning rate": [(math.log2(r), v) for r, v in final_loss.items()],
            "value of the quadratic, by step": descent,
        },
        correct=tested.correct,
    )


def _optimizer(
    arm: str, parameters: Iterable[Tensor], rate: float, momentum: float, noise: float, setting: Setting
) -> Optimizer:
    """Return the arm's optimizer; hooks change a gradient, first by noise, then by permuted smoothing."""
    parameters = list(parameters)
    draw = setting.generator("method")
    sigma = {"smoothed": _SIGMA, "smoothed_order_2": _SIGMA}.get(arm, 0.0)
    order = 2 if arm == "smoothed_order_2" else 1
    groups = [{"params": [p], "lr": rate * (_mean_gain(p.numel()) if arm == "rescaled" else 1.0)} for p in parameters]
    optimizer = LaplacianSmoothingSGD(groups, lr=rate, sigma=sigma, order=order, momentum=momentum)
    orders = [torch.randperm(p.numel(), generator=draw).to(p.device) for p in parameters]

    def add_noise(*_: object) -> None:
        for p in parameters:
            if p.grad is not None:
                p.grad += noise * torch.randn(p.shape, generator=draw).to(p.device)

    def smooth_permuted(*_: object) -> None:
        for p, shuffled in zip(parameters, orders, strict=True):
            if p.grad is not None:
                gradient = p.grad.flatten()
                smooth = torch.empty_like(gradient)
                smooth[shuffled] = laplacian_smooth(gradient[shuffled], _SIGMA)
                p.grad = smooth.view_as(p)

    if noise:
        optimizer.register_step_pre_hook(add_noise)
    if arm == "permuted":
        optimizer.register_step_pre_hook(smooth_permuted)
    return optimizer


def _mean_gain(n: int) -> float:
    """Return the mean eigenvalue of the smoothing on a ring of n entries."""
    gain = 1 / smoothing_spectrum(n, _SIGMA)
    return float(gain[0] + 2 * gain[1 : (n + 1) // 2].sum() + (gain[-1] if n % 2 == 0 else 0)) / n


def _quadratic(arm: str, setting: Setting) -> tuple[float, list[tuple[float, float]]]:
    """Descend sum(((x - 2) / c)^2), c alternating 10 and 1, with noise 0.1 in the gradient, from -1.

    Returns the mean value over the last quarter of the steps, and the course.
    """
    steps = setting.pick(smoke=100, desk=1_000, gpu=2_000)
    x = torch.full((100,), -1.0, requires_grad=True)
    weight = torch.tensor([0.01, 1.0]).repeat(50)
    noise = 0.1 * torch.randn(steps, 100, generator=setting.generator("evaluation"))
    values = torch.empty(steps)

    def loss(batch: tuple[int, Tensor]) -> Tensor:
        step, error = batch
        value = (weight * (x - 2).square()).sum()
        values[step] = value.detach()
        return value + (error * x).sum()

    minimise(loss, _optimizer(arm, [x], _QUADRATIC_RATE, 0.0, 0.0, setting), enumerate(noise), steps=steps)
    return values[-steps // 4 :].mean().item(), [(float(i), values[i].item()) for i in range(0, steps, steps // 50)]

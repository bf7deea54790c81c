"""Deep nets trained by simple backpropagation are better than more shallow ones (Ciresan et al. 2011).

Of the paper's records on MNIST, NORB and CIFAR-10, by large networks and distorted images, nothing is tested here; what
is, is the one claim that needs neither. Two networks of about 3,700 weights learn characters at half their size: one
with a convolution, pooling and neurons, one with two convolutions, each with pooling, and neurons; each was chosen from
several. Both are initialised and activated as in the paper, and trained by plain SGD at a rate that falls. The headline
is test accuracy.

What it can show: whether a second convolution makes such a network more accurate. An accuracy that is not higher would
refute the claim here. The controls are the same two networks with ReLU and the initial weights of torch, which somebody
would take today: if depth does more or less for them, activation and small weights are a part of what was measured.
What it cannot: anything about large networks, distortions, pooling by means or partly connected maps.
"""

from collections.abc import Callable
from functools import partial

from torch import nn
from torch.optim import SGD

from paperweight.architecture.ciresan_cnn import CiresanCNN
from paperweight.loops import tune, warmed_cosine
from paperweight.nets import count_parameters, halved
from paperweight.studies import ACCURACY, TEST_LOSS, Arm, Outcome, Setting, Study, Trained, classification

_RATES = (0.1, 0.2, 0.4, 0.8)
_BATCH = 8
_SHAPE = tuple[int, int, int]
_SHALLOW = partial(CiresanCNN, layers="14C5-MP3-24N")
_DEEP = partial(CiresanCNN, layers="8C3-MP2-16C3-MP2-32N")


def _rectified(build: Callable[[_SHAPE, int], CiresanCNN], shape: _SHAPE, classes: int) -> nn.Module:
    """Build a network and give it ReLU and the weights that torch begins with."""
    model = build(shape, classes)
    learned = (nn.Conv2d, nn.Linear)
    for layer in model.modules():
        if isinstance(layer, learned):
            layer.reset_parameters()
    for at in range(1, len(model.body)):
        if isinstance(model.body[at - 1], learned):
            model.body[at] = nn.ReLU()
    return model


STUDY = Study(
    paper="ciresan_cnn",
    question="Is a convolutional network of as many weights more accurate with a second convolution?",
    claim="A network with two convolutions has a higher test accuracy than one of as many weights with one.",
    arms={
        "shallow": Arm("14C5-MP3-24N: one convolution", _SHALLOW),
        "deep": Arm("8C3-MP2-16C3-MP2-32N: two convolutions", _DEEP),
        "shallow_relu": Arm("control: one convolution, ReLU, torch's initial weights", partial(_rectified, _SHALLOW)),
        "deep_relu": Arm("control: two convolutions, ReLU, torch's initial weights", partial(_rectified, _DEEP)),
    },
    metrics={"accuracy": ACCURACY, "test_loss": TEST_LOSS},
    headline="accuracy",
    tuned="the learning rate, 4 tries an arm and seed, a factor of 2 apart, from one grid: by validation loss",
    limits=(
        "The shallow network was chosen from nine, the deep one from six of about as many weights, on other seeds. "
        "Small images, the same 4,000 to test on for every seed, networks of about 3,700 weights and 1,200 steps in "
        "batches of 8, not of one image, at the desk budget: nothing follows for the paper's records, nor for networks "
        "with more layers."
    ),
    seeds=8,
)


def run(arm: Arm[Callable[[_SHAPE, int], nn.Module]], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(60, 40, 40), desk=(2_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    steps = setting.pick(smoke=4, desk=1_200, gpu=20_000)

    def train(rate: float) -> Trained:
        model = task.network(halved(arm.make))
        optimizer = SGD(model.parameters(), lr=rate)
        return task.fit(model, optimizer, steps=steps, batch_size=_BATCH, schedule=warmed_cosine(optimizer, steps))

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    weights = count_parameters(tuned.best.model)
    return task.outcome(tuned, metrics=tuned.best.accuracy_and_loss, arguments={"weights": weights})

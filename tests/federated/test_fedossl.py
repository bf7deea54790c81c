"""FedoSSL against hand-computed losses, slow loops, every permutation of classes, and ORCA's rounds written out."""

import copy
import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.federated.fedossl import (
    FedoSSL,
    calibration_loss,
    class_weight,
    open_world_accuracy,
    pairwise_bce,
    positive_partners,
    prediction_entropy,
    sinkhorn_assign,
    sinkhorn_centroids,
    suppressed_loss,
    uncertainty_margin_ce,
)
from paperweight.federated.pfl_simulator import FederatedSimulator
from paperweight.testing import FunctionSubject, TrainingProcedureSubject

Clients = list[tuple[Tensor, Tensor]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def noisy(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator).to(inputs)


def same(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return inputs


def network(features: int = 5, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Module()
        model.body = nn.Sequential(nn.Flatten(), nn.Linear(features, 6), nn.Tanh())
        model.head = nn.Linear(6, classes)
        return model.double()


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh()), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs))


def dealt(data: tuple[Tensor, ...]) -> Clients:
    """Three clients with the last class and every third sample unlabelled."""
    inputs, labels = data
    shown = torch.where((labels == 2) | (torch.arange(len(labels)) % 3 == 0), -1, labels)
    return list(zip(inputs.split([14, 7, 11]), shown.split([14, 7, 11]), strict=True))


def made(model: nn.Module, data: tuple[Tensor, ...], *, generator: torch.Generator, **given) -> FedoSSL:
    arguments = {"view": noisy, "warmup": 2, "cohort_size": 2, "local_lr": 0.3, "batch_size": 6, **given}
    return FedoSSL(model, dealt(data), generator=generator, **arguments)


class Orca:
    """FedAvg of ORCA, written out: copies of the model, losses by loops over samples."""

    def __init__(self, model: nn.Module, clients: Clients, view, *, generator: torch.Generator, cohort: int, lr: float):
        self.model, self.clients, self.view, self.generator = model, clients, view, generator
        self.cohort, self.lr = cohort, lr
        torch.randint(2**62, (), generator=generator)  # for the simulator's noise

    def step(self) -> None:
        chosen = torch.randperm(len(self.clients), generator=self.generator)[: self.cohort].tolist()
        seeds = torch.randint(2**62, (self.cohort,), generator=self.generator).tolist()
        trained = []
        for client, seed in zip(chosen, seeds, strict=True):
            inputs, labels = self.clients[client]
            model, draw = copy.deepcopy(self.model), seeded(seed + 1)
            unknown = model.head(model.body(inputs[labels < 0])).softmax(1).max(1).values
            margin = min(1 - float(unknown.detach().mean()), 0.5) if len(unknown) else 0.0
            optimizer = torch.optim.SGD(model.parameters(), lr=self.lr)
            for batch in torch.randperm(len(inputs), generator=seeded(seed)).split(6):
                optimizer.zero_grad()
                self.loss(model, inputs[batch], labels[batch], margin, draw).backward()
                optimizer.step()
            trained.append((len(inputs), model))
        total = sum(count for count, _ in trained)
        with torch.no_grad():
            for parameter, *locals_ in zip(
                self.model.parameters(), *(model.parameters() for _, model in trained), strict=True
            ):
                parts = zip(trained, locals_, strict=True)
                parameter.copy_(sum(count / total * value for (count, _), value in parts))

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, margin: float, draw: torch.Generator) -> Tensor:
        first, second = self.view(inputs, draw), self.view(inputs, draw)
        features = model.body(first)
        logits = model.head(features)
        prob, prob2 = logits.softmax(1), model.head(model.body(second)).softmax(1)
        random = torch.rand(len(labels), len(labels), generator=draw)
        pairs, supervised = [], []
        for i, label in enumerate(labels.tolist()):
            others = [j for j in range(len(labels)) if j != i]
            if label < 0:
                partner = max(
                    others, key=lambda j: float(F.cosine_similarity(features[i].detach(), features[j].detach(), dim=0))
                )
            else:
                mates = [j for j in others if labels[j] == label]
                partner = max(mates, key=lambda j: float(random[i, j])) if mates else i
                raised = [z + 10 * margin if k == label else z for k, z in enumerate(logits[i])]
                supervised.append(torch.logsumexp(torch.stack(raised), 0) - raised[label])
            pairs.append(-torch.log(sum(a * b for a, b in zip(prob[i], prob2[partner], strict=True))))
        entropy = -sum(p * p.log() for p in prob.mean(0))
        return sum(pairs) / len(pairs) - entropy + (sum(supervised) / len(supervised) if supervised else 0.0)


class OrcaOnTheSimulator(nn.Module):
    """FedAvg of ORCA by the simulator of this library: rounds of one client at a time, none of FedoSSL's own state."""

    def __init__(self, model: nn.Module, data: tuple[Tensor, ...], *, generator: torch.Generator):
        super().__init__()
        self.model, self.draw = model, torch.Generator()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        self.simulator = FederatedSimulator(
            self,
            optimizer,
            dealt(data),
            cohort_size=2,
            local_lr=0.3,
            batch_size=6,
            loss=self.loss,
            generator=generator,
        )

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.body(torch.cat([noisy(inputs, self.draw), noisy(inputs, self.draw)]))
        return features, self.model.head(features)

    def loss(self, outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        features, prob, known = outputs[0].chunk(2)[0], outputs[1].softmax(1), labels >= 0
        partners = positive_partners(features, labels, self.draw)
        loss = pairwise_bce(*prob.chunk(2), partners) - prediction_entropy(prob.chunk(2)[0])
        if known.any():
            logits = outputs[1][: len(labels)][known]
            loss = loss + uncertainty_margin_ce(logits, labels[known], self.margin)
        return loss

    def step(self):
        sums = None
        for user, seed in self.simulator.cohort():
            inputs, labels = self.simulator.users[user]
            with torch.no_grad():
                prob = self.model.eval()(inputs).softmax(1)[labels < 0]
            self.margin = min(0.5, 1 - float(prob.max(1).values.mean()))
            self.draw.manual_seed(seed + 1)
            part = self.simulator.gather([(user, seed)])
            sums = part if sums is None else [a + b for a, b in zip(sums, part, strict=True)]
        self.simulator.update(sums)


CONTRACT = {
    "FedoSSL": TrainingProcedureSubject(
        make=made,
        evaluations=lambda training: training.samples,
        random=True,
        model=Classifier,
        loss=lambda model, data: sum(
            F.cross_entropy(model(inputs[labels >= 0]), labels[labels >= 0]) for inputs, labels in dealt(data)
        ),
        advance=lambda training, data, number: training.step(),
        bad={
            "gamma": (-1.0, math.nan, math.inf),
            "lam": (-1.0, math.nan, math.inf),
            "scale": (-1.0, math.nan, math.inf),
            "beta": (0.0, 1.1, math.nan),
            "temperature": (0.0, -1.0, math.nan),
            "warmup": (-1, 1.5),
            "centroids": (0, 1.5),
            "cohort_size": (0, 4, 1.5),
            "local_epochs": (0, 1.5),
            "local_lr": (0.0, -1.0, math.nan),
            "batch_size": (0, 1.5),
        },
        null=partial(made, gamma=0.0, lam=0.0),
        baseline=OrcaOnTheSimulator,
    ),
    "open_world_accuracy": FunctionSubject(
        make=open_world_accuracy,
        arguments={
            "predictions": torch.tensor([0, 1, 2, 2]),
            "labels": torch.tensor([0, 1, 3, 2]),
            "seen": [0, 1],
            "globally_unseen": [3],
        },
        bad={
            "predictions": (torch.tensor([0, 1]), torch.tensor([-1, 0, 0, 0])),
            "labels": (torch.tensor([0, 1]), torch.tensor([-1, 0, 0, 0])),
            "globally_unseen": ([1],),
        },
    ),
}


def test_class_weights_by_hand():
    weights = class_weight(torch.tensor([0.0, 10.0, 5.0]), beta=0.2)
    torch.testing.assert_close(weights, torch.tensor([0.2, 1.0, math.sqrt(0.2)]))
    assert class_weight(torch.tensor([3.0, 0.0]), beta=1.0).tolist() == [1.0, 1.0]
    assert class_weight(torch.zeros(2)).isfinite().all()


def test_suppressed_loss_by_hand():
    assert suppressed_loss(torch.eye(3), torch.rand(3, generator=seeded())) == 0
    prob = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    expected = (0.5 * (0.3 + 0.2 + 0.1) + 2.0 * (0.1 + 0.3 + 0.4)) / 2
    assert suppressed_loss(prob, torch.tensor([0.5, 9.0, 2.0])).item() == pytest.approx(expected)


def test_suppressed_loss_makes_predictions_surer():
    logits = drawn(8, 4).requires_grad_()
    suppressed_loss(logits.softmax(1), torch.ones(4).double()).backward()
    after = (logits - 0.1 * logits.grad).softmax(1).max(1).values
    assert (after > logits.softmax(1).max(1).values).all()


def test_the_margin_raises_the_true_logit():
    logits, labels = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([2])
    expected = math.log(math.e + math.e**2 + math.e**3) - 3
    assert uncertainty_margin_ce(logits, labels, 0.3).item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(uncertainty_margin_ce(logits, labels, 0.0), F.cross_entropy(logits, labels))


def test_pairwise_loss_is_a_loop():
    prob, prob2 = drawn(6, 4).softmax(1), drawn(6, 4, seed=2).softmax(1)
    partners = [3, 0, 0, 5, 4, 1]
    expected = 0.0
    for i, j in enumerate(partners):
        expected -= math.log(sum(float(prob[i, k]) * float(prob2[j, k]) for k in range(4))) / 6
    assert pairwise_bce(prob, prob2, torch.tensor(partners)).item() == pytest.approx(expected)
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert pairwise_bce(apart, apart, torch.tensor([1, 0])).isfinite()


def test_entropy_of_the_mean_prediction():
    assert prediction_entropy(torch.eye(4)).item() == pytest.approx(math.log(4))
    assert prediction_entropy(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item() == pytest.approx(0)
    assert prediction_entropy(torch.tensor([[0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])).item() == pytest.approx(
        1.5 * math.log(2)
    )


def test_partners_are_of_the_same_label_or_nearest_by_cosine():
    features = torch.tensor([[1.0, 0.0], [5.0, 0.5], [0.0, 1.0], [0.1, 9.0], [1.0, 1.2], [-1.0, 0.0]])
    labels = torch.tensor([0, -1, 0, -1, 1, 0])
    chosen = torch.stack([positive_partners(features, labels, seeded(seed)) for seed in range(60)])
    assert chosen[:, 1].unique().tolist() == [0]
    assert chosen[:, 3].unique().tolist() == [2]
    assert chosen[:, 4].unique().tolist() == [4]
    for sample, mates in ((0, [2, 5]), (2, [0, 5]), (5, [0, 2])):
        assert chosen[:, sample].unique().tolist() == mates
        assert (chosen[:, sample] == mates[0]).double().mean().item() == pytest.approx(0.5, abs=0.2)
    assert positive_partners(features[:1], labels[1:2], seeded()).tolist() == [0]


def test_sinkhorn_balances():
    scores = drawn(30, 5) / 5
    shares = sinkhorn_assign(scores, steps=300)
    torch.testing.assert_close(shares.sum(0), torch.full((5,), 6.0).double())
    torch.testing.assert_close(shares.sum(1), torch.ones(30).double())
    torch.testing.assert_close(sinkhorn_assign(scores).sum(1), torch.ones(30).double())
    crowded = scores + torch.tensor([0.2, 0.0, 0.0, 0.0, 0.0])
    assert (crowded / 0.05).softmax(1).sum(0).max() > 15
    assert sinkhorn_assign(crowded).sum(0).max() < 9
    kernel, left = (scores / 0.05).exp(), torch.ones(30).double()
    for _ in range(300):
        right = 6 / (kernel.T @ left)
        left = 1 / (kernel @ right)
    torch.testing.assert_close(shares, left[:, None] * kernel * right)


def test_centroids_are_the_directions_of_the_clusters_in_any_order():
    directions = F.normalize(drawn(3, 8))
    points = (directions.repeat(20, 1) + 0.02 * drawn(60, 8, seed=2)) * torch.rand(60, 1, generator=seeded()).double()
    for order in (torch.arange(60), torch.randperm(60, generator=seeded())):
        found = sinkhorn_centroids(points[order], 3)
        cosines = found @ directions.T
        assert sorted(cosines.argmax(1).tolist()) == [0, 1, 2]
        assert cosines.max(1).values.min() > 0.999
        torch.testing.assert_close(found.norm(dim=1), torch.ones(3).double())
    assert sinkhorn_centroids(points[:2], 5).shape == (2, 8)


def test_calibration_by_hand():
    centroids = torch.eye(2)
    first, second = torch.tensor([[2.0, 0.0]]).requires_grad_(), torch.tensor([[0.0, 3.0]]).requires_grad_()
    loss = calibration_loss(first, second, centroids, temperature=0.5)
    high = math.exp(2) / (math.exp(2) + 1)
    assert loss.item() == pytest.approx(-high * math.log(1 - high) - (1 - high) * math.log(high), rel=1e-5)
    loss.backward()
    assert first.grad is None
    assert second.grad[0, 0] < 0
    aligned = calibration_loss(first, first.detach(), centroids, temperature=0.5)
    assert aligned.item() == pytest.approx(-high * math.log(high) - (1 - high) * math.log(1 - high), rel=1e-5)


def brute(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The best share over all one-to-one namings of predicted classes, and who is correct under it."""
    namings = [torch.tensor(naming)[predictions] == labels for naming in itertools.permutations(range(classes))]
    return max(namings, key=lambda correct: int(correct.sum()))


def test_accuracies_are_those_of_the_best_permutation():
    for seed in range(20):
        labels = torch.randint(5, (60,), generator=seeded(seed))
        turned = (labels + seed) % 5
        wrong = torch.rand(60, generator=seeded(seed + 100)) < 0.3
        predictions = torch.where(wrong, torch.randint(5, (60,), generator=seeded(seed + 200)), turned)
        found = open_world_accuracy(predictions, labels, seen=[0, 3], globally_unseen=[4])
        assert found.overall == pytest.approx(brute(predictions, labels, 5).double().mean().item())
        known = (labels == 0) | (labels == 3)
        assert found.seen == pytest.approx((predictions == labels)[known].double().mean().item())
        single = labels[~known] == 4
        matched = brute(predictions[~known], labels[~known], 5)
        counts = int((~single).sum()), int(single.sum())
        total = counts[0] * found.locally_unseen + counts[1] * found.globally_unseen
        assert total == pytest.approx(int(matched.sum()))


def test_accuracies_of_each_group_by_hand():
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    predictions = torch.tensor([0, 5, 0, 0, 7, 7, 7])
    found = open_world_accuracy(predictions, labels, seen=[0], globally_unseen=[2])
    assert found == pytest.approx((4 / 7 + 1 / 7, 0.5, 2 / 3, 1.0))
    nobody = open_world_accuracy(predictions[:2], labels[:2], seen=[0])
    assert nobody[:2] == (1 / 2, 1 / 2)
    assert math.isnan(nobody.locally_unseen)
    assert math.isnan(nobody.globally_unseen)


SIZES = (14, 9, 17)
LABELS = torch.randint(-1, 3, (sum(SIZES),), generator=seeded(7))
CLIENTS: Clients = list(zip(drawn(sum(SIZES), 5).split(SIZES), LABELS.split(SIZES), strict=True))


def training(clients: Clients = CLIENTS, seed: int = 0, **given) -> FedoSSL:
    arguments = {"view": noisy, "local_lr": 0.2, "batch_size": 6, **given}
    return FedoSSL(network(), clients, generator=seeded(seed), **arguments)


def assert_weights(model: nn.Module, expected: nn.Module) -> None:
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("labelled", [False, True])
def test_without_its_two_losses_it_is_fedavg_of_orca_written_out(labelled):
    clients = [(inputs, labels.clamp_min(0) if labelled else labels) for inputs, labels in CLIENTS]
    running = training(clients, gamma=0.0, lam=0.0, cohort_size=2)
    slow = Orca(network(), clients, noisy, generator=seeded(), cohort=2, lr=0.2)
    for _ in range(3):
        running.step()
        slow.step()
    assert_weights(running.model, slow.model)


def outputs(seed: int = 0) -> tuple[tuple[Tensor, Tensor], Tensor]:
    return (3 * drawn(16, 4, seed=seed), drawn(16, 6, seed=seed + 50)), torch.tensor([0, 0, 1, 1, -1, -1, -1, -1])


def test_the_two_losses_are_added_with_their_weights():
    both, labels = outputs()
    runs = [training(gamma=gamma, lam=lam) for gamma, lam in ((0.0, 0.0), (0.7, 0.0), (0.0, 0.3), (0.7, 0.3))]
    values = []
    for running in runs:
        running._weights = torch.tensor([1.0, 0.5, 0.2, 0.9]).double()
        running._shared = F.normalize(drawn(3, 6, seed=9)) if running.lam else None
        running._draw.manual_seed(0)
        values.append(running._loss(both, labels).item())
    prob = both[0][:8].softmax(1)
    unsure = 0.0
    for row in prob[4:]:
        top = int(row.argmax())
        unsure += 2 * (1 - float(row[top])) * (1.0, 0.5, 0.2, 0.9)[top] / 4
    assert values[1] - values[0] == pytest.approx(0.7 * unsure)
    scores = [F.normalize(part) @ F.normalize(drawn(3, 6, seed=9)).T / 0.1 for part in both[1].split(8)]
    calibration = -(scores[0].softmax(1) * scores[1].log_softmax(1)).sum(1).mean().item()
    assert values[2] - values[0] == pytest.approx(0.3 * calibration)
    assert values[3] - values[0] == pytest.approx(0.7 * unsure + 0.3 * calibration)


def test_labelled_samples_alone_give_cross_entropy_pairs_and_entropy():
    both, _ = outputs()
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    running = training(gamma=1.0, lam=0.0)
    running._margin = 0.25
    prob, prob2 = (part.softmax(1) for part in both[0].split(8))
    mates = [1, 0, 3, 2, 5, 4, 7, 6]
    raised = both[0][:8].clone()
    pairs = 0.0
    for i, mate in enumerate(mates):
        raised[i, labels[i]] += 2.5
        pairs -= math.log(float(prob[i] @ prob2[mate])) / 8
    mean = prob.mean(0)
    expected = F.cross_entropy(raised, labels).item() + pairs + float((mean * mean.log()).sum())
    assert running._loss(both, labels).item() == pytest.approx(expected)


def test_class_counts_are_over_the_clients_and_weigh_the_suppressed_loss():
    running = training(lam=0.0)
    model, counts = network(), torch.zeros(4)
    for inputs, labels in CLIENTS:
        for sample in inputs[labels < 0]:
            counts[int(model.head(model.body(sample[None])).argmax())] += 1
    assert counts.sum() == (LABELS < 0).sum()
    running.step()
    expected = [0.2 ** (1 - float(count) / float(counts.max())) for count in counts]
    assert running._weights.tolist() == pytest.approx(expected)


def test_the_margin_is_the_mean_uncertainty_of_unlabelled_samples_up_to_a_half():
    running = training()
    with torch.no_grad():
        running.model.head.weight.mul_(8)
        inputs, labels = CLIENTS[0]
        sure = [float(running.model.head(running.model.body(x[None])).softmax(1).max()) for x in inputs[labels < 0]]
    margin, *_ = running._look(inputs, labels)
    assert 0 < margin < 0.5
    assert margin == pytest.approx(1 - sum(sure) / len(sure))
    assert training()._look(inputs, labels)[0] == 0.5
    assert running._look(inputs, labels.clamp_min(0))[0] == 0


def test_clients_share_centroids_of_their_features_after_the_warmup():
    running = training(warmup=1, centroids=3)
    running.step()
    assert running._shared is None
    model = copy.deepcopy(running.model)
    running.step()
    with torch.no_grad():
        own = [sinkhorn_centroids(model.body(inputs), 3) for inputs, _ in CLIENTS]
    cosines = sinkhorn_centroids(torch.cat(own), 3) @ running._shared.T
    torch.testing.assert_close(cosines.max(1).values, torch.ones(3).double())
    assert [len(centroids) for centroids in own] == [3, 3, 3]
    default = training(warmup=0)
    default.step()
    assert default._shared.shape == (4, 6)


@pytest.mark.parametrize("given", [{}, {"gamma": 0.0}, {"lam": 0.0}])
def test_averaging_clients_that_are_alike_is_the_identity(given):
    """All are unlabelled and train on one batch, so that nothing is drawn that matters."""
    client = (CLIENTS[0][0], torch.full((14,), -1))
    arguments = {"view": same, "batch_size": 14, "warmup": 0, **given}
    one, four = training([client], **arguments), training([client] * 4, seed=1, **arguments)
    for _ in range(3):
        one.step()
        four.step()
    assert_weights(four.model, one.model)
    assert not torch.equal(one.model.head.weight, network().head.weight)


def test_both_views_count_and_the_model_is_looked_at_in_eval_mode():
    running = training()
    modes = []
    running.model.body.register_forward_hook(lambda body, _, __: modes.append((body.training, torch.is_grad_enabled())))
    running.step()
    assert running.samples == 2 * sum(SIZES)
    assert modes == [(False, False)] * 3 + [(True, True)] * (3 + 2 + 3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="model must have modules body and head"):
        FedoSSL(nn.Linear(5, 4), CLIENTS, same, generator=seeded())
    for label in (4, -2):
        with pytest.raises(ValueError, match="labels of clients must be -1 or a class from 0 to 3"):
            training([(drawn(2, 5), torch.tensor([0, label]))]).step()
    for client in ((drawn(0, 5), torch.zeros(0)), (drawn(2, 5), torch.zeros(1))):
        with pytest.raises(ValueError, match="users must each have at least one input"):
            training([client])
    with pytest.raises(ValueError, match="predictions and labels must be at least 0"):
        open_world_accuracy(torch.tensor([-1]), torch.tensor([0]), seen=[0])

"""The simulator against one that copies, the algorithms written out, centralised SGD, and every schedule there is."""

import copy
import itertools
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.federated.pfl_simulator import FederatedSimulator, clip_update, schedule_users
from paperweight.testing import FunctionSubject, TrainingProcedureSubject

Users = list[tuple[Tensor, Tensor]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(model: nn.Module, data: tuple[Tensor, ...], *, generator: torch.Generator, **given) -> FederatedSimulator:
    users = list(zip(*(tensor.split([12, 4, 9, 7]) for tensor in data), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    arguments = {"cohort_size": 3, "batch_size": 5, "algorithm": "scaffold", "local_lr": 0.3, **given}
    return FederatedSimulator(model, optimizer, users, generator=generator, **arguments)


CONTRACT = {
    "FederatedSimulator": TrainingProcedureSubject(
        make=made,
        evaluations=lambda simulator: simulator.samples,
        random=True,
        advance=lambda simulator, data, number: simulator.step(),
        bad={
            "algorithm": ("fedsgd",),
            "weighting": ("size",),
            "cohort_size": (0, 5, 1.5),
            "local_epochs": (0, 1.5),
            "batch_size": (0, 1.5),
            "noise_cohort": (0, 1.5),
            "local_lr": (0.0, -1.0, math.nan),
            "clip": (0.0, -1.0, math.nan),
            "proximal": (-1.0, math.nan, math.inf),
            "noise_multiplier": (-1.0, math.nan, math.inf, 1.0),
        },
    ),
    "schedule_users": FunctionSubject(
        make=schedule_users,
        arguments={"weights": [3.0, 1.0, 2.0], "workers": 2},
        bad={"weights": ([-1.0],), "workers": (0, 1.5), "base": (-1.0, math.nan)},
    ),
}


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def population(*sizes: int) -> Users:
    inputs = torch.randn(sum(sizes), 4, generator=seeded(1), dtype=torch.float64)
    labels = torch.randint(3, (len(inputs),), generator=seeded(2))
    return list(zip(inputs.split(sizes), labels.split(sizes), strict=True))


USERS = population(7, 3, 12, 5, 1, 8)


def simulator(users: Users = USERS, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD, seed: int = 0, **given):
    model = network()
    central = optimizer(model.parameters(), lr=1.0)
    return FederatedSimulator(model, central, users, generator=seeded(seed), **{"cohort_size": len(users), **given})


def assert_weights(model: nn.Module, expected: nn.Module) -> None:
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("given", [{}, {"algorithm": "fedprox", "proximal": 0.7}, {"weighting": "uniform"}])
def test_weights_are_those_of_a_simulator_that_copies_the_model_for_each_client(given):
    running = simulator(cohort_size=4, local_epochs=2, local_lr=0.2, batch_size=4, **given)
    server, draw = network(), seeded()
    torch.randint(2**62, (), generator=draw)  # for the noise
    for _ in range(3):
        chosen = torch.randperm(len(USERS), generator=draw)[:4].tolist()
        seeds = torch.randint(2**62, (4,), generator=draw).tolist()
        clients, weights = [], []
        for user, seed in zip(chosen, seeds, strict=True):
            client, shuffles = copy.deepcopy(server), seeded(seed)
            optimizer = torch.optim.SGD(client.parameters(), lr=0.2)
            inputs, labels = USERS[user]
            for _ in range(2):
                order = torch.randperm(len(inputs), generator=shuffles)
                for first in range(0, len(inputs), 4):
                    batch = order[first : first + 4]
                    optimizer.zero_grad()
                    loss = F.cross_entropy(client(inputs[batch]), labels[batch])
                    pairs = zip(client.parameters(), server.parameters(), strict=True)
                    pull = sum((own - common.detach()).square().sum() for own, common in pairs)
                    (loss + given.get("proximal", 0.0) / 2 * pull).backward()
                    optimizer.step()
            clients.append(client.state_dict())
            weights.append(1 if "weighting" in given else len(inputs))
        server.load_state_dict(
            {
                name: sum(weight * client[name] for weight, client in zip(weights, clients, strict=True)) / sum(weights)
                for name in server.state_dict()
            }
        )
        running.step()
        assert_weights(running.model, server)


def test_all_users_and_one_local_step_are_centralised_sgd():
    running = simulator(local_lr=0.3, batch_size=100)
    central = network()
    optimizer = torch.optim.SGD(central.parameters(), lr=0.3)
    inputs, labels = (torch.cat(parts) for parts in zip(*USERS, strict=True))
    for _ in range(3):
        running.step()
        optimizer.zero_grad()
        F.cross_entropy(central(inputs), labels).backward()
        optimizer.step()
    assert_weights(running.model, central)
    assert running.samples == 3 * 36


def test_the_central_optimizer_sees_the_mean_difference_as_gradient():
    running = simulator(optimizer=torch.optim.Adam, local_lr=0.3)
    plain = simulator(local_lr=0.3)
    plain.step()
    central = network()
    optimizer = torch.optim.Adam(central.parameters(), lr=1.0)
    for parameter, trained in zip(central.parameters(), plain.model.parameters(), strict=True):
        parameter.grad = parameter.detach() - trained.detach()
    optimizer.step()
    running.step()
    assert_weights(running.model, central)
    assert all(parameter.grad is None for parameter in running.model.parameters())


def gradients(model: nn.Module, user: tuple[Tensor, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(F.cross_entropy(model(user[0]), user[1]), list(model.parameters())))


def test_scaffold_by_hand():
    """Two rounds of two steps on whole users, two of three users a round, with uniform weights."""
    users, lr = USERS[:3], 0.3
    running = simulator(
        users, algorithm="scaffold", cohort_size=2, local_epochs=2, local_lr=lr, batch_size=50, weighting="uniform"
    )
    server, draw = network(), seeded()
    torch.randint(2**62, (), generator=draw)  # for the noise
    zeros = [torch.zeros_like(parameter) for parameter in server.parameters()]
    common, own = zeros, [zeros] * 3
    for _ in range(3):
        chosen = torch.randperm(3, generator=draw)[:2].tolist()
        torch.randint(2**62, (2,), generator=draw)
        moves, changes = [], []
        for user in chosen:
            client = copy.deepcopy(server)
            for _ in range(2):
                found = gradients(client, users[user])
                with torch.no_grad():
                    for parts in zip(client.parameters(), found, own[user], common, strict=True):
                        parameter, gradient, c_user, c = parts
                        parameter -= lr * (gradient - c_user + c)
            move = [(y - x).detach() for y, x in zip(client.parameters(), server.parameters(), strict=True)]
            new = [c_user - c - m / (2 * lr) for c_user, c, m in zip(own[user], common, move, strict=True)]
            moves.append(move)
            changes.append([a - b for a, b in zip(new, own[user], strict=True)])
            own[user] = new
        with torch.no_grad():
            for parameter, *each in zip(server.parameters(), *moves, strict=True):
                parameter += sum(each) / 2
        common = [c + sum(each) / 3 for c, *each in zip(common, *changes, strict=True)]
        running.step()
        assert_weights(running.model, server)


def test_an_update_is_clipped_over_all_its_tensors_at_once():
    update = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    for clip, factor in ((10.0, 1.0), (5.0, 1.0), (2.5, 0.5)):
        clipped = copy.deepcopy(update)
        clip_update(clipped, clip)
        assert [part.tolist() for part in clipped] == [[3.0 * factor], [[0.0, 4.0 * factor]]]
    nothing = [torch.zeros(2)]
    clip_update(nothing, 1.0)
    assert nothing[0].tolist() == [0.0, 0.0]


def test_each_user_is_clipped_before_it_is_weighted():
    free = [simulator([user], local_lr=0.3) for user in USERS]
    running = simulator(local_lr=0.3, clip=0.05)
    start, expected = network(), [torch.zeros_like(parameter) for parameter in network().parameters()]
    cohort = running.cohort()
    running.update(running.gather(cohort))
    for (user, seed), count in ((entry, len(USERS[entry[0]][0])) for entry in cohort):
        free[user].update(free[user].gather([(0, seed)]))
        moves = [a - b for a, b in zip(free[user].model.parameters(), start.parameters(), strict=True)]
        norm = torch.cat([move.flatten() for move in moves]).norm()
        assert norm > 0.05
        expected = [total + count / 36 * 0.05 / norm * move for total, move in zip(expected, moves, strict=True)]
    for parameter, begin, move in zip(running.model.parameters(), start.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter, begin + move)


def noisy(seed: int = 0, **given) -> Tensor:
    """Train for one round with noise, and give the change of the weights against one without."""
    arguments = {"local_lr": 0.3, "clip": 0.5, "weighting": "uniform", **given}
    with_noise = simulator(seed=seed, **{"noise_multiplier": 2.0, **arguments})
    without = simulator(seed=seed, **{**arguments, "noise_cohort": None})
    with_noise.step()
    without.step()
    pairs = zip(with_noise.model.parameters(), without.model.parameters(), strict=True)
    return torch.cat([(a - b).detach().flatten() for a, b in pairs])


def test_noise_on_the_mean_has_the_deviation_of_the_sum_over_the_cohort():
    draws = torch.cat([noisy(seed) for seed in range(60)])
    assert draws.numel() == 60 * 51
    assert draws.mean().abs() < 4 * draws.std() / math.sqrt(draws.numel())
    assert draws.std().item() == pytest.approx(2.0 * 0.5 / 6, rel=0.05)


def test_noise_changes_no_cohort():
    plain = simulator(cohort_size=2, clip=1.0, weighting="uniform")
    noised = simulator(cohort_size=2, clip=1.0, weighting="uniform", noise_multiplier=1.0)
    for running in (plain, noised):
        running.step()
        running.step()
    assert plain.cohort() == noised.cohort()


def test_noise_goes_on_where_a_state_was_saved():
    given = {"cohort_size": 2, "clip": 1.0, "weighting": "uniform", "noise_multiplier": 1.0}
    running, resumed = simulator(**given), simulator(seed=1, **given)
    running.step()
    resumed.model.load_state_dict(running.model.state_dict())
    resumed.load_state_dict(running.state_dict())
    running.step()
    resumed.step()
    assert_weights(resumed.model, running.model)


def test_noise_of_a_larger_cohort_is_smaller_in_proportion():
    torch.testing.assert_close(noisy(noise_cohort=600), noisy() / 100, rtol=1e-6, atol=1e-12)


def test_noise_needs_a_norm_uniform_weights_and_no_control_variates():
    for given in (
        {"weighting": "uniform"},
        {"clip": 1.0},
        {"weighting": "uniform", "clip": 1.0, "algorithm": "scaffold"},
    ):
        with pytest.raises(ValueError, match="noise_multiplier above 0 must come with"):
            simulator(noise_multiplier=0.1, **given)


def test_users_without_samples_or_labels_are_refused():
    for user in ((torch.zeros(0, 4), torch.zeros(0)), (torch.zeros(2, 4), torch.zeros(1))):
        with pytest.raises(ValueError, match="users must each have at least one input"):
            simulator([user])


@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold"])
def test_workers_that_share_a_cohort_out_train_as_one(algorithm):
    single = simulator(cohort_size=6, algorithm=algorithm)
    workers = [simulator(cohort_size=6, algorithm=algorithm) for _ in range(2)]
    shares = schedule_users([len(inputs) for inputs, _ in USERS], workers=2)
    for _ in range(3):
        single.step()
        cohorts = [worker.cohort() for worker in workers]
        sums = [
            worker.gather([entry for entry in cohort if entry[0] in share])
            for worker, cohort, share in zip(workers, cohorts, shares, strict=True)
        ]
        added = [a + b for a, b in zip(*sums, strict=True)]
        for worker in workers:
            worker.update(added)
            assert_weights(worker.model, single.model)


def test_gathering_leaves_the_global_model_with_its_buffers():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    before = copy.deepcopy(model.state_dict())
    users = [(inputs, labels) for inputs, labels in USERS if len(inputs) > 1]
    running = FederatedSimulator(
        model, torch.optim.SGD(model.parameters(), lr=1.0), users, cohort_size=5, batch_size=100, generator=seeded()
    )
    cohort = running.cohort()
    sums = running.gather(cohort)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for found, expected in zip(running.gather(cohort[::-1]), sums, strict=True):
        torch.testing.assert_close(found, expected)


def test_parameters_that_need_no_gradient_stay():
    running = simulator()
    frozen = running.model[0].weight.requires_grad_(False)
    again = FederatedSimulator(
        running.model, torch.optim.SGD(running.model.parameters(), lr=1.0), USERS, cohort_size=6, generator=seeded()
    )
    before, moved = frozen.clone(), running.model[0].bias.clone()
    again.step()
    assert torch.equal(frozen, before)
    assert not torch.equal(running.model[0].bias, moved)


def test_a_cohort_has_different_users_and_each_about_as_often():
    running = simulator(cohort_size=2)
    counts: Counter[int] = Counter()
    for _ in range(600):
        users = [user for user, _ in running.cohort()]
        assert len(set(users)) == 2
        counts.update(users)
    assert sorted(counts) == list(range(6))
    assert all(abs(count / 600 - 1 / 3) < 0.08 for count in counts.values())


def makespan(weights: list[float], shares: list[list[int]]) -> float:
    return max(sum(weights[user] for user in share) for share in shares)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_busiest_worker_has_at_most_four_thirds_of_the_optimum(workers):
    for seed in range(40):
        weights = (torch.rand(7, generator=seeded(seed)) ** 2 * 100 + 1).round().tolist()
        shares = schedule_users(weights, workers)
        assert sorted(user for share in shares for user in share) == list(range(7))
        best = min(
            max(
                sum(w for w, owner in zip(weights, owners, strict=True) if owner == worker) for worker in range(workers)
            )
            for owners in itertools.product(range(workers), repeat=7)
        )
        assert makespan(weights, shares) <= (4 / 3 - 1 / (3 * workers)) * best + 1e-9


def test_the_worst_case_of_two_workers_and_users_that_cost_the_same():
    assert makespan([2, 3, 2, 3, 2], schedule_users([2, 3, 2, 3, 2], workers=2)) == 7
    assert sorted(len(share) for share in schedule_users([0] * 9, workers=3, base=1.0)) == [3, 3, 3]
    assert schedule_users([9, 1, 1, 1], workers=2) == [[0], [1, 2, 3]]
    assert [len(share) for share in schedule_users([9, 1, 1, 1], workers=2, base=100.0)] == [2, 2]

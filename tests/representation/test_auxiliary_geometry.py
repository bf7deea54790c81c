"""Constraints from auxiliary labels: losses by loops and on exact geometry, measures by counting, batches, picture."""

import copy
import itertools
import math
import pickle
import xml.etree.ElementTree as ElementTree
from collections import Counter
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from paperweight.representation._embedding_geometry import effective_rank
from paperweight.representation.auxiliary_geometry import (
    AuxiliaryGeometryLoss,
    FixedBasisLoss,
    IdentityAuxSampler,
    ParallelDifferenceLoss,
    TripletLoss,
    equal_error_rate,
    geometry_report,
    one_shot_accuracy,
    verification_auc,
    verification_pairs,
)
from paperweight.testing import ExperimentSubject, FunctionSubject, LossSubject, MetricSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Z = normal(14, 5)
IDENTITY = torch.tensor([4, 4, 4, 4, 4, 9, 9, 9, 9, -2, -2, -2, 7, 7])
AUX = torch.tensor([0, 0, 1, 2, -1, 0, 1, 1, -1, 0, 2, 2, 1, 2])
KNOWN = AUX >= 0
SAME = torch.tensor([True, True, False, False, True, False])
DISTANCES = torch.tensor([0.1, 0.4, 0.4, 0.9, 0.2, 0.3])


def means(z: Tensor, identity: Tensor, aux: Tensor) -> dict[int, dict[int, Tensor]]:
    """The mean of each identity with each label that is known, by loops."""
    found: dict[int, dict[int, list[Tensor]]] = {}
    for row, name, label in zip(z, identity.tolist(), aux.tolist(), strict=True):
        if label >= 0:
            found.setdefault(name, {}).setdefault(label, []).append(row)
    return {name: {a: sum(rows) / len(rows) for a, rows in cells.items()} for name, cells in found.items()}


def parallel(z, identity, aux, mode="vector", pairs="neutral", neutral=0):
    cells, terms = means(z, identity, aux), []
    for first, second in itertools.combinations(cells.values(), 2):
        for a, b in itertools.combinations(sorted({*first} & {*second}), 2):
            if pairs == "neutral" and neutral not in (a, b):
                continue
            d, e = first[a] - first[b], second[a] - second[b]
            if mode == "vector":
                terms.append((d - e).square().sum())
            elif mode == "length":
                terms.append((d.norm() - e.norm()) ** 2)
            else:
                terms.append(1 - d @ e / (d.norm() * e.norm()))
    return sum(terms) / len(terms)


def fixed(z, identity, aux, vectors, radius=0.3, neutral=0, mode="vector"):
    terms, others = [], [a for a in range(len(vectors) + 1) if a != neutral]
    for cells in means(z, identity, aux).values():
        for a, e in zip(others, vectors, strict=True):
            if a in cells and neutral in cells:
                d = cells[a] - cells[neutral]
                terms.append(
                    1 - d @ e / (d.norm() * e.norm()) if mode == "direction" else (d - radius * e).pow(2).sum()
                )
    return sum(terms) / len(terms)


def triplet(z, identity, margin=0.2, mining="semi_hard", distance="squared"):
    def far(a: int, b: int) -> float:
        d = (z[a] - z[b]).norm()
        if distance == "cosine":
            return float(1 - z[a] @ z[b] / (z[a].norm() * z[b].norm()))
        return float(d if distance == "euclidean" else d**2)

    names, terms = identity.tolist(), []
    for a, name in enumerate(names):
        positives = [far(a, p) for p, other in enumerate(names) if other == name and p != a]
        negatives = [far(a, n) for n, other in enumerate(names) if other != name]
        if mining == "hard" and positives and negatives:
            terms.append(max(0.0, max(positives) - min(negatives) + margin))
        for near in positives if negatives and mining != "hard" else ():
            chosen = negatives if mining == "all" else [min((n for n in negatives if n > near), default=max(negatives))]
            terms += [max(0.0, near - n + margin) for n in chosen]
    return sum(terms) / len(terms)


def exact_basis(loss: FixedBasisLoss) -> Tensor:
    return loss.vectors.detach().double()


def measuring(function, *names: str):
    """Make a metric whose keywords stand in for its inputs, too."""
    return lambda **given: lambda *inputs: function(**{**dict(zip(names, inputs, strict=False)), **given})


def summed(pdp: float = 0.7, fbv: float = 1.3, metric=None, parallel=None, fixed=None) -> AuxiliaryGeometryLoss:
    return AuxiliaryGeometryLoss(
        TripletLoss() if metric is None else metric,
        ParallelDifferenceLoss() if parallel is None else parallel,
        FixedBasisLoss(3, 5) if fixed is None else fixed,
        pdp=pdp,
        fbv=fbv,
    )


def triplet_alone():
    loss = TripletLoss()
    return lambda z, identity, aux: loss(z, identity)


def slow_sum(z, identity, aux):
    basis = exact_basis(FixedBasisLoss(3, 5))
    return triplet(z, identity) + 0.7 * parallel(z, identity, aux) + 1.3 * fixed(z, identity, aux, basis)


BAD_PAIRS = {
    "distances": (DISTANCES.long(), DISTANCES * math.nan, DISTANCES[None]),
    "same": (SAME[:3], SAME.long(), SAME | True, SAME & False),
}
CONTRACT = {
    "TripletLoss": LossSubject(
        make=TripletLoss,
        inputs=(Z, IDENTITY),
        slow=triplet,
        bad={
            "margin": (0.0, -1.0, math.nan, math.inf),
            "mining": ("random", ""),
            "distance": ("l2", ""),
        },
    ),
    "ParallelDifferenceLoss": LossSubject(
        make=ParallelDifferenceLoss,
        inputs=(Z, IDENTITY, AUX),
        slow=parallel,
        bad={"mode": ("parallel", ""), "pairs": ("some", ""), "neutral": (-1, 1.5, True)},
    ),
    "FixedBasisLoss": LossSubject(
        make=lambda aux_labels=3, dim=5, **given: FixedBasisLoss(aux_labels, dim, **given),
        inputs=(Z, IDENTITY, AUX),
        slow=lambda z, identity, aux: fixed(z, identity, aux, exact_basis(FixedBasisLoss(3, 5))),
        bad={
            "aux_labels": (1, 0, 2.5, True),
            "dim": (1, 0, 5.5),
            "radius": (0.0, -1.0, math.nan, math.inf),
            "basis": ("random", ""),
            "neutral": (-1, 3, 0.5, True),
            "mode": ("length", ""),
        },
    ),
    "AuxiliaryGeometryLoss": LossSubject(
        make=summed,
        inputs=(Z, IDENTITY, AUX),
        slow=slow_sum,
        bad={
            "pdp": (-0.1, math.nan, math.inf),
            "fbv": (-0.1, math.nan, math.inf),
            "metric": ("triplet", 3),
            "parallel": ("pdp",),
            "fixed": ("fbv",),
        },
        null=partial(summed, pdp=0.0, fbv=0.0),
        baseline=triplet_alone,
    ),
    "IdentityAuxSampler": FunctionSubject(
        make=lambda **given: [list(IdentityAuxSampler(**given)) for _ in range(2)],
        arguments={"identity": IDENTITY, "aux": AUX, "identities": 2, "per_cell": 1},
        bad={
            "identity": (IDENTITY.float(), IDENTITY[:0], IDENTITY[None]),
            "aux": (AUX.float(), AUX[:3]),
            "identities": (1, 0, 5, 2.5, True),
            "per_cell": (0, -1, 1.5, True),
        },
    ),
    "verification_pairs": FunctionSubject(
        make=verification_pairs,
        arguments={"z": Z, "identity": IDENTITY, "aux": AUX},
        bad={
            "z": (Z[0], Z[:1], Z.long(), Z * math.nan),
            "identity": (IDENTITY.float(), IDENTITY[:3]),
            "aux": (AUX.float(), AUX[:3]),
        },
    ),
    "verification_auc": MetricSubject(
        make=measuring(verification_auc, "distances", "same"),
        bad=BAD_PAIRS,
        inputs=(DISTANCES, SAME),
        known=(
            ((torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.tensor([True, True, False, False])), 0.875),
            ((torch.ones(5), SAME[:5]), 0.5),
            ((torch.tensor([1.0, 2.0]), torch.tensor([False, True])), 0.0),
        ),
        range=(0, 1),
        symmetries={
            "a monotone map": lambda distances, same: (distances.exp(), same),
            "another order": lambda distances, same: (distances.flip(0), same.flip(0)),
        },
    ),
    "equal_error_rate": MetricSubject(
        make=measuring(equal_error_rate, "distances", "same"),
        bad=BAD_PAIRS,
        inputs=(DISTANCES, SAME),
        known=(
            ((torch.arange(4.0), torch.tensor([True, True, False, False])), 0.0),
            ((torch.arange(4.0), torch.tensor([False, False, True, True])), 1.0),
            ((torch.ones(5), SAME[:5]), 0.5),
            # At 2 half of the same are rejected and a third of the others accepted; at 3 none and two thirds.
            ((torch.arange(5.0), torch.tensor([True, False, False, True, False])), 0.5),
        ),
        range=(0, 1),
        symmetries={
            "a monotone map": lambda distances, same: (distances.exp(), same),
            "both turned round": lambda distances, same: (-distances, ~same),
        },
    ),
    "one_shot_accuracy": MetricSubject(
        make=lambda ways=2, **given: measuring(one_shot_accuracy, "support", "query", "identity")(ways=ways, **given),
        bad={
            "support": (Z[0], Z[:5].long(), Z[:5] * math.inf),
            "query": (Z[5:10, :3], Z[5:10].float(), Z[5:10] * math.nan),
            "identity": (torch.arange(4), torch.arange(5.0), torch.arange(5) + 1, torch.arange(5) - 1),
            "ways": (1, 6, 2.5, True),
        },
        inputs=(Z[:5], Z[5:10], torch.arange(5)),
        known=(
            ((Z[:4], Z[:4], torch.arange(4)), 1.0),
            ((torch.zeros(6, 2), torch.zeros(3, 2), torch.tensor([0, 1, 5])), 0.5),
            ((torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.6]]), torch.tensor([0])), 0.5),
        ),
        range=(0, 1),
        symmetries={"all moved": lambda support, query, identity: (support + 3, query + 3, identity)},
    ),
    "geometry_report": ExperimentSubject(
        make=geometry_report,
        arguments={"z": Z[KNOWN], "identity": IDENTITY[KNOWN], "aux": AUX[KNOWN]},
        random=False,
        fields=(
            *("within", "between", "explained", "parallelism", "orthogonality", "effective_rank"),
            *("auc", "auc_same_aux", "auc_other_aux", "equal_error_rate", "picture"),
        ),
        known=(
            (
                {
                    "z": torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 9], [1, 0, 9], [0, 2, 9]]),
                    "identity": torch.tensor([0, 0, 0, 1, 1, 1]),
                    "aux": torch.tensor([0, 1, 2, 0, 1, 2]),
                },
                {"explained": 1.0, "parallelism": 1.0, "orthogonality": 1.0, "auc": 1.0, "equal_error_rate": 0.0}
                | {"between": 20.25, "within": 5 - 1 / 9 - 4 / 9 - 10 / 3 + 0.0},
            ),
        ),
        bad={
            "z": (Z[0], Z[:0], Z[KNOWN].long(), Z[KNOWN] * math.nan),
            "identity": (IDENTITY[:3], IDENTITY[KNOWN].float(), torch.arange(12), torch.zeros(12, dtype=torch.int64)),
            "aux": (AUX[:3], AUX[KNOWN].float(), AUX[KNOWN] - 1),
            "neutral": (-1, 1.5, True),
        },
    ),
}


def grid(identities: int, labels: int, copies: int = 1) -> tuple[Tensor, Tensor]:
    cells = torch.cartesian_prod(torch.arange(identities), torch.arange(labels)).repeat_interleave(copies, dim=0)
    return cells[:, 0], cells[:, 1]


@pytest.mark.parametrize("mining", ["semi_hard", "hard", "all"])
@pytest.mark.parametrize("distance", ["squared", "euclidean", "cosine"])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_triplets_by_a_loop(mining, distance, scale):
    z = (scale * Z[:12]).requires_grad_()
    loss = TripletLoss(0.3, mining, distance)
    identity = IDENTITY[:12]
    assert loss(z, identity).item() == pytest.approx(triplet(z.detach(), identity, 0.3, mining, distance), rel=1e-9)
    assert torch.autograd.gradcheck(lambda given: loss(given, identity), z)


def test_triplets_are_0_where_positives_coincide_and_negatives_are_far_or_there_are_none():
    z, identity = torch.tensor([[0.0], [0.0], [0.5], [0.5]], requires_grad=True), torch.tensor([0, 0, 1, 1])
    for mining, distance in itertools.product(("semi_hard", "hard", "all"), ("squared", "euclidean")):
        loss = TripletLoss(0.2, mining, distance)
        assert loss(z, identity).item() == 0
        for lonely in (torch.zeros(4, dtype=torch.int64), torch.arange(4)):
            value = loss(z, lonely)
            value.backward()
            assert value.item() == 0
            assert not z.grad.any()
    # 0.5 is 0.25 squared, which misses a margin of 0.3 by 0.05.
    assert TripletLoss(0.3)(z, identity).item() == pytest.approx(0.05)
    assert TripletLoss(0.3)(z[:1], identity[:1]).item() == 0


def test_far_from_the_origin_distances_keep_their_precision():
    z = Z.float()
    loss = TripletLoss()
    torch.testing.assert_close(loss(z + 1000, IDENTITY), loss(z, IDENTITY), rtol=1e-3, atol=0)


@pytest.mark.parametrize("mode", ["vector", "direction", "length"])
@pytest.mark.parametrize(("pairs", "neutral"), [("neutral", 0), ("neutral", 2), ("all", 0)])
def test_parallel_differences_by_a_loop(mode, pairs, neutral):
    z, loss = Z.clone().requires_grad_(), ParallelDifferenceLoss(mode, pairs, neutral)
    assert loss(z, IDENTITY, AUX).item() == pytest.approx(parallel(Z, IDENTITY, AUX, mode, pairs, neutral).item())
    assert torch.autograd.gradcheck(lambda given: loss(given, IDENTITY, AUX), z)
    # An own vector for each identity changes nothing; names and labels may be any numbers.
    moved = Z + normal(12, 5, seed=1)[IDENTITY + 2]
    named = (AUX * 10**12 + 3).masked_fill(neutral == AUX, neutral)
    for given in ((moved, IDENTITY, AUX), (Z, IDENTITY * 10**12, named.where(AUX >= 0, -5))):
        torch.testing.assert_close(loss(*given), loss(Z, IDENTITY, AUX))
    torch.testing.assert_close(loss(3 * Z, IDENTITY, AUX), loss(Z, IDENTITY, AUX) * (1 if mode == "direction" else 9))


def test_parallel_differences_are_0_on_an_additive_model_alone():
    identity, aux = grid(4, 3, copies=2)
    own, of_label = normal(4, 6, seed=1), normal(3, 6, seed=2)
    noise = normal(24, 6, seed=3).view(4, 3, 2, 6)
    z = own[identity] + of_label[aux] + (noise - noise.mean(dim=2, keepdim=True)).view(24, 6)
    bent = z.clone()
    bent[:2] += 0.1
    for mode, pairs in itertools.product(("vector", "direction", "length"), ("neutral", "all")):
        loss = ParallelDifferenceLoss(mode, pairs)
        assert loss(z, identity, aux).item() == pytest.approx(0, abs=1e-12)
        assert loss(bent, identity, aux).item() > 1e-4


@pytest.mark.parametrize("mode", ["vector", "direction", "length"])
def test_where_there_is_nothing_to_compare_the_loss_and_its_gradient_are_0(mode):
    one = torch.zeros(14, dtype=torch.int64)
    losses = [ParallelDifferenceLoss(mode), ParallelDifferenceLoss(mode, "all")]
    cases = [(loss, given) for loss in losses for given in ((one, AUX), (IDENTITY, one), (IDENTITY, one - 1))]
    if mode != "length":
        basis = FixedBasisLoss(3, 5, mode=mode)
        cases += [(basis, (IDENTITY, one)), (basis, (IDENTITY, one - 1)), (basis, (torch.arange(14), AUX))]
    for loss, given in cases:
        z = Z.clone().requires_grad_()
        value = loss(z, *given)
        value.backward()
        assert value.item() == 0
        assert not z.grad.any()


@pytest.mark.parametrize("mode", ["vector", "direction", "length"])
def test_differences_of_0_give_finite_gradients(mode):
    identity, aux = grid(3, 2)
    z = torch.zeros(6, 4, requires_grad=True)
    for loss in [ParallelDifferenceLoss(mode), *([] if mode == "length" else [FixedBasisLoss(2, 4, mode=mode)])]:
        loss(z, identity, aux).backward()
        assert z.grad.isfinite().all()
    # What has no direction is left out: the other two identities move at a right angle.
    if mode == "direction":
        z = torch.tensor([[0.0, 0], [0, 0], [0, 0], [2, 0], [0, 0], [0, 3]])
        assert ParallelDifferenceLoss(mode)(z, identity, aux).item() == pytest.approx(1)


@pytest.mark.parametrize("basis", ["orthogonal", "axes", "learned"])
@pytest.mark.parametrize("mode", ["vector", "direction"])
@pytest.mark.parametrize("neutral", [0, 1])
def test_fixed_bases_by_a_loop(basis, mode, neutral):
    loss = FixedBasisLoss(3, 5, 0.4, basis=basis, neutral=neutral, mode=mode)
    vectors = exact_basis(loss)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(2).double(), atol=1e-6, rtol=0)
    assert len(list(loss.parameters())) == (basis == "learned")
    z = Z.clone().requires_grad_()
    expected = fixed(Z, IDENTITY, AUX, vectors, 0.4, neutral, mode)
    assert loss(z, IDENTITY, AUX).item() == pytest.approx(expected.item())
    assert torch.autograd.gradcheck(lambda given: loss(given, IDENTITY, AUX), z)
    torch.testing.assert_close(FixedBasisLoss(3, 5, basis=basis).vectors, loss.vectors, rtol=0, atol=0)
    other = FixedBasisLoss(3, 5, basis=basis, generator=torch.Generator().manual_seed(1))
    assert torch.equal(other.vectors, loss.vectors) is (basis == "axes")


def test_an_exact_basis_gives_0_and_implies_parallel_differences():
    loss = FixedBasisLoss(4, 7, 0.5).double()
    identity, aux = grid(5, 4)
    z = normal(5, 7)[identity] + 0.5 * torch.cat([torch.zeros(1, 7), loss.vectors])[aux]
    assert loss(z, identity, aux).item() == pytest.approx(0, abs=1e-12)
    assert ParallelDifferenceLoss(pairs="all")(z, identity, aux).item() == pytest.approx(0, abs=1e-12)
    # Parallel differences alone leave the directions free.
    turned = z @ torch.linalg.qr(normal(7, 7, seed=1)).Q
    assert ParallelDifferenceLoss()(turned, identity, aux).item() == pytest.approx(0, abs=1e-12)
    assert loss(turned, identity, aux).item() > 0.1
    # Without the basis only identities are left.
    left = loss.removed(z)
    torch.testing.assert_close(left, left[aux == 0][identity])
    torch.testing.assert_close(loss.removed(left), left)
    assert torch.linalg.matrix_rank(loss.removed(normal(20, 7))) == 4


def test_embeddings_that_are_free_to_move_become_parallel_and_stay_apart():
    identity, aux = grid(6, 3, copies=2)
    z = normal(36, 8, seed=4).requires_grad_()
    loss = AuxiliaryGeometryLoss(TripletLoss(), ParallelDifferenceLoss(), FixedBasisLoss(3, 8).double())
    for _ in range(200):
        (gradient,) = torch.autograd.grad(loss(z, identity, aux), z)
        z = (z - 2 * gradient).detach().requires_grad_()
    parts, report = loss.parts(z, identity, aux), geometry_report(z, identity, aux)
    assert parts.pdp.item() < 1e-3
    assert parts.fbv.item() < 1e-3
    assert parts.metric.item() < 1e-3
    assert report.parallelism > 0.99
    assert report.orthogonality > 0.98
    assert report.auc > 0.99


def test_the_sum_is_that_of_its_parts_and_leaves_out_what_weighs_nothing():
    def never(*_: Tensor) -> Tensor:
        raise AssertionError("a loss of weight 0 was computed")

    parts = summed().parts(Z, IDENTITY, AUX)
    torch.testing.assert_close(summed()(Z, IDENTITY, AUX), parts.metric + 0.7 * parts.pdp + 1.3 * parts.fbv)
    alone = summed(pdp=0.0, fbv=0.0, parallel=never, fixed=never)
    assert torch.equal(alone(Z, IDENTITY, AUX), parts.metric)
    assert alone.parts(Z, IDENTITY, AUX)[1:] == (0, 0)
    other = summed(pdp=0.0, fbv=0.0, metric=lambda z, identity: (z * identity[:, None]).sum())
    torch.testing.assert_close(other(Z, IDENTITY, AUX), (Z * IDENTITY[:, None]).sum())


def test_losses_are_copied_saved_and_loaded_and_move_with_a_model():
    draw = torch.Generator().manual_seed(3)
    loss = summed(fixed=FixedBasisLoss(3, 5, basis="learned", generator=draw))
    value = loss(Z.float(), IDENTITY, AUX)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(summed()))):
        twin.load_state_dict(loss.state_dict(), strict=False)
        assert isinstance(twin, AuxiliaryGeometryLoss)
    fresh = summed(fixed=FixedBasisLoss(3, 5, basis="learned"))
    assert not torch.equal(fresh(Z.float(), IDENTITY, AUX), value)
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh(Z.float(), IDENTITY, AUX), value)
    assert fresh.double().fixed.vectors.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_the_loss_is_that_of_float32_rounded(dtype):
    z = Z.to(dtype)
    for loss in (TripletLoss(), ParallelDifferenceLoss(), FixedBasisLoss(3, 5)):
        given = (IDENTITY,) if isinstance(loss, TripletLoss) else (IDENTITY, AUX)
        assert torch.equal(loss(z, *given), loss(z.float(), *given).to(dtype))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((Z[0], IDENTITY, AUX), r"z must be floating, of shape \(N, d\)"),
        ((Z[:0], IDENTITY, AUX), r"z must be floating, of shape \(N, d\) without a 0"),
        ((Z.long(), IDENTITY, AUX), r"z must be floating"),
        ((Z, IDENTITY[:3], AUX), r"identity must be int64 of shape \(14,\)"),
        ((Z, IDENTITY.float(), AUX), r"identity must be int64"),
        ((Z, IDENTITY, AUX[:3]), r"aux must be int64 of shape \(14,\)"),
        ((Z, IDENTITY, AUX.bool()), r"aux must be int64"),
    ],
)
def test_bad_batches_are_refused(given, message):
    for loss in (ParallelDifferenceLoss(), FixedBasisLoss(3, 5), summed()):
        with pytest.raises(ValueError, match=message):
            loss(*given)
    if "aux" not in message:
        with pytest.raises(ValueError, match=message):
            TripletLoss()(*given[:2])


def test_bases_refuse_embeddings_and_labels_that_they_were_not_made_for():
    with pytest.raises(ValueError, match=r"z must have shape \(N, 6\)"):
        FixedBasisLoss(3, 6)(Z, IDENTITY, AUX)
    with pytest.raises(ValueError, match="aux must be below aux_labels=2, got 2"):
        FixedBasisLoss(2, 5)(Z, IDENTITY, AUX)


def test_batches_hold_each_identity_with_each_of_its_labels():
    identity, aux = grid(7, 3, copies=4)
    identity, aux = identity * 5, aux - 1
    sampler = IdentityAuxSampler(identity, aux, identities=3, per_cell=2, generator=torch.Generator().manual_seed(1))
    epochs = [list(sampler) for _ in range(2)]
    assert len(sampler) == 2
    for epoch in epochs:
        assert len(epoch) == 2
        seen = [name for batch in epoch for name in identity[batch].unique().tolist()]
        assert len(seen) == len(set(seen)) == 6
        for batch in epoch:
            assert len(set(batch)) == 18
            cells = Counter(zip(identity[batch].tolist(), aux[batch].tolist(), strict=True))
            assert set(cells.values()) == {2}
    assert epochs[0] != epochs[1]
    assert epochs == [
        list(copied)
        for copied in [
            IdentityAuxSampler(identity, aux, identities=3, per_cell=2, generator=torch.Generator().manual_seed(1))
        ]
        for _ in range(2)
    ]
    seen = {index for _ in range(60) for batch in sampler for index in batch}
    assert seen == set(range(len(identity)))
    loader = DataLoader(TensorDataset(identity, aux), batch_sampler=sampler)
    assert [len(names) for names, _ in loader] == [18, 18]
    few = list(IdentityAuxSampler(IDENTITY, AUX, identities=4, per_cell=9))
    assert [sorted(batch) for batch in few] == [list(range(14))]


def test_pairs_and_areas_by_counting():
    pairs = verification_pairs(Z, IDENTITY, AUX)
    expected = [(a, b) for a in range(14) for b in range(a + 1, 14)]
    torch.testing.assert_close(pairs.distances, torch.stack([(Z[a] - Z[b]).norm() for a, b in expected]))
    assert pairs.same.tolist() == [bool(IDENTITY[a] == IDENTITY[b]) for a, b in expected]
    assert pairs.same_aux.tolist() == [bool(AUX[a] == AUX[b]) for a, b in expected]
    assert verification_pairs(Z, IDENTITY).same_aux.all()
    coarse = (2 * pairs.distances).round()
    near, far = coarse[pairs.same].tolist(), coarse[~pairs.same].tolist()
    wins = sum((n < f) + (n == f) / 2 for n in near for f in far)
    assert verification_auc(coarse, pairs.same) == pytest.approx(wins / len(near) / len(far))


def test_the_equal_error_rate_lies_between_thresholds():
    same = torch.arange(200) % 3 == 0
    distances = normal(200, seed=5) + (~same) * 1.2
    rate = equal_error_rate(distances, same)
    gaps = []
    for threshold in distances.tolist():
        accepted = (distances[~same] <= threshold).double().mean().item()
        rejected = (distances[same] > threshold).double().mean().item()
        gaps.append((abs(accepted - rejected), min(accepted, rejected), max(accepted, rejected)))
    _, low, high = min(gaps)
    assert low - 1e-9 <= rate <= high + 1e-9
    # By hand: accepted (0, 0, 1/2, 1) and rejected (1, 2/3, 1/3, 0) meet where 2/3 - 1/3 s = 1/2 s, at s = 4/5.
    assert equal_error_rate(
        torch.tensor([1.0, 2.0, 2.0, 3.0, 3.0]), torch.tensor([True, True, False, True, False])
    ) == pytest.approx(0.4)


@pytest.mark.parametrize("ways", [2, 3, 6])
def test_one_shot_accuracy_is_the_mean_over_all_episodes(ways):
    support, query, identity = normal(6, 2).round(), normal(9, 2, seed=1).round(), torch.arange(9) % 6
    total = count = 0.0
    for row, own in zip(query, identity.tolist(), strict=True):
        distances = (support - row).norm(dim=1).tolist()
        for others in itertools.combinations([i for i in range(6) if i != own], ways - 1):
            best = min(distances[i] for i in (own, *others))
            nearest = [i for i in (own, *others) if distances[i] == best]
            total += (own in nearest) / len(nearest)
            count += 1
    assert one_shot_accuracy(support, query, identity, ways) == pytest.approx(total / count)
    assert one_shot_accuracy(torch.zeros(50, 3), torch.zeros(4, 3), torch.arange(4), 20) == pytest.approx(1 / 20)


def test_a_report_by_loops():
    z, identity, aux = Z[KNOWN], IDENTITY[KNOWN], AUX[KNOWN]
    report = geometry_report(z, identity, aux)
    own = {name: z[identity == name].mean(dim=0) for name in identity.unique().tolist()}
    middle = torch.stack([own[name] for name in identity.tolist()])
    assert report.within == pytest.approx((z - middle).pow(2).sum(dim=1).mean().item())
    assert report.within + report.between == pytest.approx((z - z.mean(dim=0)).pow(2).sum(dim=1).mean().item())
    cells, cosines, sums = means(z, identity, aux), [], {}
    for a in (1, 2):
        moved = [c[a] - c[0] for c in cells.values() if a in c and 0 in c]
        cosines += [d @ e / d.norm() / e.norm() for d, e in itertools.combinations(moved, 2)]
        sums[a] = sum(moved)
    assert report.parallelism == pytest.approx((sum(cosines) / len(cosines)).item())
    assert report.orthogonality == pytest.approx(1 - abs(sums[1] @ sums[2] / sums[1].norm() / sums[2].norm()).item())
    # Least squares with a column for each identity and each label but one.
    columns = [identity == name for name in own] + [aux == a for a in (1, 2)]
    design = torch.stack(columns, dim=1).double()
    left = (z - design @ torch.linalg.lstsq(design, z).solution).pow(2).sum() / (z - middle).pow(2).sum()
    assert report.explained == pytest.approx(1 - left.item())
    pairs = verification_pairs(z, identity, aux)
    for value, chosen in ((report.auc_same_aux, pairs.same_aux), (report.auc_other_aux, ~pairs.same_aux)):
        assert value == verification_auc(pairs.distances[chosen], pairs.same[chosen])
    assert report.auc == verification_auc(pairs.distances, pairs.same)
    assert report.equal_error_rate == equal_error_rate(pairs.distances, pairs.same)


def test_what_cannot_be_compared_is_not_a_number():
    identity, aux = torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.int64)
    report = geometry_report(Z[:4], identity, aux)
    assert math.isnan(report.parallelism)
    assert math.isnan(report.orthogonality)
    assert math.isnan(report.auc_other_aux)
    assert report.explained == 0
    assert math.isnan(geometry_report(Z[:4], identity, torch.tensor([0, 1, 0, 1]), neutral=5).parallelism)


def test_the_effective_rank_of_known_spectra():
    circle = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]).double()
    assert effective_rank(circle) == pytest.approx(2)
    assert effective_rank(circle + 5) == pytest.approx(2)
    assert effective_rank(circle * torch.tensor([1.0, 0, 0])) == pytest.approx(1)
    # Shares of the singular values 3 : 1.
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(circle * torch.tensor([3.0, 1, 0])) == pytest.approx(expected)


def test_the_picture_has_a_mark_for_each_embedding_and_a_line_for_each_difference():
    identity, aux = grid(10, 3, copies=2)
    z = normal(60, 5) + 4 * normal(10, 5, seed=1)[identity]
    root = ElementTree.fromstring(geometry_report(z, identity, aux).picture)
    space = "{http://www.w3.org/2000/svg}"
    marks = [mark for mark in root.iter(f"{space}path") if mark.get("class") != "key"]
    assert len(marks) == 8 * 3 * 2
    assert len({mark.get("d") for mark in marks}) == 3
    assert len({mark.get("class") for mark in marks}) == 8
    assert len(list(root.iter(f"{space}line"))) == 8 * 2
    spots = [[float(n) for n in mark.get("transform")[10:-1].split(",")] for mark in marks]
    assert all(0 <= n <= 420 for spot in spots for n in spot)
    # One dimension, and all in one point, are drawn, too.
    for flat in (z[:, :1], torch.zeros_like(z)):
        flat = flat.clone()
        flat[0] += 1e-3
        assert ElementTree.fromstring(geometry_report(flat, identity, aux).picture) is not None

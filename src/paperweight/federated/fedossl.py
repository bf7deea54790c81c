"""FedoSSL (federated open-world semi-supervised learning): clients find classes that nobody has labelled, by averaging.

Some classes have no labels anywhere; of these some live on many clients (locally unseen) and some on one (globally
unseen), and averaging the clients' models favours the former. Each client trains by ORCA's objective with two more
terms: a loss that makes predictions surer, the less so the rarer a class is predicted over all clients, and a
calibration that assigns both views of a sample alike to centroids that the clients share. Cost: two views a sample; a
round, beside it, one pass without gradients and the clustering of every client's features.

Source:
    J. Zhang, X. Ma, S. Guo, W. Xu, "Towards Unbiased Training in Federated Open-world Semi-supervised Learning", ICML
    2023, https://arxiv.org/abs/2305.00771; its base is K. Cao, M. Brbić, J. Leskovec, "Open-World Semi-Supervised
    Learning", ICLR 2022, https://arxiv.org/abs/2102.03526, with the authors' code, https://github.com/snap-stanford/orca
    (MIT). Implemented: ORCA's margin, pairs and entropy, the suppressed loss, the calibration, FedAvg, the accuracies.

Deviations:
    - The authors published code of FedoSSL without a licence, which was not read: what ORCA's does not settle is chosen
      here. Chosen: the weight 1 of the suppressed loss; the class counts, which are the predictions on all unlabelled
      samples at the beginning of a round; clustering by 10 steps of balanced k-means from points far apart, of clients'
      features and of their centroids alike; the first view's assignment as a fixed target of the second's.
    - Clients cluster features of the global model at the beginning of a round and use the shared centroids in it, which
      takes one more exchange of a few vectors; sent with the weights, they would be of other models.
    - Left out: a cross-entropy on confident pseudo-labels late in training, of which no schedule is known.
    - Local training is plain SGD by the simulator that this library has, and batches mix labelled and unlabelled
      samples as they come. Both views pass through the network together.
    - A sample is no nearest neighbour of itself, and one whose label is alone in its batch pairs with its other view.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.federated._open_world import open_world_accuracy
from paperweight.federated.pfl_simulator import FederatedSimulator

__all__ = ["FedoSSL", "open_world_accuracy"]

PAPER = Paper(
    title="Towards Unbiased Training in Federated Open-world Semi-supervised Learning",
    authors=("Jie Zhang", "Xiaosong Ma", "Song Guo", "Wenchao Xu"),
    year=2023,
    url="https://arxiv.org/abs/2305.00771",
    provides={"FedoSSL": "training-procedure", "open_world_accuracy": "function"},
    null={"gamma": 0.0, "lam": 0.0},
    claim="FedoSSL beats FedAvg of ORCA, most on unseen classes, and treats those of many clients and of one alike.",
    builds_on=("pfl_simulator",),
)


def uncertainty_margin_ce(logits: Tensor, labels: Tensor, margin: float, scale: float = 10.0) -> Tensor:
    """Compute ORCA's cross-entropy, whose true logits are raised by ``scale * margin``, so that seen classes wait."""
    return F.cross_entropy(logits + scale * margin * F.one_hot(labels, logits.shape[1]), labels)


def positive_partners(features: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Choose a partner, (N,), of each sample: any other of its label, or the nearest by cosine where it has none (-1).

    A sample without another to choose is its own partner.
    """
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    points = F.normalize(features.detach())
    nearest = (points @ points.T).masked_fill(own, -math.inf).argmax(1)
    same = (labels[:, None] == labels) & ~own
    drawn = torch.rand(same.shape, generator=generator, device=generator.device).to(labels.device)
    mate = torch.where(same.any(1), drawn.masked_fill(~same, -1.0).argmax(1), torch.arange(len(labels)).to(labels))
    return torch.where(labels < 0, nearest, mate)


def pairwise_bce(prob: Tensor, prob2: Tensor, partners: Tensor, eps: float = 1e-12) -> Tensor:
    """Compute the mean of -log <p_i, p2_j>, j the partner of i, from the predictions on both views, (N, C)."""
    return -(prob * prob2[partners]).sum(1).clamp_min(eps).log().mean()


def prediction_entropy(prob: Tensor, eps: float = 1e-8) -> Tensor:
    """Compute the entropy of the mean prediction of a batch, (N, C), which is kept high."""
    mean = prob.mean(0)
    return -(mean * mean.clamp_min(eps).log()).sum()


def class_weight(counts: Tensor, beta: float = 0.2) -> Tensor:
    """Compute w_k = beta^(1 - N_k / N_max) from the counts of the classes, (C,): 1 for the largest."""
    return beta ** (1 - counts / counts.max().clamp_min(1))


def suppressed_loss(prob: Tensor, weights: Tensor) -> Tensor:
    """Compute the mean L1 distance of predictions, (N, C), from their own one-hot copies, weighted by their class."""
    predicted = prob.argmax(1)
    return (weights[predicted] * (prob - F.one_hot(predicted, prob.shape[1])).abs().sum(1)).mean()


def sinkhorn_assign(scores: Tensor, eps: float = 0.05, steps: int = 3) -> Tensor:
    """Compute soft assignments, (N, K), from scores: rows sum to 1, and columns to N / K, the better the more steps."""
    log = scores / eps
    for _ in range(steps):
        log = log.log_softmax(0).log_softmax(1)
    return log.exp()


def sinkhorn_centroids(features: Tensor, number: int, steps: int = 10) -> Tensor:
    """Cluster the directions of features, (N, D), into equally large clusters; centroids, (K, D), of length 1."""
    points = F.normalize(features)
    centroids = points[(points @ points.mean(0)).argmin()][None]
    while len(centroids) < min(number, len(points)):
        farthest = (points @ centroids.T).amax(1).argmin()
        centroids = torch.cat([centroids, points[farthest][None]])
    for _ in range(steps):
        centroids = F.normalize(sinkhorn_assign(points @ centroids.T).T @ points)
    return centroids


def calibration_loss(features: Tensor, features2: Tensor, centroids: Tensor, temperature: float = 0.1) -> Tensor:
    """Compute the cross-entropy of the second views' soft assignments to centroids from those of the first."""
    first, second = (F.normalize(each) @ centroids.T / temperature for each in (features, features2))
    return F.cross_entropy(second, first.detach().softmax(1))


class _Views(nn.Module):
    """The model on two random views of a batch: logits, (2 N, C), and features, (2 N, D)."""

    def __init__(self, model: Any, view: Callable[[Tensor, torch.Generator], Tensor], draw: torch.Generator) -> None:
        super().__init__()
        self.body, self.head, self.view, self.draw = model.body, model.head, view, draw

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(torch.cat([self.view(inputs, self.draw), self.view(inputs, self.draw)]))
        return self.head(features), features


@final
class FedoSSL:
    """Trains a classifier in place over clients whose unlabelled samples hold classes that no client has labelled.

    A call of `step` is a round of FedAvg. One resident model is trained on each client of the round in turn, by
    L_sup + L_pair - H + gamma L_unc + lam L_cal; with both weights at 0 that is FedAvg of ORCA.

    Args:
        model: What is trained, with modules ``body``, from inputs to features (N, D), and ``head``, from them to logits
            of all classes, the unseen ones among them. ORCA's head gives 10 times the cosines.
        clients: For each client the inputs, (N, ...), and labels, int64, (N,), -1 for an unlabelled sample; N at
            least 1; on the model's device.
        view: Draws one random view of every input of a batch.
        gamma: Weight of the suppressed loss, at least 0.
        lam: Weight of the calibration, at least 0; the paper's is 0.5.
        beta: Weight in the suppressed loss of a class that is never predicted, in (0, 1]; the paper's is 0.2.
        warmup: Rounds without the calibration, at least 0.
        centroids: Number of centroids of a client and of those that all share; as many as classes by default.
        temperature: Of the assignments to centroids, above 0; the paper's is 0.1.
        scale: What a logit gains per unit of the margin, at least 0; ORCA's is 10.
        cohort_size: Clients a round; all by default.
        local_epochs: Passes over a client's data, at least 1.
        local_lr: Learning rate of a client, above 0.
        batch_size: Samples a local batch, at least 1.
        generator: Source of cohorts, shuffles, views and pairs.

    Raises:
        ValueError: If an argument is outside its range, or the model has no body and head.

    Attributes:
        rounds: Number of rounds taken.

    Example:
        >>> model = nn.Module()
        >>> model.body, model.head = nn.Linear(4, 8), nn.Linear(8, 3)
        >>> clients = [(torch.rand(6, 4), torch.tensor([0, 0, 1, -1, -1, -1])) for _ in range(3)]
        >>> draw = torch.Generator().manual_seed(0)
        >>> training = FedoSSL(model, clients, view=lambda inputs, generator: inputs, generator=draw)
        >>> training.step()
        >>> training.rounds, training.samples
        (1, 36)
    """

    def __init__(
        self,
        model: nn.Module,
        clients: Sequence[tuple[Tensor, Tensor]],
        view: Callable[[Tensor, torch.Generator], Tensor],
        gamma: float = 1.0,
        lam: float = 0.5,
        beta: float = 0.2,
        warmup: int = 5,
        centroids: int | None = None,
        temperature: float = 0.1,
        scale: float = 10.0,
        cohort_size: int | None = None,
        local_epochs: int = 1,
        local_lr: float = 0.1,
        batch_size: int = 64,
        *,
        generator: torch.Generator,
    ) -> None:
        if not all(isinstance(getattr(model, part, None), nn.Module) for part in ("body", "head")):
            raise ValueError(f"model must have modules body and head, as nets.MLP has, got {type(model).__name__}")
        for name, value in (("gamma", gamma), ("lam", lam), ("scale", scale)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        if not 0 < beta <= 1 or not 0 < temperature < math.inf:
            raise ValueError(f"beta must be in (0, 1] and temperature above 0, got {beta} and {temperature}")
        for name, value, least in (("warmup", warmup, 0), ("centroids", 1 if centroids is None else centroids, 1)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
        self.model, self.clients = model, clients
        self.gamma, self.lam, self.beta = gamma, lam, beta
        self.warmup, self.centroids, self.temperature, self.scale = warmup, centroids, temperature, scale
        self.view, self.cohort_size, self.generator = view, cohort_size, generator
        self.local_epochs, self.local_lr, self.batch_size = local_epochs, local_lr, batch_size
        self.rounds = 0
        self._draw = torch.Generator(generator.device)
        self._views = _Views(model, view, self._draw)
        self._simulator = FederatedSimulator(
            self._views,
            torch.optim.SGD(self._views.parameters(), lr=1.0),
            clients,
            cohort_size=len(clients) if cohort_size is None else cohort_size,
            local_epochs=local_epochs,
            local_lr=local_lr,
            batch_size=batch_size,
            loss=self._loss,
            generator=generator,
        )
        self._margin, self._weights = 0.0, torch.ones(1)
        self._shared: Tensor | None = None

    @property
    def samples(self) -> int:
        """Number of samples whose gradients were evaluated, each view of a sample counting."""
        return 2 * self._simulator.samples

    @property
    def _calibrating(self) -> bool:
        return self.lam > 0 and self.rounds >= self.warmup

    def step(self) -> None:
        """Train for one round."""
        cohort = self._simulator.cohort()
        margins, counts, told = zip(*(self._look(*self.clients[user]) for user, _ in cohort), strict=True)
        self._weights = class_weight(torch.stack(counts).sum(0), self.beta)
        number = self.centroids or len(counts[0])
        self._shared = sinkhorn_centroids(torch.cat(told), number) if self._calibrating else None
        sums: list[Tensor] = []
        for (user, seed), margin in zip(cohort, margins, strict=True):
            self._margin = margin
            self._draw.manual_seed(seed + 1)
            part = self._simulator.gather([(user, seed)])
            sums = [a + b for a, b in zip(sums, part, strict=True)] if sums else part
        self._simulator.update(sums)
        self.rounds += 1

    @torch.no_grad()
    def _look(self, inputs: Tensor, labels: Tensor) -> tuple[float, Tensor, Tensor]:
        """Give a client's margin, its counts of predicted classes, (C,), and the centroids of its features."""
        features = self._views.eval().body(inputs)
        prob = self._views.head(features).softmax(1)
        if labels.min() < -1 or labels.max() >= prob.shape[1]:
            raise ValueError(
                f"labels of clients must be -1 or a class from 0 to {prob.shape[1] - 1}, as the head has, got "
                f"{int(labels.min())} to {int(labels.max())}"
            )
        sure, predicted = prob[labels < 0].max(1)
        counts = torch.bincount(predicted, minlength=prob.shape[1]).to(prob)
        margin = min(1 - float(sure.mean()), 0.5) if len(sure) else 0.0
        own = self.centroids or prob.shape[1]
        return margin, counts, sinkhorn_centroids(features, own) if self._calibrating else features[:0]

    def _loss(self, outputs: Any, labels: Tensor) -> Tensor:
        """Compute the objective of a batch from the logits and features of both views."""
        (logits, logits2), (features, features2) = (each.chunk(2) for each in outputs)
        prob, known = logits.softmax(1), labels >= 0
        partners = positive_partners(features, labels, self._draw)
        loss = pairwise_bce(prob, logits2.softmax(1), partners) - prediction_entropy(prob)
        if known.any():
            loss = loss + uncertainty_margin_ce(logits[known], labels[known], self._margin, self.scale)
        if self.gamma and not known.all():
            loss = loss + self.gamma * suppressed_loss(prob[~known], self._weights)
        if self._shared is not None:
            loss = loss + self.lam * calibration_loss(features, features2, self._shared, self.temperature)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights, the generator's state among it."""
        return {"simulator": self._simulator.state_dict(), "rounds": self.rounds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._simulator.load_state_dict(state_dict["simulator"])
        self.rounds = state_dict["rounds"]

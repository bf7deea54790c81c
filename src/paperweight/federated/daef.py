"""DAEF (deep autoencoder for federated learning): an autoencoder trained layer by layer in closed form.

The encoder is a singular value decomposition, every later layer a regularised regression (ROLANN). What a client tells
of its data for a layer is a sum over its samples or factors of one, so that the merged layer is the one that all data
in one place would give, and no sample leaves its client. Cost: no gradients; for each layer one exchange and, a client,
one singular value decomposition for each target of the layer, of a matrix of layer width times samples.

Source:
    D. Novoa-Paradela, O. Fontenla-Romero, B. Guijarro-Berdiñas, "Fast Deep Autoencoder for Federated learning", 2022,
    https://arxiv.org/abs/2206.05136. The regression is that of O. Fontenla-Romero, B. Guijarro-Berdiñas, B.
    Pérez-Sánchez, "Regularized One-Layer Neural Networks for Distributed and Incremental Environments", IWANN 2021,
    https://doi.org/10.1007/978-3-030-85099-9_28. Implemented: the distributed singular value decomposition, ROLANN with
    its merging, the decoder by random auxiliary networks, the score of an anomaly and its threshold.

Deviations:
    - Samples are rows, as everywhere in this library. Singular vectors have their largest entry positive, so that the
      layers above do not depend on the order of the clients.
    - All clients get a merged layer before they begin with the next, one exchange a layer: without that the layers
      above the encoder are regressions on other inputs for each client, and merging them is not exact.
    - Chosen here, since no code of the authors was found: auxiliary networks have orthogonal weights and standard
      normal biases, which become those of the layer; the regressions that give hidden layers have no bias of their own,
      which the transpose would lose; the last layer is linear, its bias penalised as its weights; the encoder's is 0.
    - A sample's weight is f'(f^-1(d)), as in the equations; a public ROLANN of one of the authors puts f^-1(d) where
      the formula of f' wants f of it. Targets are kept a rounding error away from the ends of f's range.
    - New data change the last layer only, exactly; to change those below, train anew.
"""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.federated._rolann import (
    Statistics,
    check_lam,
    rolann_merge,
    rolann_solve,
    rolann_statistics,
    scaled_vectors,
)

__all__ = [
    "DAEF",
    "anomaly_scores",
    "anomaly_threshold",
    "distributed_svd",
    "rolann_merge",
    "rolann_solve",
    "rolann_statistics",
]

PAPER = Paper(
    title="Fast Deep Autoencoder for Federated learning",
    authors=("David Novoa-Paradela", "Oscar Fontenla-Romero", "Bertha Guijarro-Berdiñas"),
    year=2022,
    url="https://arxiv.org/abs/2206.05136",
    provides={"DAEF": "training-procedure", "rolann_solve": "function", "rolann_statistics": "function"},
    claim="An autoencoder trained in closed form, over clients, finds anomalies as well as one trained by gradients.",
)


_ACTIVATIONS: dict[type[nn.Module], str] = {nn.Sigmoid: "logistic", nn.Tanh: "tanh"}


def distributed_svd(parts: Sequence[Tensor], rank: int) -> Tensor:
    """Compute the first left singular vectors, (D, rank), of all data from the U S, (D, R), of each client's."""
    vectors = torch.linalg.svd(torch.cat([*parts], dim=1), full_matrices=False)[0][:, :rank]
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)


@torch.no_grad()
def anomaly_scores(model: nn.Module, inputs: Tensor) -> Tensor:
    """Compute the mean squared error, (N,), with which an autoencoder reconstructs each sample, (N, D)."""
    return (model(inputs) - inputs).square().mean(dim=1)


def anomaly_threshold(scores: Tensor, spread: float = 3.0) -> float:
    """Compute where extreme outliers of normal data's scores, (N,), begin: 3 interquartile ranges above the upper."""
    lower, upper = torch.quantile(scores.double(), scores.new_tensor([0.25, 0.75], dtype=torch.float64)).tolist()
    return upper + spread * (upper - lower)


@final
class DAEF:
    """Trains an autoencoder in place, one layer a round, from what clients tell of their data.

    A call of `step` with the data of all clients trains the next layer. Where clients are apart, each calls
    `statistics` with its copy of the model, and every copy takes the parts of all by `merge`; the copies are made with
    generators of the same seed. Once every layer is trained, further rounds add new clients to the last one.

    Args:
        model: The autoencoder: `nn.Sequential` of `nn.Linear` with biases and `nn.Sigmoid`, or `nn.Tanh`, between
            them. The paper has a narrow first layer and wider ones after it.
        lam_hidden: Weight of the penalty of hidden layers, above 0; the paper chooses it for each data set.
        lam_last: Weight of the penalty of the last layer, above 0; likewise.
        generator: Source of the auxiliary networks, which all clients share.

    Raises:
        ValueError: If a penalty is not above 0 or the model is not such a sequence.

    Attributes:
        layer: Number of layers that are trained, 0 at first.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 2), nn.Sigmoid(), nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 4))
        >>> training = DAEF(model, generator=torch.Generator().manual_seed(0))
        >>> clients = torch.rand(30, 4).split(10)
        >>> for _ in range(3):
        ...     training.step(*clients)
        >>> training.layer, anomaly_scores(model, clients[0]).shape
        (3, torch.Size([10]))
    """

    def __init__(
        self, model: nn.Sequential, lam_hidden: float = 0.1, lam_last: float = 0.1, *, generator: torch.Generator
    ) -> None:
        check_lam("lam_hidden", lam_hidden)
        check_lam("lam_last", lam_last)
        self.model, self.generator = model, generator
        self.lam_hidden, self.lam_last = lam_hidden, lam_last
        self.layers, self.activation = _parts(model)
        self.layer = 0
        self._last: Statistics | None = None
        self._auxiliary = [_drawn(layer, generator) for layer in self.layers[1:-1]]

    def step(self, *clients: Tensor) -> None:
        """Train the next layer on the data of all clients; once all are trained, add new clients to the last layer.

        Args:
            clients: The samples of each client, (N, D), N at least 1, not the same for all; at least one client.
        """
        self.merge([self.statistics(client) for client in clients])

    @torch.no_grad()
    def statistics(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute what a client tells of its samples for the next layer, all that leaves it.

        Args:
            inputs: The samples of the client, (N, D), N at least 1.

        Returns:
            U S, (D, R), for the first layer; what `rolann_statistics` gives for a later one.
        """
        number = min(self.layer, len(self.layers) - 1)
        if number == 0:
            return (scaled_vectors(inputs.T),)
        hidden = self.model[: 2 * number](inputs)
        if number == len(self.layers) - 1:
            return rolann_statistics(torch.cat([hidden.new_ones(len(hidden), 1), hidden], dim=1), inputs, "linear")
        weight, bias = self._auxiliary[number - 1]
        mapped = self.model[2 * number + 1](hidden @ weight.T + bias)
        return rolann_statistics(mapped, hidden, self.activation)

    @torch.no_grad()
    def merge(self, parts: Sequence[tuple[Tensor, ...]]) -> None:
        """Train the next layer from what `statistics` gave the clients.

        Args:
            parts: The statistics of each client; at least one.

        Raises:
            ValueError: If there is no part, or the first layer is wider than the data allow.
        """
        if not parts:
            raise ValueError("parts must hold at least one, got none; a round needs a client")
        number = min(self.layer, len(self.layers) - 1)
        layer = self.layers[number]
        if number == 0:
            most = min(layer.in_features, sum(part[0].shape[1] for part in parts))
            if layer.out_features > most:
                raise ValueError(
                    f"the first layer must have at most {most} outputs, by the number of features and samples, got "
                    f"{layer.out_features}; narrow it or give more samples"
                )
            layer.weight.copy_(distributed_svd([part[0] for part in parts], layer.out_features).T)
            layer.bias.zero_()
        elif number < len(self.layers) - 1:
            merged = rolann_merge([(part[0], part[1]) for part in parts])
            layer.weight.copy_(rolann_solve(merged, self.lam_hidden).T)
            layer.bias.copy_(self._auxiliary[number - 1][1])
        else:
            known = [] if self._last is None else [self._last]
            self._last = rolann_merge([*known, *((part[0], part[1]) for part in parts)])
            solved = rolann_solve(self._last, self.lam_last)
            layer.weight.copy_(solved[:, 1:])
            layer.bias.copy_(solved[:, 0])
        self.layer = number + 1

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights."""
        return {"layer": self.layer, "auxiliary": list(self._auxiliary), "last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.layer = state_dict["layer"]
        self._auxiliary = list(state_dict["auxiliary"])
        self._last = state_dict["last"]


def _drawn(layer: nn.Linear, generator: torch.Generator) -> Statistics:
    weight = torch.empty(layer.weight.shape, dtype=layer.weight.dtype, device=generator.device)
    nn.init.orthogonal_(weight, generator=generator)
    bias = torch.randn(len(weight), generator=generator, dtype=weight.dtype, device=generator.device)
    return weight.to(layer.weight.device), bias.to(layer.weight.device)


def _parts(model: nn.Module) -> tuple[list[nn.Linear], str]:
    modules = [*model] if isinstance(model, nn.Sequential) else []
    layers = [module for module in modules[::2] if isinstance(module, nn.Linear) and module.bias is not None]
    kinds = {type(module) for module in modules[1::2]}
    regular = len(modules) >= 3 and 2 * len(layers) == len(modules) + 1 and len(kinds) == 1
    if not regular or not kinds <= _ACTIVATIONS.keys() or layers[-1].out_features != layers[0].in_features:
        raise ValueError(
            "model must be an nn.Sequential of nn.Linear with biases and nn.Sigmoid, or nn.Tanh, between them, that "
            f"gives as many features as it takes, got {model}"
        )
    return layers, _ACTIVATIONS[kinds.pop()]

"""The card of a paper: what its method file says about itself, in literals."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from paperweight.errors import InputError

__all__ = ["FIELDS", "KINDS", "Paper"]

FIELDS: Mapping[str, str] = {
    "optim": "optimizers and schedules",
    "architecture": "layers and whole networks",
    "regularization": "losses and penalties that regularise",
    "training": "training procedures",
    "representation": "representation learning and clustering",
    "gan": "adversarial generators",
    "diffusion": "diffusion models and samplers",
    "density": "density estimation, flows, autoencoders",
    "restoration": "image restoration",
    "robustness": "attacks and defenses",
    "backdoor": "backdoors and their detection",
    "privacy": "private learning",
    "auditing": "memorisation and forensics",
    "unlearning": "forgetting data and concepts",
    "compression": "pruning, quantisation, distillation",
    "nas": "architecture search",
    "condensation": "small data sets that stand for large ones",
    "continual": "continual learning",
    "federated": "federated and decentralised learning",
    "dynamics": "training dynamics",
    "interpretability": "explaining networks",
    "graphs": "graph networks",
    "structured": "tables, time series, recommenders",
    "science": "learning for science",
    "scenes": "3-D, video, detection",
    "systems": "speed and memory",
}

KINDS: Mapping[str, str] = {
    "optimizer": "updates parameters from their gradients",
    "schedule": "sets a hyper-parameter as a function of the step",
    "layer": "maps tensors to tensors inside a network",
    "network": "a whole network",
    "loss": "a differentiable objective on predictions",
    "regularizer": "a penalty added to a loss",
    "attack": "changes inputs so that a model errs",
    "defense": "makes a model withstand attacks",
    "unlearner": "removes what a model learned from some data",
    "sampler": "draws samples from a trained model",
    "metric": "measures a model or its samples",
    "compressor": "makes a model smaller",
    "training-procedure": "replaces the training loop",
    "data-transform": "changes the data that a model is trained on",
    "experiment": "a measurement, whose result is what the paper contributes",
    "estimator": "is fitted to arrays by the conventions of scikit-learn",
    "function": "a pure function of tensors, an equation of the paper",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """The card of a paper, written in literals so that it is read without importing its module.

    Args:
        title: The paper's full title.
        authors: The authors, in the paper's order.
        year: Year of the version that is implemented.
        url: A link to the paper.
        provides: Public name in this file to its kind, one of ``KINDS``.
        claim: The paper's claim that the study weighs, in one sentence.
        null: Hyper-parameter values at which the method is its baseline; empty where there is none.
        builds_on: Stems of the papers whose functions this file imports.

    Raises:
        InputError: If a text is empty, the year is not one of this field's, or a kind is unknown.

    Example:
        >>> card = Paper(
        ...     title="A method", authors=("A. Author",), year=2020, url="https://example.org",
        ...     provides={"Method": "optimizer"}, claim="It converges faster.",
        ... )
        >>> card.provides["Method"]
        'optimizer'
    """

    title: str
    authors: tuple[str, ...]
    year: int
    url: str
    provides: Mapping[str, str]
    claim: str
    null: Mapping[str, object] = field(default_factory=dict[str, object])
    builds_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("title", "url", "claim"):
            if not getattr(self, name):
                raise InputError(f"{name} of a card must not be empty; write it as the paper has it")
        if not self.authors:
            raise InputError("authors of a card must not be empty; name them in the paper's order")
        if not 1940 <= self.year <= 2100:
            raise InputError(f"year of a card must be within 1940 to 2100, got {self.year}")
        if not self.provides:
            raise InputError("provides of a card must name at least one public object with its kind")
        for public, kind in self.provides.items():
            if kind not in KINDS:
                raise InputError(f"kind of {public} must be one of {', '.join(KINDS)}; got {kind!r}")

"""DiffAttack: change an image where a diffusion model half way back to it is led astray, so that other models err, too.

An image is taken a few steps towards noise by DDIM run backwards. What is found there is changed so that a classifier
errs on the image that it leads back to; so that the model's attention to the name of the class spreads over the image,
which hides the object; and so that its attention within the image, and so the layout, stays. No change is bounded.
Cost: for each update a forward and a backward pass of the denoiser for every step taken back, and of the classifier.

Source:
    J. Chen, H. Chen, K. Chen, Y. Zhang, Z. Zou, Z. Shi, "Diffusion Models for Imperceptible and Transferable
    Adversarial Attack", 2023, https://arxiv.org/abs/2305.08192, and the authors' code. Implemented: inversion by DDIM,
    the three losses with their weights, and the updates of what is diffused.

Deviations:
    - Captions are followed without guidance, so that DDIM run backwards fits DDIM, and nothing is optimised for the
      image to be given back. The authors follow them with a weight of 2.5, and optimise the empty caption for it.
    - A step backwards asks for the noise at the time of its end, as the step that it undoes. In the authors' code it is
      that of its beginning, and steps and their inversions are one time apart.
    - Attention is averaged over all layers of the network; the authors have those of one size. The mask that keeps the
      background is left out, as by default in their code. Of several images each has a loss of its own.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.generators import NoiseSchedule, TextToImage, add_noise, ddim_step, split_prediction
from paperweight.nets import evaluating

__all__ = ["DiffAttack", "attention_change", "attention_variance", "ddim_invert"]

PAPER = Paper(
    title="Diffusion Models for Imperceptible and Transferable Adversarial Attack",
    authors=("Jianqi Chen", "Hao Chen", "Keyan Chen", "Yilan Zhang", "Zhengxia Zou", "Zhenwei Shi"),
    year=2023,
    url="https://arxiv.org/abs/2305.08192",
    provides={
        "DiffAttack": "attack",
        "attention_change": "function",
        "attention_variance": "function",
        "ddim_invert": "function",
    },
    null={"steps": 0},
    claim="Images changed within a diffusion model fool classifiers that were not attacked more often than those of "
    "other attacks, and look better.",
)

_Eps = Callable[[Tensor, Tensor], Tensor]


def ddim_invert(eps: _Eps, z: Tensor, schedule: NoiseSchedule, depth: int) -> Tensor:
    """Take data a number of steps towards noise, by DDIM run backwards: z_i = sqrt(abar_i) x0 + sqrt(1 - abar_i) e.

    Args:
        eps: Predicts the noise e in z (N, ...) at times (N,); asked at the time i of the end of each step.
        z: The data, (N, ...).
        schedule: The times, of which the first ``depth`` are gone through.
        depth: Number of steps, from 0 to the number of times.

    Returns:
        What is found there, (N, ...).

    Example:
        >>> from paperweight.generators import linear_schedule
        >>> ddim_invert(lambda z, t: 0 * z, torch.ones(1, 1), linear_schedule(1, 0.75, 0.75), depth=1)
        tensor([[0.5000]])
    """
    _check_whole("depth", depth, 0, len(schedule))
    for index in range(depth):
        noise = eps(z, _times(schedule, index, z))
        before = schedule.previous(index)
        x0 = z if before == 1 else split_prediction(z, noise, before, "eps")[0]
        z = add_noise(x0, noise, schedule.abar[index].item())
    return z


def attention_variance(maps: Sequence[Tensor], words: Tensor) -> Tensor:
    """Give the variance, over places and tokens, of the mean attention that images pay to some tokens.

    Args:
        maps: Attention of every layer and step, (N, heads, places, tokens), all with as many places, at least one.
        words: Which tokens count, bool, (N, tokens), equally many of each image.

    Returns:
        The variance of each image, (N,); 0 where all places look alike.

    Raises:
        ValueError: If there is no map, or words are not as above.

    Example:
        >>> maps = torch.tensor([[[[0.25, 0.75], [0.75, 0.25]]]])
        >>> attention_variance([maps], torch.tensor([[True, False]]))
        tensor([0.1250])
    """
    if not maps:
        raise ValueError("maps must hold the attention of at least one layer, got none")
    counts = words.sum(dim=1)
    fits = words.dtype == torch.bool and words.shape == (len(maps[0]), maps[0].shape[-1])
    if not fits or not bool((counts == counts[:1]).all()) or not bool((counts > 0).all()):
        raise ValueError(
            f"words must mark equally many tokens of each image, at least one, bool, (N, tokens), got {words}"
        )
    mean = torch.stack([each.mean(dim=1) for each in maps]).mean(dim=0)
    chosen = mean.transpose(1, 2)[words].view(len(words), -1)
    return chosen.var(dim=1)


def attention_change(maps: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
    """Give the mean squared change of the attention of each layer and step, summed over these.

    Args:
        maps: Attention of every layer and step, (N, heads, places, places).
        before: The same before the change.

    Returns:
        The change of each image, (N,).

    Raises:
        ValueError: If there are not as many maps before, at least one.

    Example:
        >>> attention_change([torch.ones(1, 1, 2, 2)] * 3, [torch.zeros(1, 1, 2, 2)] * 3)
        tensor([3.])
    """
    if not maps or len(maps) != len(before):
        raise ValueError(f"before must hold as many maps as maps, at least one, got {len(before)} and {len(maps)}")
    changes = [(now - then).square().flatten(1).mean(dim=1) for now, then in zip(maps, before, strict=True)]
    return torch.stack(changes).sum(dim=0)


@final
class DiffAttack:
    """Changes images within a text-to-image model until a classifier errs; without a bound on the change.

    It is called with a surrogate of the classifiers that are to err (`paperweight.attacks.transferred`). The last
    images are given, fooled or not. All models are in eval mode meanwhile.

    Args:
        diffusion: The text-to-image model, trained on images like those attacked.
        names: The caption of each class, of equally many tokens; its words are those that attention is spread of.
        steps: Number of updates, at least 0; at 0 the images are given that the model gives back. 30 in the paper.
        lr: Step size of AdamW, above 0; 0.01 in the paper.
        times: Number of times of DDIM, at least 1; 20 in the paper.
        depth: How many of them are gone back, from 1 to ``times``; 5 in the paper.
        attack: Weight of the classifier's cross-entropy, at least 0; 10 in the paper.
        transfer: Weight of the variance of attention to the name, at least 0; 10,000 in the paper.
        structure: Weight of the change of attention within the image, at least 0; 100 in the paper.

    Raises:
        ValueError: If an argument is outside its range, or images are.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> arguments = {"width": 8, "blocks": 1, "heads": 2}
        >>> diffusion = TextSpec(shape=(1, 4, 4), words=("cat", "dog"), length=3, dim=8, arguments=arguments).build()
        >>> attack = DiffAttack(diffusion, ("cat", "dog"), steps=2)
        >>> classifier = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> attack(classifier, torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 1])).shape
        torch.Size([3, 1, 4, 4])
    """

    def __init__(
        self,
        diffusion: TextToImage,
        names: Sequence[str],
        steps: int = 30,
        lr: float = 0.01,
        times: int = 20,
        depth: int = 5,
        attack: float = 10.0,
        transfer: float = 10_000.0,
        structure: float = 100.0,
    ) -> None:
        _check_whole("steps", steps, 0)
        _check_whole("times", times, 1, len(diffusion.schedule))
        _check_whole("depth", depth, 1, times)
        if isinstance(lr, bool) or not 0 < lr < math.inf:
            raise ValueError(f"lr must be above 0 and finite, got {lr}")
        for name, weight in (("attack", attack), ("transfer", transfer), ("structure", structure)):
            if isinstance(weight, bool) or not 0 <= weight < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {weight}")
        if isinstance(names, str) or not names or not all(name.split() for name in names):
            raise ValueError(f"names must be a caption of at least one word for each class, got {names!r}")
        self.diffusion, self.names, self.steps, self.lr = diffusion, tuple(names), steps, lr
        self.times, self.depth = times, depth
        self.attack, self.transfer, self.structure = attack, transfer, structure

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Give changed images.

        Args:
            model: Maps images to logits (N, classes).
            inputs: Images in [0, 1], of the diffusion model's shape, (N, C, H, W).
            labels: Their classes, int64, (N,).

        Returns:
            Images in [0, 1], (N, C, H, W).
        """
        given, diffusion = inputs.detach(), self.diffusion
        shaped = given.ndim == 4 and given.shape[1:] == diffusion.spec.shape and given.is_floating_point()
        if not shaped or not bool(((given >= 0) & (given <= 1)).all()):
            rule = f"floating, in [0, 1], images of the diffusion model's shape, {diffusion.spec.shape}"
            raise ValueError(f"inputs must be {rule}, got {given.dtype} of shape {tuple(given.shape)}")
        fit = labels.shape == given.shape[:1] and labels.dtype == torch.int64
        if not fit or bool(((labels < 0) | (labels >= len(self.names))).any()):
            raise ValueError(f"labels must be int64, (N,), numbers of the {len(self.names)} names, got {labels}")
        if not len(given):
            return given.clone()
        captions = [self.names[label] for label in labels.tolist()]
        ends = diffusion.tokenizer.ends(captions)
        words = (torch.arange(diffusion.tokenizer.length) < ends[:, None]).to(given.device)
        with evaluating(diffusion), evaluating(model), _frozen(diffusion, model):
            with torch.no_grad():
                condition = diffusion.condition(captions, len(captions))
                schedule = diffusion.schedule.subsample(self.times)

                def eps(z: Tensor, t: Tensor) -> Tensor:
                    return diffusion.eps(z, t, condition)

                start = ddim_invert(eps, diffusion.encode(given), schedule, self.depth)
                _, within = self._images(eps, start, schedule)
            with torch.enable_grad():
                z = start.clone().requires_grad_()
                optimizer = torch.optim.AdamW([z], lr=self.lr)
                for _ in range(self.steps):
                    images, seen = self._images(eps, z, schedule)
                    wrong = F.cross_entropy(model(images), labels, reduction="none")
                    spread = attention_variance(seen["attn2"], words)
                    changed = attention_change(seen["attn1"], within["attn1"])
                    loss = (self.transfer * spread + self.structure * changed - self.attack * wrong).sum()
                    (z.grad,) = torch.autograd.grad(loss, z)
                    optimizer.step()
            with torch.no_grad():
                return self._images(eps, z.detach(), schedule)[0]

    def _images(self, eps: _Eps, z: Tensor, schedule: NoiseSchedule) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """Go back to images by DDIM, and note the attention of every layer and step."""
        with _attention(self.diffusion.network) as seen:
            for index in reversed(range(self.depth)):
                noise = eps(z, _times(schedule, index, z))
                x0, _ = split_prediction(z, noise, schedule.abar[index].item(), "eps")
                z = ddim_step(x0, noise, schedule.previous(index))
        return self.diffusion.decode(z).clamp(0, 1), seen


@contextmanager
def _frozen(*models: nn.Module) -> Iterator[None]:
    """Have parameters want no gradient meanwhile."""
    wanting = [weight for model in models for weight in model.parameters() if weight.requires_grad]
    for weight in wanting:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in wanting:
            weight.requires_grad_(True)


@contextmanager
def _attention(network: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Note the probabilities, (N, heads, queries, keys), of attention to itself, attn1, and to captions, attn2."""
    seen: dict[str, list[Tensor]] = {"attn1": [], "attn2": []}

    def note(kind: str) -> Callable[..., None]:
        def look(part: Any, arguments: tuple[Tensor, ...]) -> None:
            x, context = arguments
            q, k = (side.unflatten(2, (part.heads, -1)).transpose(1, 2) for side in (part.to_q(x), part.to_k(context)))
            seen[kind].append((q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(dim=-1))

        return look

    kinds = ((name.split(".")[-1], part) for name, part in network.named_modules())
    handles = [part.register_forward_pre_hook(note(kind)) for kind, part in kinds if kind in seen]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _times(schedule: NoiseSchedule, index: int, z: Tensor) -> Tensor:
    return schedule.times[index].expand(len(z)).to(z.device)


def _check_whole(name: str, value: int, least: int, most: int | None = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        raise ValueError(
            f"{name} must be a whole number from {least}{'' if most is None else f' to {most}'}, got {value!r}"
        )

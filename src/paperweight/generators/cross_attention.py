"""The cross attention of a text-to-image network, by the usual names: its parameters, and where it looks.

It is a module named ``attn2`` with ``to_q``, ``to_k``, ``to_v`` and ``to_out``, in our networks as in the pipelines'.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

from torch import Tensor, nn

from paperweight.errors import InputError

__all__ = ["ParameterGroup", "attention_maps", "parameter_group"]

ParameterGroup = Literal["cross_attention", "all_but_cross_attention", "keys_and_values", "all"]

_CROSS = re.compile(r"(^|\.)attn2\.")
_KEYS_AND_VALUES = re.compile(r"(^|\.)attn2\.to_[kv]\.")
_GROUPS: dict[str, Callable[[str], bool]] = {
    "cross_attention": lambda name: _CROSS.search(name) is not None,
    "all_but_cross_attention": lambda name: _CROSS.search(name) is None,
    "keys_and_values": lambda name: _KEYS_AND_VALUES.search(name) is not None,
    "all": lambda name: True,
}


def parameter_group(network: nn.Module, group: ParameterGroup) -> dict[str, nn.Parameter]:
    """Give the parameters of a group, by name; ``requires_grad`` is not looked at.

    Args:
        network: The denoising network, such as ``network`` of `TextToImage` or `PipelineAdapter`.
        group: ``cross_attention``; ``all_but_cross_attention``, which together are ``all``; or ``keys_and_values``, the
            weights of the cross attention that see the caption.

    Returns:
        Parameters of the network itself, in its order.

    Raises:
        InputError: If the group is unknown, or the network has no cross attention.

    Example:
        >>> from paperweight.nets import TokenDenoiser
        >>> network = TokenDenoiser((1, 8, 8), blocks=1, condition_dim=16)
        >>> list(parameter_group(network, "keys_and_values"))
        ['blocks.0.attn2.to_k.weight', 'blocks.0.attn2.to_v.weight']
    """
    if group not in _GROUPS:
        raise InputError(f"group of parameters must be one of {', '.join(_GROUPS)}; got {group!r}")
    parameters = dict(network.named_parameters())
    if group != "all" and not any(_KEYS_AND_VALUES.search(name) for name in parameters):
        raise InputError(
            f"network must have a cross attention with parameters attn2.to_k and attn2.to_v, {type(network).__name__} "
            "has none; give the denoising network of a text-to-image model"
        )
    return {name: value for name, value in parameters.items() if _GROUPS[group](name)}


def attention_maps(network: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """Give the probabilities of every cross attention while something runs, with gradients where its inputs have them.

    They are computed beside the network's own attention, from the same queries and keys, whose output is untouched;
    nothing is left behind in the network, which is as fast as before. A mask of tokens, such as PixArt's, is not
    applied.

    Args:
        network: The denoising network.
        run: Calls the network once, such as ``lambda: model.eps(z, t, condition)``.

    Returns:
        By name of the attention its probabilities, (N, heads, Q, L), which sum to 1 over the tokens of the condition.

    Raises:
        InputError: If the network has no cross attention, or does not call one of them exactly once.

    Example:
        >>> import torch
        >>> from paperweight.nets import TokenDenoiser
        >>> network = TokenDenoiser((1, 8, 8), blocks=1, condition_dim=16)
        >>> inputs = torch.zeros(5, 1, 8, 8), torch.arange(5), torch.zeros(5, 3, 16)
        >>> attention_maps(network, lambda: network(*inputs))["blocks.0.attn2"].shape
        torch.Size([5, 4, 16, 3])
    """
    found = {name: part for name, part in network.named_modules() if _is_cross_attention(name, part)}
    if not found:
        raise InputError(
            f"network must have a module attn2 with to_q, to_k and heads, {type(network).__name__} has none; give the "
            "denoising network of a text-to-image model"
        )
    maps: dict[str, list[Tensor]] = {name: [] for name in found}
    with _watching(found, maps):
        run()
    wrong = [name for name, values in maps.items() if len(values) != 1]
    if wrong:
        raise InputError(f"run must call the network once, {wrong[0]} was called {len(maps[wrong[0]])} times")
    return {name: values[0] for name, values in maps.items()}


def _is_cross_attention(name: str, part: nn.Module) -> bool:
    return name.split(".")[-1] == "attn2" and all(hasattr(part, needed) for needed in ("to_q", "to_k", "heads"))


@contextmanager
def _watching(parts: dict[str, nn.Module], maps: dict[str, list[Tensor]]) -> Iterator[None]:
    def watcher(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def note(part: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            x, tokens = (
                *arguments,
                *(named[key] for key in ("hidden_states", "encoder_hidden_states") if key in named),
            )[:2]
            maps[name].append(_probabilities(part, x, tokens))

        return note

    handles = [part.register_forward_pre_hook(watcher(name), with_kwargs=True) for name, part in parts.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _probabilities(part: nn.Module, x: Tensor, tokens: Tensor) -> Tensor:
    """Compute softmax(q k / sqrt(d)) of each head, (N, heads, Q, L)."""
    heads = cast(int, part.heads)
    to_q, to_k = cast(nn.Module, part.to_q), cast(nn.Module, part.to_k)
    q, k = (side.unflatten(2, (heads, -1)).transpose(1, 2) for side in (to_q(x), to_k(tokens)))
    return (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(dim=-1)

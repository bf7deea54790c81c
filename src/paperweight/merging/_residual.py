"""The groups of the residual networks of `paperweight.nets`."""

from torch import nn

from paperweight.errors import InputError
from paperweight.merging._draft import Draft, finished
from paperweight.merging.groups import Group

__all__ = ["residual_groups"]


def residual_groups(model: nn.Module) -> tuple[Group, ...]:
    """Write down the groups of a `paperweight.nets.ResNet` or `paperweight.nets.ResNet18`.

    Every block has units of its own. The units of the stream are shared by all layers that write to it: until the next
    projection, or, where a shortcut pads the stream with zeros, for good, joined by those of the new channels.

    Args:
        model: The network.

    Raises:
        InputError: If it is of another construction.
    """
    body = getattr(model, "body", None)
    if not isinstance(body, nn.Sequential) or not any(hasattr(part, "residual") for part in body):
        raise InputError(
            f"model must be a ResNet or ResNet18 of paperweight.nets, got {type(model).__name__}; use trace for others"
        )
    weights = model.state_dict()
    stream = [Draft("body.0", len(weights["body.0.weight"]))]
    drafts = [*stream]
    _write(model, stream, "body.0", "body.1")
    fresh = list(stream)
    for name, block in body.named_children():
        at = f"body.{name}"
        if isinstance(block, nn.AdaptiveAvgPool2d):
            _look(stream, fresh, at)
        if not hasattr(block, "residual"):
            continue
        _look(stream, fresh, f"{at}.residual.0")
        _read(stream, f"{at}.residual.0.weight")
        width = len(weights[f"{at}.residual.0.weight"])
        inner = Draft(f"{at}.residual.0", width)
        inner.make(model, f"{at}.residual.0")
        inner.make(model, f"{at}.residual.1")
        inner.touch(f"{at}.residual.3.weight", 1, "in")
        inner.look(f"{at}.residual.3")
        held = sum(draft.size for draft in stream)
        if f"{at}.shortcut.0.weight" in weights:
            _read(stream, f"{at}.shortcut.0.weight")
            stream = fresh = [Draft(f"{at}.shortcut.0", width)]
            drafts += stream
            _write(model, stream, f"{at}.shortcut.0", f"{at}.shortcut.1")
        drafts.append(inner)
        if width > sum(draft.size for draft in stream):
            fresh = [Draft(f"{at}.residual.3", width - held)]
            drafts += fresh
            stream = [*stream, *fresh]
        _write(model, stream, f"{at}.residual.3", f"{at}.residual.4")
    _read(stream, "head.weight")
    return finished(model, drafts)


def _write(model: nn.Module, stream: list[Draft], *names: str) -> None:
    for name in names:
        start = 0
        for draft in stream:
            draft.make(model, name, start)
            start += draft.size


def _read(stream: list[Draft], key: str) -> None:
    start = 0
    for draft in stream:
        draft.touch(key, 1, "in", start)
        start += draft.size


def _look(stream: list[Draft], fresh: list[Draft], module: str) -> None:
    """Observe the units of the stream that have not been halved in their resolution."""
    start = 0
    for draft in stream:
        if any(draft is other for other in fresh):
            draft.look(module, start)
        start += draft.size

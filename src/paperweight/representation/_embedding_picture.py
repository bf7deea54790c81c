"""A picture of embeddings with two labels: two principal components, colours for identities, marks for labels."""

import torch
from torch import Tensor

from paperweight.representation._cells import cell_means

__all__ = ["embedding_picture"]

_SIDE, _EDGE, _LEGEND = 420, 16, 120
_BRIGHT = ("#1f77b4", "#d1495b", "#2a8c55", "#8e5ea2", "#b8730a", "#17807e", "#a0522d", "#5b6470")
_DARK = ("#6fb7ec", "#ff8a94", "#6fd39b", "#c99be0", "#f0b45a", "#5fcfcb", "#dd9a70", "#aab4c2")
_MARKS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "M-3.6,-3.6h7.2v7.2h-7.2z",
    "M0,-4.8L4.4,3.2h-8.8z",
    "M0,-5.2L5.2,0L0,5.2L-5.2,0z",
    "M-1.4,-4.6h2.8v3.2h3.2v2.8h-3.2v3.2h-2.8v-3.2h-3.2v-2.8h3.2z",
    "M0,4.8L4.4,-3.2h-8.8z",
)
_STYLE = "".join(
    (
        "svg{color-scheme:light dark;--paper:#fff;--ink:#333}",
        "".join(f".c{index}{{--tone:{tone}}}" for index, tone in enumerate(_BRIGHT)),
        "@media(prefers-color-scheme:dark){svg{--paper:#15181c;--ink:#d5d9de}",
        "".join(f".c{index}{{--tone:{tone}}}" for index, tone in enumerate(_DARK)),
        "}.paper{fill:var(--paper)}.frame{fill:none;stroke:var(--ink);stroke-opacity:.25}",
        "path.m{fill:var(--tone);fill-opacity:.75}line{stroke:var(--tone);stroke-width:1.6}",
        ".key{fill:var(--ink)}text{fill:var(--ink);font:12px sans-serif}",
    )
)


def embedding_picture(z: Tensor, identity: Tensor, aux: Tensor, neutral: int) -> str:
    """Draw the first identities, as many as there are colours, in the plane of the two main directions of all.

    Args:
        z: Embeddings, float64, (N, d).
        identity: Whose they are, (N,).
        aux: Auxiliary labels of at least 0, (N,); more than there are marks share them.
        neutral: The label that lines begin at.

    Returns:
        An SVG document.
    """
    names, labels = identity.unique()[: len(_BRIGHT)], aux.unique()
    shown = torch.isin(identity, names)
    spots, share = _plane(z)
    spots = _placed(spots[shown])
    row, column = torch.searchsorted(names, identity[shown]), torch.searchsorted(labels, aux[shown])
    parts = [
        f'<path class="m c{r}" transform="translate({x:.1f},{y:.1f})" d="{_MARKS[c % len(_MARKS)]}"/>'
        for (x, y), r, c in zip(spots.tolist(), row.tolist(), column.tolist(), strict=True)
    ]
    parts += _lines(spots, row, column, len(labels), (labels == neutral).nonzero().flatten().tolist())
    for index, label in enumerate(labels.tolist()):
        y = _EDGE + 14 + 20 * index
        mark = f'<path class="key" transform="translate({_SIDE + 14},{y - 4})" d="{_MARKS[index % len(_MARKS)]}"/>'
        parts.append(f'{mark}<text x="{_SIDE + 26}" y="{y}">label {label}</text>')
    words = f"colours: {len(names)} identities, {share:.0%} of the variance"
    parts.append(f'<text x="{_EDGE}" y="{_SIDE + 14}">two principal components; {words}</text>')
    size = f"{_SIDE + _LEGEND} {_SIDE + 24}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img" aria-label="Embeddings, {words}">'
        f'<style>{_STYLE}</style><rect class="paper" width="100%" height="100%"/>'
        f'<rect class="frame" x="1" y="1" width="{_SIDE - 2}" height="{_SIDE - 6}"/>{"".join(parts)}</svg>'
    )


def _plane(z: Tensor) -> tuple[Tensor, float]:
    """Give coordinates in the plane of the two main directions, (N, 2), and the share of the variance there."""
    centred = z - z.mean(dim=0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    if len(directions) < 2:
        directions = torch.cat([directions, torch.zeros_like(directions)])
    main = directions[:2]
    sign = main.gather(1, main.abs().argmax(dim=1, keepdim=True)).sign()
    total = values.square().sum()
    return centred @ (main * sign).T, (values[:2].square().sum() / total).item() if total > 0 else 1.0


def _placed(spots: Tensor) -> Tensor:
    """Fit points into the frame with one scale for both axes."""
    low, high = spots.amin(dim=0), spots.amax(dim=0)
    width = (high - low).amax()
    scale = (_SIDE - 4 * _EDGE) / width if width > 0 else width + 1
    return (spots - (low + high) / 2) * scale * torch.tensor([1, -1], device=spots.device) + _SIDE / 2


def _lines(spots: Tensor, row: Tensor, column: Tensor, labels: int, neutral: list[int]) -> list[str]:
    """Draw a line from the mean with the neutral label to that with each other label."""
    means, filled = cell_means(spots, row, column, labels)
    return [
        f'<line class="c{r}" x1="{means[r, n, 0]:.1f}" y1="{means[r, n, 1]:.1f}" x2="{means[r, c, 0]:.1f}" '
        f'y2="{means[r, c, 1]:.1f}"/>'
        for n in neutral
        for r in range(len(means))
        for c in range(labels)
        if c != n and filled[r, n] and filled[r, c]
    ]

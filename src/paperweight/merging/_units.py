"""From atoms to groups: atoms that are tied are one unit, and units with the same places are one group."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from paperweight.errors import InputError
from paperweight.merging._atoms import BLANK, FIXED, Atoms, Record, Seen, column
from paperweight.merging.groups import Group, Place, Point

__all__ = ["groups_of", "reads"]

_Units = dict[int, tuple[tuple[int, ...], ...]]
"""For each unit the places that it has, as (line, times) and (layer with blocks, -1 or number of its block)."""


def groups_of(atoms: Atoms, seen: Sequence[Seen]) -> tuple[Group, ...]:
    """Find the groups of units that may change places.

    Args:
        atoms: The atoms and their ties.
        seen: What can be observed, in the order of the network.

    Returns:
        The groups in the order in which the network makes their units.

    Raises:
        InputError: If the blocks of two layers do not fit together.
    """
    roots = _roots(atoms)
    still = {int(roots[BLANK]), int(roots[FIXED])}
    lines: list[tuple[Record, int, Tensor]] = []
    for record in atoms.records.values():
        axis_and_atoms = (record.axis, record.atoms) if record.axis is not None else column(record.atoms, roots)
        if axis_and_atoms is None:
            still.update(roots[record.atoms].unique().tolist())
        else:
            lines.append((record, *axis_and_atoms))
    views = [(view, *axis_and_labels) for view in seen if (axis_and_labels := column(view.labels, roots))]
    blocks, notes = _blocks([(name, roots[block].tolist()) for name, block in atoms.blocks], still)
    places: dict[int, list[tuple[int, ...]]] = {}
    for number, (_, _, line) in enumerate(lines):
        for unit, times in Counter(roots[line].tolist()).items():
            if unit not in still:
                places.setdefault(unit, []).append((number, times))
    units = {unit: (*where, *notes.get(unit, ())) for unit, where in places.items()}
    groups: dict[str, Group] = {}
    for kinds in _alike(units, blocks):
        touched = [[lines[line] for line, _ in units[kind[0][0]] if line >= 0] for kind in kinds]
        group = _group(kinds, touched, views, roots, atoms)
        twin = sum(name.partition("#")[0] == group.name for name in groups)
        group = replace(group, name=f"{group.name}#{twin + 1}") if twin else group
        if group.size > 1:
            groups[group.name] = group
    return tuple(groups.values())


def reads(atoms: Atoms, labels: Tensor) -> bool:
    """Tell whether some layer reads units of a label tensor."""
    roots = _roots(atoms)
    units = roots[labels.unique()]
    units = units[(units != roots[BLANK]) & (units != roots[FIXED])]
    read = [record.atoms for record in atoms.records.values() if record.role == "in" and record.keys]
    return bool(torch.isin(units, roots[torch.cat(read)]).any()) if read else False


def _roots(atoms: Atoms) -> Tensor:
    """Give for each atom the number of its unit."""
    ties = torch.cat([*atoms.ties, torch.empty(2, 0, dtype=torch.int64)], dim=1).numpy()
    links = coo_array((np.ones(ties.shape[1]), (ties[0], ties[1])), shape=(atoms.count, atoms.count))
    return torch.from_numpy(connected_components(links, directed=False)[1].astype(np.int64))


def _blocks(
    layers: Sequence[tuple[str, list[list[int]]]], still: set[int]
) -> tuple[dict[int, int], dict[int, list[tuple[int, ...]]]]:
    """Give the number of the block of each unit that is in one, and for each unit what layers with blocks it is in."""
    rows = [(name, [set(row) for row in grid]) for name, grid in layers]
    stuck = True
    while stuck:
        touched = [row - still for _, grid in rows for row in grid if row & still]
        stuck = any(touched)
        still.update(*touched)
    block: dict[int, int] = {}
    notes: dict[int, list[tuple[int, ...]]] = {}
    count = 0
    for layer, (name, grid) in enumerate(rows):
        common = set.intersection(*grid)
        used: set[int] = set()
        for number, row in enumerate(grid):
            own = row - common - still
            old = {block[unit] for unit in own if unit in block}
            twice = any(own & other for other in grid[:number] if other is not row)
            if len(old) > 1 or old & used or twice:
                rule = "blocks of heads and of normalization groups must not overlap"
                raise InputError(f"{rule}, those of {name} do with others; write the graph down with Group and Place")
            chosen = old.pop() if old else count
            count += 1
            used.add(chosen)
            for unit in own:
                block[unit] = chosen
                notes.setdefault(unit, []).append((-1 - layer, number if common - still else -1))
    return block, notes


def _alike(units: _Units, blocks: dict[int, int]) -> list[list[list[list[int]]]]:
    """Sort units into groups; each is a list of kinds, and each kind a list of blocks of units."""
    members: dict[int, dict[tuple[tuple[int, ...], ...], list[int]]] = {}
    plain: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for unit, places in units.items():
        kinds = members.setdefault(blocks[unit], {}) if unit in blocks else plain
        kinds.setdefault(places, []).append(unit)
    alike: dict[object, list[dict[tuple[tuple[int, ...], ...], list[int]]]] = {}
    for kinds in members.values():
        alike.setdefault(frozenset((places, len(own)) for places, own in kinds.items()), []).append(kinds)
    groups = [[[own]] for own in plain.values()]
    groups += [[[kinds[places] for kinds in same] for places in same[0]] for same in alike.values()]
    order = {unit: number for number, unit in enumerate(units)}
    return sorted(groups, key=lambda kinds: order[kinds[0][0][0]])


def _group(
    kinds: list[list[list[int]]],
    lines: Sequence[Sequence[tuple[Record, int, Tensor]]],
    views: Sequence[tuple[Seen, int, Tensor]],
    roots: Tensor,
    atoms: Atoms,
) -> Group:
    """Build a group from the units of its blocks and kinds."""
    shape = Group("", len(kinds[0]), tuple(len(kind[0]) for kind in kinds), (), ())
    places: list[Place] = []
    points: list[Point] = []
    for numbers, kind, touched in zip(shape.units(), kinds, lines, strict=True):
        rank = torch.full((int(roots.max()) + 1,), -1)
        rank[torch.tensor(kind)] = torch.arange(numbers.numel()).view(numbers.shape)
        units = numbers.flatten()
        for record, axis, line in touched:
            index = _index(rank[roots[line]], len(units))
            if index is not None:
                places += [Place(key, axis, record.role, units, index) for key in record.keys]
        points += _points(views, rank, roots, units, atoms.asked)
    maker = next((place.key for place in places if place.role == "out"), places[0].key)
    order = {key: number for number, key in enumerate(atoms.state)}
    places.sort(key=lambda place: (order[place.key], place.axis))
    return replace(shape, name=maker.rpartition(".")[0] or maker, places=tuple(places), points=tuple(points))


def _points(
    views: Sequence[tuple[Seen, int, Tensor]], rank: Tensor, roots: Tensor, units: Tensor, asked: Sequence[Tensor]
) -> list[Point]:
    """Choose where to observe units: queries and keys both; else the last of the inputs with the most values."""
    best: Point | None = None
    most = (False, 0)
    pairs: dict[int, Point] = {}
    own = [(number, atoms) for number, atoms in enumerate(asked) if (rank[roots[atoms]] >= 0).any()]
    for view, axis, line in views:
        numbers = rank[roots[line]]
        index = _index(numbers, len(units))
        if index is None:
            continue
        values = (view.side == "input", view.labels.numel() // len(line) * index.shape[1])
        if values >= most:
            best, most = Point(view.module, view.side, axis, units, index), values
        for number, atoms in own:
            some = _index(torch.where(torch.isin(line, atoms), numbers, -1), len(units))
            if some is not None:
                pairs[number] = Point(view.module, view.side, axis, units, some)
    return list(pairs.values()) or ([best] if best else [])


def _index(numbers: Tensor, count: int) -> Tensor | None:
    """Give the rows of each unit, (units, rows), from the unit of each row; None if some have more rows than others."""
    here = (numbers >= 0).nonzero().flatten()
    if not len(here) or len(here) % count or (numbers[here].bincount(minlength=count) != len(here) // count).any():
        return None
    return here[numbers[here].argsort(stable=True)].view(count, -1)

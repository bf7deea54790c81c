"""Faults of constraints from auxiliary labels."""

from tests.faults.planting import Fault

_CELLS, _TRIPLET, _ADDED = "_cells", "_triplet", "_added_constraints"
_BATCHES, _VERIFICATION, _GEOMETRY, _PICTURE = (
    "_identity_batches",
    "_verification",
    "_embedding_geometry",
    "_embedding_picture",
)

FAULTS = (
    Fault(
        "means over all that are there", "counts = present.sum(dim=0)", "counts = torch.ones_like(present).sum(dim=0)"
    ),
    Fault("missing cells compared as 0", "(present * (features - means)).square()", "(features - means).square()"),
    Fault("no mean over pairs", "/ (counts * (counts - 1) / 2).sum().clamp(min=1)", ""),
    Fault("each pair twice", "(counts * (counts - 1) / 2).sum()", "(counts * (counts - 1)).sum()"),
    Fault("one of two cells is enough", "cells.filled[:, first] & cells", "cells.filled[:, first] | cells"),
    Fault("label 0 for the neutral one", "== self.neutral).any(dim=1)", "== 0).any(dim=1)"),
    Fault("all pairs of labels", 'if self.pairs == "neutral":', 'if self.pairs == "":'),
    Fault("twice 1 less the cosine", "unit(differences) / math.sqrt(2)", "unit(differences)"),
    Fault("differences of 0 have a direction", "            there = there & differences.detach().any(dim=2)\n", ""),
    Fault("length for vector", 'elif self.mode == "length":', 'elif self.mode == "vector":'),
    Fault("unknown labels are a label", "unknown = int((names < 0).sum())", "unknown = 0"),
    Fault("no radius", "(differences - self.radius * vectors)", "(differences - vectors)"),
    Fault("vectors that are not orthonormal", "torch.linalg.qr(drawn).Q.T.contiguous()", "drawn.T.contiguous()"),
    Fault(
        "learned vectors are constant",
        "self.vectors = nn.Parameter(vectors)",
        "self.register_buffer('vectors', vectors)",
    ),
    Fault(
        "fixed vectors are learned", 'self.register_buffer("vectors", vectors)', "self.vectors = nn.Parameter(vectors)"
    ),
    Fault(
        "the generator is not drawn from",
        "torch.Generator().manual_seed(0) if generator is None else generator",
        "torch.Generator().manual_seed(0)",
    ),
    Fault("labels beyond the basis", "if int(aux.max()) >= self.aux_labels:", "if False:"),
    Fault("the first labels for the others", "if a != self.neutral]", "if a != 0]"),
    Fault("empty cells count", "((terms * there).sum() / there", "(terms.sum() / there"),
    Fault("the basis is kept", "return z - (z @ basis) @ basis.T", "return (z @ basis) @ basis.T"),
    Fault("weights exchanged", "loss + self.pdp * parts.pdp", "loss + self.fbv * parts.pdp", part=_ADDED),
    Fault(
        "what weighs nothing is computed",
        "loss(z, identity, aux) if weight else",
        "loss(z, identity, aux) if True else",
        part=_ADDED,
    ),
    Fault("negative weights", "if not 0 <= weight < math.inf:", "if not weight < math.inf:", part=_ADDED),
    Fault("sums for means", "sums / sizes.clamp(min=1)[:, None].to(z.dtype)", "sums", part=_CELLS),
    Fault("unknown labels wrap round", "known = aux >= 0", "known = aux >= -1", part=_CELLS),
    Fault("half precision stays", "torch.promote_types(z.dtype, torch.float32)", "z.dtype", part=_CELLS),
    Fault(
        "an anchor is its own positive",
        "& ~torch.eye(len(identity), dtype=torch.bool, device=identity.device)",
        "",
        part=_TRIPLET,
    ),
    Fault(
        "the farthest semi-hard negative",
        "math.inf).amin(dim=1)\n    farthest",
        "-math.inf).amax(dim=1)\n    farthest",
        part=_TRIPLET,
    ),
    Fault("negatives nearer than the positive", "same[anchor] | (far <= near[:, None])", "same[anchor]", part=_TRIPLET),
    Fault(
        "the nearest positive",
        "masked_fill(~others, -math.inf)[rows].amax(dim=1)",
        "masked_fill(~others, math.inf)[rows].amin(dim=1)",
        part=_TRIPLET,
    ),
    Fault("positives among the negatives", ".relu()[~same[anchor]]", ".relu().flatten()", part=_TRIPLET),
    Fault(
        "distances are not squared",
        'return root(squared) if distance == "euclidean" else squared',
        "return root(squared)",
        part=_TRIPLET,
    ),
    Fault("distances not centred", "z - z.detach().mean(dim=0)", "z", part=_TRIPLET),
    Fault(
        "an infinite slope at 0",
        "torch.where(positive, squared.where(positive, 1).sqrt(), 0)",
        "squared.sqrt()",
        part="_lengths",
    ),
    Fault(
        "identities in one order",
        "order = torch.randperm(len(self._cells), generator=self._draw).tolist()",
        "order = list(range(len(self._cells)))",
        part=_BATCHES,
    ),
    Fault(
        "always the first images",
        "chosen = torch.randperm(len(members), generator=self._draw)[: self.per_cell]",
        "chosen = torch.arange(len(members))[: self.per_cell]",
        part=_BATCHES,
    ),
    Fault(
        "one more batch than identities fill",
        "range(0, len(self) * self.identities, self.identities)",
        "range(0, len(self._cells), self.identities)",
        part=_BATCHES,
    ),
    Fault(
        "cells by identity alone",
        "(identity.cpu() == name) & (columns == label)",
        "identity.cpu() == name",
        part=_BATCHES,
    ),
    Fault("ties lost", "ties.double() / 2", "ties.double() * 0", part=_VERIFICATION),
    Fault(
        "the area below the other curve",
        "nearer = len(far) - torch.searchsorted(far, near, right=True)",
        "nearer = torch.searchsorted(far, near)",
        part=_VERIFICATION,
    ),
    Fault(
        "no interpolation",
        "return torch.lerp(accepted[end - 1], accepted[end], share).item()",
        "return accepted[end].item()",
        part=_VERIFICATION,
    ),
    Fault("ties always won", "/ ((ties + 1) * others)", "/ others", part=_VERIFICATION),
    Fault(
        "the query's own among the others",
        "math.comb(len(support) - 1, ways - 1)",
        "math.comb(len(support), ways - 1)",
        part=_VERIFICATION,
    ),
    Fault(
        "a mean of means",
        "own = _group_means(x, row)[row]",
        "own = _group_means(x, row).mean(dim=0).expand_as(x)",
        part=_GEOMETRY,
    ),
    Fault(
        "labels explain with their means",
        "design = chosen - _group_means(chosen, row)[row]",
        "design = chosen",
        part=_GEOMETRY,
    ),
    Fault(
        "cosines with themselves", "square().sum(dim=1) - counts).sum()", "square().sum(dim=1)).sum()", part=_GEOMETRY
    ),
    Fault("cosines for angles", "1 - angles[first, second].abs()", "angles[first, second].abs()", part=_GEOMETRY),
    Fault(
        "areas exchanged",
        "auc_same_aux=_auc(pairs, pairs.same_aux)",
        "auc_same_aux=_auc(pairs, ~pairs.same_aux)",
        part=_GEOMETRY,
    ),
    Fault("rank without the mean taken away", "svdvals(z - z.mean(dim=0))", "svdvals(z)", part=_GEOMETRY),
    Fault("lines from label to itself", "if c != n and filled", "if filled", part=_PICTURE),
    Fault("points outside the frame", "(_SIDE - 4 * _EDGE) / width", "(2 * _SIDE) / width", part=_PICTURE),
)

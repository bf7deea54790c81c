"""Faults of multi-view enhancement hashing."""

from tests.faults.planting import Fault

_PART = "_hash_codes"

FAULTS = (
    Fault("views lost to zeros", "dealt.append(view[order.to(view.device)])", "dealt.append(0 * view)"),
    Fault("the loss, not its rise", "float(loss(given)) - whole", "float(loss(given))"),
    Fault("the other views lost", "if place in lost else view", "if place not in lost else view"),
    Fault(
        "views dealt by the global stream", "generator=generator, device=generator.device)", "device=generator.device)"
    ),
    Fault("what another view brings counts", "(relations - alone).sum(dim=1)", "relations.sum(dim=1)"),
    Fault("what a view brings to others", "(relations - alone).sum(dim=1)", "(relations - alone).sum(dim=0)"),
    Fault("views that do harm weigh", ".sum(dim=1)).clamp(min=0)", ".sum(dim=1)).abs()"),
    Fault("weights that do not sum to 1", "return rises / total if", "return rises if"),
    Fault(
        "one view for all bits",
        "chosen.reshape(batch, 1, bits)",
        "chosen.reshape(batch, 1, bits)[..., :1].expand(-1, -1, bits)",
    ),
    Fault("views drawn alike", "torch.multinomial(weights.to(device)", "torch.multinomial(torch.ones_like(weights)"),
    Fault("draws in evaluation mode", "    if not training:\n", "    if training is None:\n"),
    Fault("weights below 0 accepted", " and bool((weights >= 0).all())", ""),
    Fault("weights of any sum", " or not bool((weights.double().sum() - 1).abs() < 1e-3):", ":"),
    Fault("branches added up", "+ each.mean()", "+ each.sum()"),
    Fault("fused codes follow the memory network", "target = fused.detach()", "target = fused"),
    Fault("signs of 0", "torch.where(fused.detach() < 0, -1.0, 1.0)", "torch.where(fused.detach() < 0, 1.0, -1.0)"),
    Fault("memory not weighed", "+ memory * (F.mse_loss", "+ (F.mse_loss"),
    Fault("codes without a bound", "strict=True)], dim=1).tanh()", "strict=True)], dim=1)"),
    Fault("the memory network sees the last view", "self.memory(views[0])", "self.memory(views[-1])"),
    Fault("draws of its own", "self.training, self.generator)", "self.training)"),
    Fault("weighed by fused codes", "self(*given).views.mean(dim=1)", "self(*given).fused"),
    Fault("weights never set", "self.weights.copy_(view_weights(found))", "view_weights(found)"),
    Fault("views of any number", "if len(views) != len(self.branches):", "if not views:"),
    Fault("search by relaxed codes", "return torch.where(codes < 0, -1.0, 1.0).to(codes)", "return codes.tanh()"),
    Fault("the inner product itself", "halves = codes @ codes.T / 2", "halves = codes @ codes.T", part=_PART),
    Fault(
        "pairs of two classes alike",
        "same = (labels[:, None] == labels)",
        "same = (labels[:, None] != labels)",
        part=_PART,
    ),
    Fault(
        "ties in the order of samples",
        "beside = (rank - earlier - 1) * (good - 1)",
        "beside = 0 * (good - 1)",
        part=_PART,
    ),
    Fault(
        "the farthest first",
        "apart.gather(1, apart.argsort(dim=1))",
        "apart.gather(1, apart.argsort(dim=1, descending=True))",
        part=_PART,
    ),
    Fault("precision by all samples", "/ right.sum(dim=1).clamp(min=1)", "/ right.shape[1]", part=_PART),
    Fault("queries by their size", "for part in (queries, codes)]", "for part in (queries.abs(), codes)]", part=_PART),
)

"""Faults of CRLNet."""

from tests.faults.planting import Fault

_ATTENTION = "_joint_attention"

FAULTS = (
    Fault(
        "what correlates is summed over the image's own axes",
        "correlation(crossed.query, crossed.support)",
        "correlation(crossed.support, crossed.query)",
    ),
    Fault(
        "one condition for both",
        "for_query = self.condition(correlation(crossed.support, crossed.query)).squeeze(2)",
        "for_query = for_support",
    ),
    Fault(
        "maps before the attention are correlated",
        "crossed = self.cross(support, query)",
        "crossed = PairOfTensors(support, query)",
    ),
    Fault("axes exchanged", '"bchw,bcxy->bhwxy"', '"bchw,bcxy->bhwyx"'),
    Fault(
        "one projection for both",
        "self._embedded(query, for_query, self.query)",
        "self._embedded(query, for_query, self.support)",
    ),
    Fault("an encoder without positions", "condition], dim=1)))) + positions(maps)", "condition], dim=1))))"),
    Fault("no norm before attention", "self.encoder(x, normed, normed, normed)", "self.encoder(x, x, x, x)"),
    Fault("the normalised tokens are added", "self.encoder(x, normed,", "self.encoder(normed, normed,"),
    Fault(
        "a sum for an average",
        "(1 - self.share) * maps.mean(dim=(2, 3)) + self.share * new.mean(dim=1)",
        "maps.mean(dim=(2, 3)) + self.share * new.mean(dim=1)",
    ),
    Fault("shares exchanged", "(1 - self.share) * maps", "self.share * maps"),
    Fault("dropout in the encoder, too", "heads, ffn, dropout=0.0)", "heads, ffn, dropout)"),
    Fault("maps of any shape", "or support.shape[1:] != expected", ""),
    Fault("any share", "if not 0 <= share <= 1:", "if share < 0:"),
    Fault("labels exchanged", "same.to(support.dtype))", "(~same).to(support.dtype))"),
    Fault(
        "products for cosines",
        "F.mse_loss(F.cosine_similarity(support, query, eps=1e-6)",
        "F.mse_loss((support * query).sum(dim=1)",
    ),
    Fault("labels that are no bools", "same.dtype != torch.bool or ", ""),
    Fault(
        "support and query exchanged in episodes",
        "support[pairs % len(support)], query",
        "support[pairs // len(query)], query",
    ),
    Fault("the last shot only", "members / members.sum(dim=0)", "members"),
    Fault("training mode in episodes", "with evaluating(model):", "if model is not None:"),
    Fault("classes without support", "or set(labels.tolist()) != set(range(int(labels.max()) + 1))", ""),
    Fault("any batch size", "or batch_size < 1", ""),
    Fault(
        "each image looks at itself only",
        "torch.cat([support, query], dim=2)",
        "torch.cat([support] * 2, dim=2)",
        part=_ATTENTION,
    ),
    Fault("side by side", "torch.cat([support, query], dim=2)", "torch.cat([support, query], dim=3)", part=_ATTENTION),
    Fault("values with positions", "own.value(keys))", "own.value(keys) + at_keys)", part=_ATTENTION),
    Fault("keys without positions", "own.key(keys) + at_keys", "own.key(keys)", part=_ATTENTION),
    Fault(
        "queries without positions", "own.query(tokens(maps)) + at_pixels", "own.query(tokens(maps))", part=_ATTENTION
    ),
    Fault("one path for both", "attended(query, self.query)", "attended(query, self.support)", part=_ATTENTION),
    Fault(
        "columns before rows", "torch.cat([rows, columns], dim=2)", "torch.cat([columns, rows], dim=2)", part=_ATTENTION
    ),
    Fault("sines only", "torch.where(number % 2 == 0, angle.sin(), angle.cos())", "angle.sin()", part=_ATTENTION),
    Fault("positions from 0", "torch.arange(1, length + 1,", "torch.arange(length,", part=_ATTENTION),
    Fault("each channel has a wave of its own", "2 * (number // 2)", "number", part=_ATTENTION),
    Fault(
        "maps come back with height and width exchanged", "new.transpose(1, 2).reshape", "new.reshape", part=_ATTENTION
    ),
    Fault(
        "nothing added after attention",
        "self.norm(added + self.attention(",
        "self.norm(self.attention(",
        part=_ATTENTION,
    ),
    Fault(
        "nothing added after the network",
        "self.ffn_norm(x + self.ffn(x))",
        "self.ffn_norm(self.ffn(x))",
        part=_ATTENTION,
    ),
    Fault("channels of any number", "if channels % 4 or channels % heads:", "if channels % heads:", part=_ATTENTION),
    Fault("any dropout", "if not 0 <= dropout < 1:", "if dropout < 0:", part=_ATTENTION),
    Fault("maps of two shapes", "or support.shape != query.shape or", "or", part=_ATTENTION),
)

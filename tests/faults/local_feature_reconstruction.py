"""Faults of local feature reconstruction."""

from tests.faults.planting import Fault

LAYERS = "_transformer_layers"

FAULTS = (
    Fault("weights that run to the last part", "at / (parts - 2) if parts > 2", "at / (parts - 1) if parts > 2"),
    Fault("weights the wrong way round", "(1 - ratio) * first + ratio * last", "ratio * first + (1 - ratio) * last"),
    Fault("gradient to the target", "F.mse_loss(decoded, target.detach())", "F.mse_loss(decoded, target)"),
    Fault("broadcast targets", "    if decoded.shape != target.shape:", "    if decoded.ndim != target.ndim:"),
    Fault(
        "weights swapped",
        "in zip(depth_weights(classification, parts), outputs.scores",
        "in zip(depth_weights(reconstruction, parts), outputs.scores",
    ),
    Fault(
        "the last part's loss lost",
        "terms = [F.cross_entropy(outputs.logits, labels)]",
        "terms = [labels.new_zeros(())]",
    ),
    Fault(
        "the last part weighed, too", "loss = score_weight * F.cross", "loss = score_weight * score_weight * F.cross"
    ),
    Fault("auxiliaries from the global stream", "with seeded_by(generator):", "with seeded_by(None):"),
    Fault("all blocks parts where left out", "min(4, len(layers)) if parts", "len(layers) if parts"),
    Fault("gradients go through", "            given = output.detach()", "            given = output"),
    Fault(
        "the image in place of features",
        "given if number else given_tokens(parts[0], given)",
        "given_tokens(parts[0], given)",
    ),
    Fault(
        "the image of a part's input",
        "seen.append(report(output, given, x))",
        "seen.append(report(output, given, given))",
    ),
    Fault("auxiliaries in eval mode", "        if not self.training:\n            return self.model(x)\n", ""),
    Fault("order unchecked", "            check_order(self.model, parts, x)\n", ""),
    Fault(
        "tokens by the stem in train mode",
        "    with evaluating(stem):\n        return stem(x)",
        "    return stem(x)",
        part=LAYERS,
    ),
    Fault("positions forgotten", ".transpose(1, 2) + self.position", ".transpose(1, 2)", part=LAYERS),
    Fault("shared weights allowed", "if len(set(own)) < len(own):", "if not own:", part=LAYERS),
    Fault("patches left over", " or tokens * numbers != images[0].numel()", "", part=LAYERS),
    Fault(
        "pixels of a patch in another order",
        "stride=side).transpose(1, 2)",
        "stride=side).transpose(1, 2).flip(2)",
        part=LAYERS,
    ),
    Fault("heads on the first token", "return x.mean(dim=1)", "return x[:, 0]", part=LAYERS),
)

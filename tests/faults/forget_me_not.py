"""Faults of Forget-Me-Not."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("the 1-norm", "torch.linalg.vector_norm(torch.cat(marked))", "torch.cat(marked).sum()"),
    Fault(
        "norms of the layers added up",
        "torch.linalg.vector_norm(torch.cat(marked))",
        "sum(torch.linalg.vector_norm(layer) for layer in marked)",
    ),
    Fault("no gradient at 0", "torch.linalg.vector_norm(torch.cat(marked))", "torch.cat(marked).square().sum().sqrt()"),
    Fault("all but the marked", "masked_select(positions[", "masked_select(~positions["),
    Fault(
        "marks of one sample for all",
        "masked_select(positions[:, None, None])",
        "masked_select(positions[:1, None, None])",
    ),
    Fault(
        "attention raised",
        "attention_mass(maps, marks[of]).backward()",
        "(-attention_mass(maps, marks[of])).backward()",
    ),
    Fault("always the first caption", "row // x.shape[1]", "row // x.shape[1] * 0"),
    Fault("captions taken in turn", "row // x.shape[1]", "row % len(captions)"),
    Fault(
        "no noise",
        "add_noise(clean, normal(clean, generator), model",
        "add_noise(clean, 0 * normal(clean, generator), model",
    ),
    Fault("end always", "end=self.end)", "end=True)"),
    Fault("end never", "end=self.end)", "end=False)"),
    Fault("positions not read", "if positions is None:", "if isinstance(model, TextToImage):"),
    Fault("images not read", "        if images is None:\n", "        if images is None or len(captions) > 1:\n"),
    Fault("guidance left out", "guidance=self.guidance", "guidance=1.0"),
    Fault("nothing clipped", "nn.utils.clip_grad_norm_(weights, self.clip)", "pass"),
    Fault("weight decay left out", ", weight_decay=self.weight_decay)", ", weight_decay=0.0)"),
    Fault("all is trained", "fine_tuned(student, self.group, model)", 'fine_tuned(student, "all", model)'),
    Fault("the original is looked at", "cast(Any, student).network", "cast(Any, model).network"),
    Fault("gradients add up", "                optimizer.zero_grad()\n", ""),
    Fault("source changed", 'caption_list("forget", forget), copied(model)', 'caption_list("forget", forget), model'),
    Fault(
        "retain read", 'caption_list("forget", forget), copied', 'caption_list("forget", [*forget, *retain]), copied'
    ),
    Fault("captions with nothing marked", " or not positions.any(dim=1).all()", ""),
    Fault(
        "drawn from the global random state",
        "(self.batch_size,), generator=generator, device=generator.device)",
        "(self.batch_size,))",
    ),
)

"""Faults of UCE."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("guide not mapped", "erase_scale * (g @ w.T).T @ c", "erase_scale * g.T @ c"),
    Fault("erased and guide exchanged", "(g @ w.T).T @ c + preserve", "(c @ w.T).T @ g + preserve"),
    Fault("sign of the erased", "left = lam * w + erase_scale", "left = lam * w - erase_scale"),
    Fault("preserved on one side only", "+ preserve_scale * p.T @ p", ""),
    Fault("scale forgotten on the right", "erase_scale * c.T @ c", "c.T @ c"),
    Fault(
        "solved from the left",
        "torch.linalg.solve(right, left, left=False)",
        "torch.linalg.solve(right, left.T).T.flip(0)",
    ),
    Fault("source edited", "erased = copy.deepcopy(model)", "erased = model"),
    Fault("the end in place of the last word", "model.tokenizer.ends(captions) - 1", "model.tokenizer.ends(captions)"),
    Fault("first word in place of the last", "tokens[torch.arange(len(captions)), last]", "tokens[:, 0]"),
    Fault("lam of the left forgotten", "left = lam * w", "left = w"),
    Fault(
        "nothing kept",
        "c, g, p = (self._tokens(model, given) for given in (captions, [self.guide] * len(captions), kept))",
        "c, g, p = (self._tokens(model, given) for given in (captions, [self.guide] * len(captions), []))",
    ),
    Fault("one text read letter by letter", 'caption_list("forget", forget)', "list(forget)"),
    Fault("biases edited like matrices", 'if name.endswith(".weight")', 'if name.endswith("")'),
)

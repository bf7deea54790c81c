"""Faults of concept ablation."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "gradients flow through the anchor",
        "        with torch.no_grad():\n            truth",
        "        with torch.enable_grad():\n            truth",
    ),
    Fault("anchor of a frozen copy", "partial(predict, student))", "partial(predict, copied(student)))"),
    Fault(
        "caption and anchor exchanged",
        "(original.condition(each, len(each)) for each in (captions, anchors))",
        "(original.condition(each, len(each)) for each in (anchors, captions))",
    ),
    Fault(
        "images of the captions to forget", "x = self._drawn(original, anchors", "x = self._drawn(original, captions"
    ),
    Fault("images of the first anchor alone", "anchors[index % len(anchors)]", "anchors[0]"),
    Fault("first pair alone", "pair = row % len(captions)", "pair = row * 0"),
    Fault("variants confused", 'if self.variant == "model"', 'if self.variant == "noise"'),
    Fault("noise where the network predicts something else", "abar, prediction_of(model))", 'abar, "eps")'),
    Fault("errors of the noise", "partial(predict, student)", "student.eps"),
    Fault("the caption to forget regularised", "loss_of(z, t, anchored[row % len", "loss_of(z, t, forgotten[row % len"),
    Fault("weight of the regularisation left out", "loss = loss + self.lam * loss_of", "loss = loss + loss_of"),
    Fault("gradients not clipped", "                nn.utils.clip_grad_norm_(weights, _LARGEST_GRADIENT)\n", ""),
    Fault("no decay of the weights", "torch.optim.AdamW(weights, lr=self.lr)", "torch.optim.Adam(weights, lr=self.lr)"),
    Fault("images in [0, 1]", "            model.encode(\n", "            (lambda images: images)(\n"),
    Fault("guidance left out", "guidance=self.guidance", "guidance=1.0"),
    Fault("source changed", "cast(Any, copied(model))", "cast(Any, model)"),
    Fault(
        "retain read",
        'captions = caption_list("forget", forget)',
        'captions = caption_list("forget", [*forget, *retain])',
    ),
    Fault("noise from the global random state", "normal(x[row], generator)", "torch.randn_like(x[row])"),
    Fault("one text read letter by letter", 'caption_list("forget", forget)', "list(forget)"),
    Fault("number of anchors unchecked", "if len(anchors) != count:", "if False:"),
)

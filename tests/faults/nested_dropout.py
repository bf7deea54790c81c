"""Faults of nested dropout."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("law of a normal with the spread as its standard deviation", "/ std).square()", "/ std).square() / 2"),
    Fault("law begins at a cut of no feature", "torch.arange(1, dim + 1, dtype", "torch.arange(dim, dtype"),
    Fault("law of exponentials", "/ std).square(), dim=0)", "/ std), dim=0)"),
    Fault("cut one feature too early", "return 1 + torch.multinomial", "return torch.multinomial"),
    Fault("the last features kept", "device=x.device) < count", "device=x.device) >= x.shape[-1] - count"),
    Fault(
        "a cut for each sample",
        "return 1 + torch.multinomial(law.to(device), 1, generator=self.generator)",
        "return 1 + torch.multinomial(law.to(device), 4, replacement=True, generator=self.generator)[:, None]",
    ),
    Fault(
        "what is dropped multiplied by 0",
        "return x.where(torch.arange(x.shape[-1], device=x.device) < count, x.new_zeros(()))",
        "return x * (torch.arange(x.shape[-1], device=x.device) < count)",
    ),
    Fault(
        "what is kept scaled as in dropout",
        "_keep_first(x, self._cut(self._law).to(x.device))",
        "_keep_first(x, cut := self._cut(self._law).to(x.device)) * self.dim / cut",
    ),
    Fault("draws in eval mode", "if not self.training:", "if False:"),
    Fault(
        "width cuts training, too",
        "return x if self._law is None else",
        "x = _keep_first(x, self.width)\n        return x if self._law is None else",
    ),
    Fault("width lost with the state", "torch.tensor(dim))", "torch.tensor(dim), persistent=False)"),
    Fault(
        "law in the format of the network",
        "self._law = None if std is None else cut_law(dim, std)",
        'self.register_buffer("_law", None if std is None else cut_law(dim, std))',
    ),
    Fault("draws from the global stream", "1, generator=self.generator)", "1)"),
    Fault("any width accepted", '_check_whole("width", width, self.dim)', '_check_whole("width", width)'),
    Fault("accuracies in train mode", "with evaluating(model):", "if True:"),
    Fault("width left as it was tried last", "        layer.truncate(before)", "        pass"),
    Fault("accuracy over the first batch alone", "right / len(labels)", "right / min(len(labels), _BATCH)"),
)

"""Faults of PS-KD."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "label and prediction swapped",
        "torch.lerp(_one_hot(labels, predictions), predictions, alpha)",
        "torch.lerp(predictions, _one_hot(labels, predictions), alpha)",
    ),
    Fault("epochs from 0", "min(self.epoch + 1, self.epochs)", "min(self.epoch, self.epochs)"),
    Fault("no progress", "self.alpha_T * min(self.epoch + 1, self.epochs) / self.epochs", "self.alpha_T"),
    Fault("strength without end", "min(self.epoch + 1, self.epochs)", "(self.epoch + 1)"),
    Fault(
        "its present prediction for a target",
        "self.targets(index, self.predictions[index])",
        "self.targets(index, logits.detach().softmax(dim=1))",
    ),
    Fault(
        "predictions of other examples",
        "self.targets(index, self.predictions[index])",
        "self.targets(index, self.predictions[: len(index)])",
    ),
    Fault("predictions keep the graph", "logits.detach().softmax(dim=1)", "logits.softmax(dim=1)"),
    Fault("records logits", "logits.detach().softmax(dim=1)", "logits.detach()"),
    Fault("softmax over the batch", "logits.detach().softmax(dim=1)", "logits.detach().softmax(dim=0)"),
    Fault("sum in place of the mean", ".sum(dim=1).mean()", ".sum()"),
    Fault("mean over classes, too", ".sum(dim=1).mean()", ".mean()"),
    Fault(
        "starts from uniform predictions",
        "self.predictions = _one_hot(self.labels, logits)",
        "self.predictions = torch.full((count, logits.shape[1]), 1 / logits.shape[1], dtype=logits.dtype)",
    ),
    Fault(
        "predictions outside the state",
        "        self.predictions = None if predictions is None else predictions.to(self.inputs.device, copy=True)\n",
        "",
    ),
    Fault("state is written on", "predictions.to(self.inputs.device, copy=True)", "predictions.to(self.inputs.device)"),
    Fault("state is a view", "self.predictions.clone()", "self.predictions"),
    Fault("epoch outside the state", '        self.epoch = state_dict["epoch"]\n', ""),
    Fault("generator outside the state", '        self.generator.set_state(state_dict["generator"])\n', ""),
    Fault(
        "without shuffling",
        "torch.randperm(count, generator=self.generator, device=self.generator.device)",
        "torch.arange(count)",
    ),
    Fault("in eval mode", "self.model.train()", "self.model.eval()"),
    Fault("a smaller last batch", "order.tensor_split(-(-count // self.batch_size))", "order.split(self.batch_size)"),
)

"""Faults of FedoSSL."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("margin of the other sign", "logits + scale * margin *", "logits - scale * margin *"),
    Fault("margin without a limit", "min(1 - float(sure.mean()), 0.5)", "1 - float(sure.mean())"),
    Fault("margin of all samples", "prob[labels < 0].max(1)", "prob.max(1)"),
    Fault("a sample is its own neighbour", ".masked_fill(own, -math.inf)", ""),
    Fault("pairs within the first view", "prob2[partners]", "prob[partners]"),
    Fault("mean entropy in place of that of the mean", "mean = prob.mean(0)", "mean = prob[0]"),
    Fault("entropy kept low", "partners) - prediction_entropy", "partners) + prediction_entropy"),
    Fault("rare classes weigh most", "beta ** (1 - counts", "beta ** (counts"),
    Fault("weights of the first classes", "weights[predicted] *", "weights[0] *"),
    Fault("suppressed loss of all samples", "prob[~known], self._weights", "prob, self._weights"),
    Fault("counts of one client", "torch.stack(counts).sum(0)", "counts[0]"),
    Fault("assignments that are not balanced", "log.log_softmax(0).log_softmax(1)", "log.log_softmax(1)"),
    Fault("centroids of any length", "F.normalize(sinkhorn_assign", "(sinkhorn_assign"),
    Fault("target of the calibration learns, too", "first.detach().softmax(1)", "first.softmax(1)"),
    Fault("calibration from the first round on", " and self.rounds >= self.warmup", ""),
    Fault("rounds outside the state", '        self.rounds = state_dict["rounds"]\n', ""),
    Fault("views of one stream for all clients", "            self._draw.manual_seed(seed + 1)\n", ""),
    Fault("model looked at in train mode", "self._views.eval().body", "self._views.train().body"),
    Fault("one view only counts", "return 2 * self._simulator.samples", "return self._simulator.samples"),
)

"""Faults of the simulator of federated learning."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("users go on from one another", "(*zip(self._parameters, self._start, strict=True), *buffers)", "buffers"),
    Fault("stale global weights", "                start.copy_(parameter)\n", "                pass\n"),
    Fault(
        "difference of the wrong sign",
        "[a - b for a, b in zip(self._start, self._parameters, strict=True)]",
        "[b - a for a, b in zip(self._start, self._parameters, strict=True)]",
    ),
    Fault("sum in place of the mean", "parameter.grad = total / weight", "parameter.grad = total / self.cohort_size"),
    Fault("all users count alike", 'len(self.users[user][0]) if self.weighting == "samples" else 1', "1"),
    Fault("clips each tensor", "(clip / norm)", "(clip / torch.linalg.vector_norm(part))"),
    Fault("scales up to the norm", ".clamp(max=1.0)", ""),
    Fault(
        "clips what is weighted", "clip_update(difference, self.clip)", "clip_update(difference, self.clip / weight)"
    ),
    Fault("noise of the cohort's own size", "cohort_size / (noise_cohort or cohort_size)", "1.0"),
    Fault("noise without the norm", "noise_multiplier * clip *", "noise_multiplier *"),
    Fault(
        "pull of the global model as SGD's only",
        "gradient = gradient + self.proximal * (parameter - self._start[number])",
        "gradient = gradient + self.proximal * parameter",
    ),
    Fault("drift of the other sign", "gradient = gradient + drift[number]", "gradient = gradient - drift[number]"),
    Fault("control variates of one step", "d / (steps * self.local_lr) - c", "d / self.local_lr - c"),
    Fault(
        "server's control variate of the cohort",
        "change / weight * (self.cohort_size / len(self.users))",
        "change / weight",
    ),
    Fault(
        "noise draws from the cohorts' stream", "normal_(generator=self._noise)", "normal_(generator=self.generator)"
    ),
    Fault("control variates outside the state", '        self._controls = dict(state_dict["controls"])\n', ""),
    Fault("lightest first", "key=lambda user: -weights[user]", "key=lambda user: weights[user]", part="_schedule"),
    Fault(
        "base cost forgotten",
        "loads[worker] += weights[user] + base",
        "loads[worker] += weights[user]",
        part="_schedule",
    ),
    Fault(
        "buffers of the last user",
        "(*zip(self._parameters, self._start, strict=True), *buffers)",
        "zip(self._parameters, self._start, strict=True)",
    ),
)

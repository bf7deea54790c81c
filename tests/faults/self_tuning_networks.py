"""Faults of self-tuning networks."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "gates of the biases left out",
        "return y + (F.linear(raw.to(self.weight), self.bias_gates) * self.second_bias).view(shape)",
        "return y",
        part="_responses",
    ),
    Fault(
        "gates added to the outputs",
        "self.weight_gates).view(shape) * layer(",
        "self.weight_gates).view(shape) + layer(",
        part="_responses",
    ),
    Fault(
        "second set of weights with the first bias",
        "layer(x, self.second_weight, None)",
        "layer(x, self.second_weight, self.bias)",
        part="_responses",
    ),
    Fault("gates by columns", "shape[dim] = len(self.weight)", "shape[-1] = len(self.weight)", part="_responses"),
    Fault("the second in place of the sum", "return first + (gates", "return (gates", part="_responses"),
    Fault(
        "gates begin at 1",
        "0.01 * torch.randn(shape[0], hyperparameters)",
        "1.0 + 0.01 * torch.randn(shape[0], hyperparameters)",
        part="_responses",
    ),
    Fault(
        "weights of the network forgotten", "        setattr(new, name, parameter)", "        pass", part="_responses"
    ),
    Fault(
        "settled at other hyperparameters",
        "weight, bias = layer.under(raw)",
        "weight, bias = layer.under(0 * raw)",
        part="_responses",
    ),
    Fault(
        "derived layers replaced", "type(layer) is nn.Linear or", "isinstance(layer, nn.Linear) or", part="_responses"
    ),
    Fault(
        "start of a sigmoid without its bounds",
        "math.log(below / above)",
        "math.log(self.start / above)",
        part="_hyperparameters",
    ),
    Fault(
        "softplus inverted as a logarithm",
        "return value + math.log(-math.expm1(-value))",
        "return math.log(value)",
        part="_hyperparameters",
    ),
    Fault(
        "an upper bound ignored",
        "self.high - F.softplus(raw) if",
        "self.low + F.softplus(raw) if",
        part="_hyperparameters",
    ),
    Fault("whole numbers not rounded", "value.floor() if self.whole", "value if self.whole", part="_hyperparameters"),
    Fault(
        "draws of a batch kept",
        "            self._batch = None\n\n\n",
        "            pass\n\n\n",
        part="_hyperparameters",
    ),
    Fault("what is kept not scaled", "< keep) / keep", "< keep)", part="_hyperparameters"),
    Fault("kept where it should be dropped", "< keep)", "> keep)", part="_hyperparameters"),
    Fault(
        "channels dropped number by number",
        "shape = x.shape if self.plain is nn.Dropout else",
        "shape = x.shape if True else",
        part="_hyperparameters",
    ),
    Fault("dropout in eval mode", "if not self.training:", "if False:", part="_hyperparameters"),
    Fault(
        "entropy of a uniform distribution",
        "(sigmas * math.sqrt(2 * math.pi * math.e)).log().sum()",
        "(sigmas * math.sqrt(2 * math.pi * math.e)).sum()",
        part="_hyperparameters",
    ),
    Fault("frozen layers replaced", ' and part.get_parameter("weight").requires_grad', ""),
    Fault("dropouts at 0 tuned", " and 0 < part.p < _MOST", ""),
    Fault("training draws nothing", "self._drawn(inputs).detach()", "self.raw.detach().expand(len(inputs), -1)"),
    Fault("one draw a batch", "len(inputs), len(like), generator", "1, len(like), generator"),
    Fault("spread not positive", "self.raw + F.softplus(self.raw_sigma) * noise", "self.raw + self.raw_sigma * noise"),
    Fault("tuning in train mode", "with evaluating(self.model), hyper", "with hyper"),
    Fault("training in the mode that it finds", "        self.model.train()\n", ""),
    Fault("entropy punished", "loss - self.entropy_weight", "loss + self.entropy_weight"),
    Fault(
        "ascent",
        "(self.raw, self.raw_sigma))\n",
        "(self.raw, self.raw_sigma), grad_outputs=-torch.ones(()).to(loss))\n",
    ),
    Fault("model keeps the old hyperparameters", "        hyperparameters.raw.copy_(self.raw.detach())\n", ""),
    Fault("spreads outside the state", '            self.raw_sigma.copy_(state_dict["raw_sigma"])\n', ""),
    Fault("hyperparameters outside the state", '            self.raw.copy_(state_dict["raw"])\n', ""),
    Fault(
        "Adam outside the state", '        self._hyper_optimizer.load_state_dict(state_dict["hyper_optimizer"])\n', ""
    ),
    Fault("generator outside the state", '        self.generator.set_state(state_dict["generator"])\n', ""),
    Fault("objective ignored", "if self.objective is None:", "if True:"),
    Fault("half precision kept", "raw.to(torch.promote_types(raw.dtype, torch.float32), copy=True)", "raw.clone()"),
    Fault(
        "any optimizer taken",
        "if not held.issuperset(parameter for",
        "if not {*model.parameters()}.issuperset(parameter for",
    ),
)

"""Faults of OrthoGrad and StableMax."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("part along the weights added", "across = g - (u * g).sum() * u", "across = g + (u * g).sum() * u"),
    Fault("projected once", "    across = across - (u * across).sum() * u\n", ""),
    Fault("weights not of unit length", "    u = u / u.norm().clamp(min=1)\n", ""),
    Fault("length not kept", "(g.norm() / torch.where(", "(1 / torch.where("),
    Fault(
        "only projected", "changed * (g.norm() / torch.where(length == 0, torch.ones_like(length), length))", "changed"
    ),
    Fault("rounding scaled up", "torch.where(parallel, torch.zeros_like(across), across)", "across"),
    Fault("always all of it", "torch.zeros_like(across), across), share)", "torch.zeros_like(across), across), 1.0)"),
    Fault("small gradients vanish", "g, size = _scaled(gradient.to(dtype))", "g, size = gradient.to(dtype), 1.0"),
    Fault("half precision as it is", "torch.promote_types(gradient.dtype, torch.float32)", "gradient.dtype"),
    Fault("a share for all groups", "p.detach(), self._share(group))", "p.detach(), self.share)"),
    Fault(
        "gradients not put back", "        finally:\n            restore()\n", "        finally:\n            pass\n"
    ),
    Fault(
        "closure's gradients as they are",
        "            loss = evaluate()\n            put_in()\n",
        "            loss = evaluate()\n",
    ),
    Fault("closure finds changed gradients", "            restore()\n            loss", "            loss"),
    Fault(
        "state of before a load",
        "        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state\n        for group",
        "        for group",
    ),
    Fault("negative logits as positive ones", "-torch.log1p(-x.clamp(max=0))", "torch.log1p(-x.clamp(max=0))"),
    Fault(
        "no slope at 0",
        "torch.where(x >= 0, torch.log1p(x.clamp(min=0)), -torch.log1p(-x.clamp(max=0)))",
        "x.sign() * x.abs().log1p()",
    ),
    Fault("plain softmax", "torch.log_softmax(log_s, dim=dim)", "torch.log_softmax(x, dim=dim)"),
    Fault("along the last dimension", "torch.log_softmax(log_s, dim=dim)", "torch.log_softmax(log_s, dim=-1)"),
    Fault("collapse within a tolerance", 'reduction="none") == 0)', 'reduction="none") < 1e-6)'),
    Fault("alignment with the gradient", "return -(w @ g)", "return (w @ g)"),
)

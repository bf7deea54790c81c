"""Faults of generative adversarial networks."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "log(1 - D) by a difference",
        "return F.logsigmoid(-logits)",
        "return (1 - logits.sigmoid()).log()",
    ),
    Fault(
        "the forms of the generator's loss exchanged",
        'if form == "minimax" else',
        'if form != "minimax" else',
    ),
    Fault("minimax loss with the other sign", "return _log_sample(fake_logits)", "return -_log_sample(fake_logits)"),
    Fault(
        "one mean over data and samples",
        "-_log_data(real_logits).mean() - _log_sample(fake_logits).mean()",
        "-2 * torch.cat([_log_data(real_logits).flatten(), _log_sample(fake_logits).flatten()]).mean()",
    ),
    Fault("sum over samples in place of the mean", "squares - math.log(len(centres))", "squares"),
    Fault("normalisation of one dimension", "- centres.shape[1] * (math.log", "- (math.log"),
    Fault("sigma in place of its square", "(-2 * sigma**2)", "(-2 * sigma)"),
    Fault("distances not centred", "centres - middle, points - middle", "centres, points"),
    Fault("best response without the case of no mass", ".where(larger > 0, 0.5)", ""),
)

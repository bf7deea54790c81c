"""Faults of defensive distillation and its two attacks."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "teacher not divided",
        "(teacher_logits.detach() / temperature).softmax(dim=1)",
        "teacher_logits.detach().softmax(dim=1)",
    ),
    Fault("gradient into the teacher", "(teacher_logits.detach() / temperature)", "(teacher_logits / temperature)"),
    Fault("softmax over the batch", "/ temperature).softmax(dim=1))", "/ temperature).softmax(dim=0))"),
    Fault("FGSM descends", "(inputs + eps * gradient.sign())", "(inputs - eps * gradient.sign())"),
    Fault("FGSM without sign", "eps * gradient.sign()", "eps * gradient"),
    Fault("FGSM leaves the bounds", "eps * gradient.sign()).clamp(*bounds)", "eps * gradient.sign())"),
    Fault(
        "FGSM moves what is fooled", "over(logits.argmax(dim=1) == labels, inputs)", "over(labels == labels, inputs)"
    ),
    Fault("model left in eval mode", "            part.training = training", "            pass", part="_attacking"),
    Fault("attacks in train mode", "    model.eval()\n    try:", "    try:", part="_attacking"),
    Fault(
        "own class among the others",
        "logits.scatter(1, labels[:, None], -math.inf).amax(dim=1)",
        "logits.amax(dim=1)",
        part="_carlini_wagner",
    ),
    Fault(
        "target as label", "others - chosen if targeted else chosen - others", "chosen - others", part="_carlini_wagner"
    ),
    Fault("margin of kappa lost", "c * margin.clamp(min=-kappa)", "c * margin.clamp(min=0)", part="_carlini_wagner"),
    Fault("last success in place of the nearest", '(squares < search["nearest"]) & ', "", part="_carlini_wagner"),
    Fault(
        "bias correction off by one",
        'beta ** search["step"].double()',
        'beta ** (search["step"] + 1).double()',
        part="_carlini_wagner",
    ),
    Fault(
        "c falls after a failure", '10 * c, (search["least_c"]', '0.1 * c, (search["least_c"]', part="_carlini_wagner"
    ),
)

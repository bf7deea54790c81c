"""Faults of erased stable diffusion."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("towards the concept", "return without - eta *", "return without + eta *"),
    Fault("negative guidance from the word's side", "return without - eta *", "return given - eta *"),
    Fault(
        "target from the student",
        "esd_target(predict(model, z, t, empty), predict(model, z, t, conditions[index]), self.eta)",
        "esd_target(predict(student, z, t, empty), predict(student, z, t, conditions[index]), self.eta)",
    ),
    Fault(
        "gradients flow into the original",
        "                with torch.no_grad():\n                    target",
        "                with torch.enable_grad():\n                    target",
    ),
    Fault(
        "empty caption forgotten",
        "predict(model, z, t, empty), predict",
        "predict(model, z, t, conditions[index]), predict",
    ),
    Fault(
        "student asked with the empty caption",
        "predict(student, z, t, conditions[index]), target)",
        "predict(student, z, t, empty), target)",
    ),
    Fault("x and u confused", '"u": "all_but_cross_attention"', '"u": "cross_attention"'),
    Fault("strict mode trains queries, too", '"x-strict": "keys_and_values"', '"x-strict": "cross_attention"'),
    Fault(
        "word from the global random state",
        "(), generator=generator, device=generator.device))",
        "()))",
    ),
    Fault("first word alone", "[captions[index]] * self.batch_size", "[captions[0]] * self.batch_size"),
    Fault("retain read", 'caption_list("forget", forget)', '[*caption_list("forget", forget), *retain]'),
    Fault("source changed", "copied(model)", "model"),
    Fault("model in its own mode", "_GROUPS[self.mode], model)", "_GROUPS[self.mode])"),
    Fault(
        "errors of the noise",
        "F.mse_loss(predict(student, z, t, conditions[index]), target)",
        "F.mse_loss(student.eps(z, t, conditions[index]), target)",
    ),
    Fault("guidance left out", "guidance=self.start_guidance", "guidance=1.0"),
    Fault("latents of the wrong model", 'self.latents_from == "original" else', 'self.latents_from == "student" else'),
    Fault("gradients add up", "                optimizer.zero_grad()\n                F.", "                F."),
)

"""Why objects of other packages fail checks, where the reason does not tell; found by reading them."""

_FIRST_GROUP = "The step size is that of the first group, for all groups."
_ADAMW_LR = (
    "Groups that are not of matrices step by `adamw_lr`, whatever `lr` is; a group that is added must say `use_muon`."
)
_PROCESS = "It is run in a process group of one process, and exchanges by it."
_MEAN = "It compares with a mean over all entries that have a gradient, zero or not."
_SINGLE = "It computes in float32, whatever the dtype."
_GRAPH = "By its documents gradients are made with `create_graph`; it draws from the global random state."
_FUSED = "It updates while `fused_backward` runs; `step` raises `NotImplementedError` without a message."

CAUSES: dict[str, dict[str, str]] = {
    "torch": {
        "optim.LBFGS": "It flattens by `view(-1)`; `add_param_group` is not refused, and the next step fails.",
        "optim.Rprop": "Its step sizes are clamped from below at 1e-6.",
    },
    "lion-pytorch": {"Lion": "`assert lr > 0.` without a message."},
    "timm": {
        "PlateauLRScheduler": "Its `state_dict` holds best metric and last epoch, not the number of bad epochs.",
        **dict.fromkeys(
            ("EvoNorm2dB0", "EvoNorm2dS0", "FilterResponseNormAct2d", "FilterResponseNormTlu2d", "DiffAttention"),
            _SINGLE,
        ),
        **dict.fromkeys(
            ("AsymmetricLossMultiLabel", "PolyCrossEntropy", "PolyBinaryCrossEntropy", "TwoWayLoss", "ZlprLoss"),
            _SINGLE,
        ),
        "GatherExcite": (
            "It hands device and dtype to its perceptron as `*dd`, which are their names in the place of arguments, so "
            "that it cannot be made with a perceptron."
        ),
        "JsdCrossEntropy": "By its documents a batch is its splits one after the other, so that their order matters.",
        "AsymmetricLossSingleLabel": "It knows the mean alone; whatever else it is asked for, it gives single terms.",
    },
    "transformers": {"Adafactor": "It evaluates the closure under `torch.no_grad()`."},
    "pytorch_optimizer": {
        "SoftF1Loss": _SINGLE,
        **dict.fromkeys(
            ("FocalCosineLoss", "FocalTverskyLoss", "LovaszHingeLoss", "TverskyLoss"),
            "It computes in float32 at least, and gives that.",
        ),
        **dict.fromkeys(("muon", "adamuon", "adago", "normuon", "muonclip"), _ADAMW_LR),
        "distributedmuon": f"{_ADAMW_LR} {_PROCESS}",
        "demo": _PROCESS,
        **{f"dadapt{name}": _FIRST_GROUP for name in ("adagrad", "adan", "lion", "sgd")},
        "dadaptadam": f"{_FIRST_GROUP} Its step size overshoots: the loss is 354 at step 40 and 0.40 at step 200.",
        "prodigy": _FIRST_GROUP,
        "adai": _MEAN,
        "ranger21": _MEAN,
        "avagrad": _MEAN,
        "ranger": (
            "In its first steps, where RAdam takes none, it steps up the gradient: `get_rectify_step_size` marks them "
            "by a step size below 0, which `RAdam` leaves out and `Ranger` takes."
        ),
        "adabound": "It lists the step sizes of its groups when it is made.",
        "adafactor": "Unless `relative_step` is switched off, `lr` is not used.",
        "nero": "It flattens by `view`; its constraints centre and normalise matrices whatever `lr` is.",
        "lbfgs": "It is that of torch.",
        "shampoo": "In float32 its preconditioner of a 4 x 3 matrix is not finite at the second step.",
        "alig": "By its documents the closure gives the loss alone, as `lambda: float(loss)`.",
        "apollodqn": (
            "For its first 500 steps the step size rises from `init_lr` to the `lr` that the constructor was given."
        ),
        "ftrl": "It divides by `lr`.",
        "lorarite": (
            "By its documents it takes pairs of factors, one after the other, and skips those without a partner; the "
            "toy problems have no pairs."
        ),
        "sara": "It trains only entries whose size is below its threshold, 1e-3; most of the toy problems are larger.",
        "splus": "Eval mode gives a running mean, freed of its bias, which rounds.",
        "srmm": "The parameters become a running mean that starts from zero.",
        "adammini": "It is made from a model; a group that is added must have a name.",
        "lomo": _FUSED,
        "adalomo": _FUSED,
        "adahessian": _GRAPH,
        "sophiah": _GRAPH,
    },
    "foolbox": {
        "EADAttack": "It is given 4 searches of 200 steps, and by itself takes 9 of 10,000.",
        "L2CarliniWagnerAttack": "It is given 4 searches of 200 steps, and by itself takes 9 of 10,000.",
        **dict.fromkeys(
            ("L1BasicIterativeAttack", "L1FastGradientAttack", "L1MomentumIterativeFastGradientMethod"),
            "Its step in the norm 1 is along the gradient; the best one is along its largest entries.",
        ),
    },
    "diffusers": {
        f"DPMSolverMultistepScheduler (solver_order=3{more})": "Its first two steps, of order 1 and 2, leave order 2."
        for more in ("", ", use_karras_sigmas=True")
    },
}
"""Package to subject to the cause."""

NOT_RUN: dict[str, str] = {
    "schedulefree": "`ScheduleFreeWrapper` and its reference form, which wrap another optimizer.",
    "torchattacks": (
        "APGDT and AutoAttack, whose targeted loss takes at least four classes (the toy networks have two and three); "
        "JSMA, OnePixel, Pixle and SparseFool, which count pixels; LGV, which trains; VANILA and MultiAttack, which "
        "attack nothing themselves."
    ),
    "foolbox": (
        "attacks that are measured otherwise than in a norm of 1, 2 or infinity, that need data, or whose name tells "
        "no norm; Brendel and Bethge's, which need numba."
    ),
    "diffusers": (
        "schedulers of consistency models (LCM, TCD, CM, SCM), which ask for a network distilled for them; those of "
        "one pipeline, of inversion, of discrete data, and of noise levels in units of the data (EDM); DPMSolverSDE, "
        "which needs torchsde; the parallel forms of DDIM and DDPM."
    ),
}
"""Package to what was left out, and why."""

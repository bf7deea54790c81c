"""Faults of MAID."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("error of the inner solution not divided by mu", "slope.norm().item() / low", "slope.norm().item()"),
    Fault("no momentum", "y = x + momentum * (x - before)", "y = x"),
    Fault("momentum of convex functions alone", "momentum * (x - before)", "0.99 * (x - before)"),
    Fault("the cap forgotten", "or work == most:", "or work == 10 * most:"),
    Fault("convexity not checked", "if not 0 < low <= high < math.inf:", "if False:"),
    Fault("ascent", "Hypergradient(-(jacobian @ q), error, work)", "Hypergradient(jacobian @ q, error, work)"),
    Fault("residual forgotten in the bound", "of_q = residual / low", "of_q = 0.0"),
    Fault("curvature of the inner problem forgotten", "+ problem.hessian_change(theta) * (length + of_q)", ""),
    Fault("curvature of the upper loss forgotten", "curved = problem.upper_smoothness + ", "curved = "),
    Fault("bound without mu", "of_q += solved.error * curved / low", "of_q += solved.error * curved"),
    Fault("change of the Jacobian forgotten", " + problem.jacobian_change(theta) * solved.error * (length + of_q)", ""),
    Fault("largest entry of the Jacobian", "jacobian.norm().item() * of_q", "jacobian.abs().max().item() * of_q"),
    Fault(
        "conjugate gradients without conjugation", "residual + square / before * direction", "residual", part="_bilevel"
    ),
    Fault("a residual of squares", "square.sqrt().item() > delta", "square.item() > delta", part="_bilevel"),
    Fault("any gradient taken", "if error > (1 - descent) * size:", "if False:"),
    Fault("the old loss without doubt", "- sum(doubts)", "- doubts[1]"),
    Fault("the new loss without doubt", "- sum(doubts)", "- doubts[0]"),
    Fault("a rise for a fall", "values[0] - values[1]", "values[1] - values[0]"),
    Fault("decrease by the length alone", "length * size**2:", "length * size:"),
    Fault("doubt without its second order", "+ problem.upper_smoothness * solved.error**2 / 2", ""),
    Fault("steps that never grow", "length * 10 / 9", "length"),
    Fault("accuracy that never falls", "eps, delta = eps * 1.05, delta * 1.05", "pass"),
    Fault("steps cut by a tenth", "step * 0.5**trial", "step * 0.9**trial"),
    Fault("work of the line search counted twice", "done += solved.work", "done += 2 * solved.work"),
    Fault("Hessian products not counted", "done += products", "done += 0"),
)

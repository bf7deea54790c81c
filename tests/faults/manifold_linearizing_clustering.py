"""Faults of manifold linearizing and clustering."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("not divided by the samples", "(dim / (count * eps**2))", "(dim / eps**2)"),
    Fault("the precision not squared", "moments * (dim / eps**2)", "moments * (dim / eps)"),
    Fault("memberships transposed", "membership.T @ products", "membership @ products"),
    Fault(
        "a sum over samples", "_log_det(moments * (dim / eps**2)).mean()", "_log_det(moments * (dim / eps**2)).sum()"
    ),
    Fault("half the determinant", "return 2 * torch.linalg", "return torch.linalg"),
    Fault("no identity", "torch.linalg.cholesky(identity + matrix)", "torch.linalg.cholesky(1e-9 * identity + matrix)"),
    Fault(
        "rates the other way round",
        "return clustered_rate(features, membership, eps) - coding_rate(features, eps)",
        "return coding_rate(features, eps) - clustered_rate(features, membership, eps)",
    ),
    Fault("signs of cosines", "(first * second).sum(dim=1).abs().mean()", "(first * second).sum(dim=1).mean()"),
    Fault("unlike views", "eps) - weight *", "eps) + weight *"),
    Fault("times eta", "logs = scores / eta", "logs = scores * eta"),
    Fault("columns alone", "        logs = logs - logs.logsumexp(dim=1, keepdim=True)\n", ""),
    Fault(
        "rows last",
        "        logs = logs - logs.logsumexp(dim=1, keepdim=True)\n        logs = logs - logs.logsumexp(dim=0, keepdim=True)\n",
        "        logs = logs - logs.logsumexp(dim=0, keepdim=True)\n        logs = logs - logs.logsumexp(dim=1, keepdim=True)\n",
    ),
    Fault("singular values not squared", "double()).square()", "double())"),
    Fault("one direction too few", ".sum()) + 1, len(squares))", ".sum()), len(squares))"),
)

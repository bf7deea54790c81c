"""The kind "estimator": what is fitted to arrays by the conventions of scikit-learn."""

from typing import Any, Protocol

__all__ = ["Estimator"]


class Estimator(Protocol):
    """An object with ``fit`` that follows the conventions of scikit-learn, and takes its place among its estimators.

    A random one takes its randomness from the keyword ``random_state`` with which it is made. The contract, each law
    with the check that holds it:

    - It passes the checks of `sklearn.utils.estimator_checks`, but for those that are declared with the reason, which
      must fail (`check_scikit_learn`).
    - It can be cloned, stands at the end of a ``Pipeline`` and is chosen by a ``GridSearchCV`` (`check_composes`).
    - The same ``random_state`` gives the same bits, whatever the global random state (`check_repeatable`).
    - The global random state is untouched (`check_global_random_state`).
    - The data are not modified (`check_data_unmodified`).
    - At its null setting it learns what its baseline learns, bit for bit (`check_null`).

    Example:
        >>> from sklearn.cluster import KMeans
        >>> estimator: Estimator = KMeans(2, random_state=0)
        >>> estimator.fit([[0.0], [0.1], [5.0]]).labels_.tolist()[0] != estimator.labels_.tolist()[2]
        True
    """

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit to samples, (n, features), and, where it learns from them, targets, (n,); return itself."""
        ...

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Give the arguments of the constructor."""
        ...

    def set_params(self, **params: Any) -> Any:
        """Set arguments of the constructor; return itself."""
        ...

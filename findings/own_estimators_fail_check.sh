#!/usr/bin/env bash
# scikit-learn 1.9.1.
#
# check_estimator is what scikit-learn gives to authors of other estimators, to show that theirs follow its conventions; one would guess
# that its own pass it. Several do not, as they are by default: Ridge has no n_iter_ with the solver that it picks though it has
# max_iter, and KMeans and SVC treat a sample of weight two otherwise than the sample twice. In its own tests these are declared as
# expected, in a table that is private and that check_estimator does not read. Whoever holds estimators to check_estimator without a list of
# expected failures refuses these three; GaussianNB and Lasso pass.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "scikit-learn==1.9.1" "numpy<3" "scipy<2"
"$folder/venv/bin/python" - <<'EOP'
import contextlib
import io
import warnings

import sklearn
from sklearn.cluster import KMeans
from sklearn.linear_model import Lasso, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import check_estimator

warnings.simplefilter("ignore")
print("scikit-learn", sklearn.__version__)
failed: dict[str, set[str]] = {}
for kind in (GaussianNB, Lasso, Ridge, KMeans, SVC):
    with contextlib.redirect_stdout(io.StringIO()):
        results = check_estimator(kind(), on_skip=None, on_fail=None)
    failed[kind.__name__] = {each["check_name"] for each in results if each["status"] == "failed"}
    print(f"{kind.__name__}: {len(results)} checks, failed: {', '.join(sorted(failed[kind.__name__])) or 'none'}")
weights = {f"check_sample_weight_equivalence_on_{form}_data" for form in ("dense", "sparse")}
assert failed == {
    "GaussianNB": set(),
    "Lasso": set(),
    "Ridge": {"check_non_transformer_estimators_n_iter"},
    "KMeans": weights,
    "SVC": weights,
}
EOP

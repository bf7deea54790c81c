"""The words of each contract name its checks, all of them and no others."""

import re

import pytest

from paperweight import kinds
from paperweight.testing import (
    attack,
    compressor,
    data_transform,
    defense,
    estimator,
    experiment,
    function,
    layer,
    loss,
    metric,
    optimizer,
    public,
    sampler,
    schedule,
    training_procedure,
    unlearner,
)

CHECKS = {
    kinds.Optimizer: (optimizer,),
    kinds.Schedule: (schedule,),
    kinds.Layer: (layer,),
    kinds.Loss: (loss,),
    kinds.Metric: (metric,),
    kinds.Attack: (attack,),
    kinds.Defense: (defense,),
    kinds.Unlearner: (unlearner,),
    kinds.Sampler: (sampler,),
    kinds.Compressor: (compressor,),
    kinds.TrainingProcedure: (training_procedure,),
    kinds.DataTransform: (data_transform,),
    kinds.Experiment: (experiment,),
    kinds.Estimator: (estimator,),
    kinds.Function: (function, public),
}


@pytest.mark.parametrize("kind", CHECKS, ids=lambda kind: kind.__name__)
def test_the_contract_in_words_names_every_check(kind):
    named = re.findall(r"`(check_\w+)`", kind.__doc__)
    runner = f"check_{CHECKS[kind][0].__name__.rpartition('.')[2]}"
    existing = {name for module in CHECKS[kind] for name in module.__all__ if name.startswith("check_")}
    assert len(named) == len(set(named))
    assert set(named) == existing - {runner}


@pytest.mark.parametrize(("kind", "same"), [(kinds.Network, kinds.Layer), (kinds.Regularizer, kinds.Loss)])
def test_a_kind_that_shares_a_contract_says_so(kind, same):
    assert same in kind.__mro__
    assert f"its contract is that of `{same.__name__}`, law for law" in kind.__doc__

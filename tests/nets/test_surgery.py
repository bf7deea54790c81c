import pytest
import torch
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.nets import LeNet
from paperweight.nets.surgery import parametrized_weights, plain_weights, replace_modules


def is_a(kind: type[nn.Module]):
    return lambda _, part: isinstance(part, kind)


class Doubled(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.layer(x)


def test_modules_are_replaced_at_their_place_and_the_model_stays():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.ReLU())).double().eval()
    x = torch.randn(5, 3, dtype=torch.float64)
    before = model(x)
    new = replace_modules(model, is_a(nn.Linear), Doubled, wanted="a linear layer")
    assert torch.equal(model(x), before)
    by_hand = 2 * model[2][0]((2 * model[0](x)).relu())
    assert torch.equal(new(x), by_hand.relu())
    assert list(dict(new.named_children())) == ["0", "1", "2"]
    assert not any(part.training for part in new.modules())
    old = replace_modules(new, is_a(Doubled), lambda part: part.layer, wanted="a doubled layer")
    assert old.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(old(x), before)


def test_names_choose_and_the_network_itself_can_be_replaced():
    seen: list[str] = []
    model = LeNet((1, 8, 8), 3)

    def first(name: str, part: nn.Module) -> bool:
        seen.append(name)
        return name == "body.0"

    new = replace_modules(model, first, lambda _: nn.Conv2d(1, 6, 3, padding=1), wanted="a first layer")
    assert [type(part).__name__ for part in new.body][:3] == ["Conv2d", "ReLU", "MaxPool2d"]
    assert new.body[0].kernel_size == (3, 3)
    assert new.body[3].kernel_size == (5, 5)
    assert seen[:3] == ["", "body", "body.0"]
    assert isinstance(replace_modules(nn.ReLU(), is_a(nn.ReLU), lambda _: nn.Tanh(), wanted="a ReLU"), nn.Tanh)


def test_a_layer_that_is_shared_stays_shared_and_activations_get_their_own():
    shared, activation = nn.Linear(3, 3), nn.ReLU()
    model = nn.Sequential(shared, activation, shared, activation)
    new = replace_modules(model, is_a(nn.Linear), Doubled, wanted="a linear layer")
    assert new[0] is new[2]
    assert len(list(new.parameters())) == 2
    new = replace_modules(model, is_a(nn.ReLU), lambda _: nn.PReLU(), wanted="a ReLU")
    assert new[1] is not new[3]
    assert new[0] is new[2]


def test_a_block_that_stands_at_two_places_is_operated_on_once():
    block = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model = nn.Sequential(block, nn.Tanh(), block)
    calls: list[nn.Module] = []

    def build(old: nn.Module) -> nn.Module:
        calls.append(old)
        return nn.Sequential(old, nn.Dropout(0.0))

    new = replace_modules(model, is_a(nn.Linear), build, wanted="a linear layer")
    assert len(calls) == 1
    assert new[0] is new[2]
    x = torch.randn(3, 2)
    assert torch.equal(new(x), model(x))
    with pytest.raises(InputError, match=r"build must give a torch\.nn\.Module, got NoneType for '0\.0'"):
        replace_modules(model, is_a(nn.Linear), lambda old: None, wanted="a linear layer")


def test_new_modules_are_of_the_format_of_the_old():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).double()
    new = replace_modules(model, is_a(nn.Linear), lambda old: nn.Linear(3, old.out_features), wanted="a linear layer")
    assert {p.dtype for p in new.parameters()} == {torch.float64}


def test_nothing_to_replace_is_an_error_in_words():
    with pytest.raises(InputError, match=r"model must hold a pooling layer, got Linear without one; what it calls"):
        replace_modules(nn.Linear(2, 2), is_a(nn.MaxPool2d), lambda old: old, wanted="a pooling layer")


class Cubed(nn.Module):
    def forward(self, v: Tensor) -> Tensor:
        return v**3

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.sign() * weight.abs() ** (1 / 3)


def test_weights_are_computed_and_made_plain_again():
    torch.manual_seed(0)
    model = LeNet((1, 8, 8), 3).double()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    new = parametrized_weights(model, lambda layer: Cubed())
    torch.testing.assert_close(new(x), model(x), rtol=1e-12, atol=1e-12)
    assert sum(name.endswith("weight.original") for name, _ in new.named_parameters()) == 5
    with torch.no_grad():
        for name, p in new.named_parameters():
            if name.endswith("original"):
                p.mul_(0.5)
    plain = plain_weights(new)
    assert torch.equal(plain(x), new(x))
    assert {name for name, _ in plain.named_parameters()} == {name for name, _ in model.named_parameters()}
    for name, weight in plain.named_parameters():
        if name.endswith("weight"):
            torch.testing.assert_close(weight, model.get_parameter(name) / 8, rtol=1e-12, atol=0)
            assert weight.requires_grad
    assert torch.equal(plain_weights(model)(x), model(x))


def test_what_is_frozen_stays_frozen_and_parameters_keep_their_order():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    plain = plain_weights(parametrized_weights(model, lambda layer: Cubed()))
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert [p.requires_grad for p in plain.parameters()] == [False, False, True, True]


def test_weights_that_cannot_be_computed_are_refused():
    tied = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(InputError, match=r"the weight of '0' stands at another place, too; give each place one"):
        parametrized_weights(tied, lambda layer: Cubed())
    with pytest.raises(InputError, match=r"model must hold a layer of Linear, Conv1d, .* got ReLU without one"):
        parametrized_weights(nn.ReLU(), lambda layer: Cubed())
    once = parametrized_weights(nn.Sequential(nn.Linear(2, 2)), lambda layer: Cubed())
    with pytest.raises(InputError, match=r"the weight of '0' is parametrized already; call plain_weights first"):
        parametrized_weights(once, lambda layer: Cubed())

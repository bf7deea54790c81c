"""What a run is given: streams by role, data, networks and what is kept."""

import importlib.util
import itertools
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from paperweight.errors import InputError
from paperweight.nets import LeNet
from paperweight.studies import Outcome, Setting
from paperweight.studies._setting import ROLES

FACTORIES = """
    import torch
    from torch import nn

    def good(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

    def wrong_shape(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes + 1))

    def wrong_input(shape, classes):
        return nn.Linear(7, classes)

    def no_module(shape, classes):
        return lambda x: torch.zeros(len(x), classes)

    def no_tensor(shape, classes):
        class Two(nn.Module):
            def forward(self, x):
                return x, x
        return Two()

    def probabilities(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes), nn.Softmax(dim=1))

    def refuses(shape, classes):
        raise ValueError("images must be larger")

    number = 3
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_factories.py").write_text(textwrap.dedent(FACTORIES))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_factories", raising=False)
    return "my_factories"


def setting(study: str = "example", seed: int = 0, budget: Any = "smoke", **options: Any) -> Setting:
    return Setting(study=study, seed=seed, budget=budget, **options)


def weights(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


# --- streams -------------------------------------------------------------------------------------------------------


def test_every_study_seed_and_role_has_its_own_stream() -> None:
    streams = [setting(study, seed).stream(role) for study in ("a", "b") for seed in (0, 1, 10, 11) for role in ROLES]
    assert len(set(streams)) == len(streams)
    assert all(0 <= stream < 2**63 for stream in streams)
    first = [torch.rand(1, generator=setting("a", 0).generator(role)).item() for role in ROLES]
    assert len(set(first)) == len(ROLES)


def test_streams_do_not_depend_on_the_order_of_use_nor_on_anything_else() -> None:
    def draws(order: tuple[Any, ...], given: Setting, extra: int) -> dict[str, list[float]]:
        found = {}
        for role in order:
            torch.rand(extra, generator=given.generator(role))
            found[role] = torch.rand(3, generator=given.generator(role)).tolist()
        return found

    plain = draws(ROLES, setting(), 0)
    for order in itertools.permutations(ROLES):
        assert draws(order, setting(budget="desk", data="digits", network="m:f"), extra=5) == plain


def test_stream_is_the_same_on_every_machine() -> None:
    assert setting("example", 0).stream("data") == 0xF8C7FD924A8F9339 >> 1  # sha256sum of example/0/data
    with pytest.raises(InputError, match="role must be one of data, init, batches, method, evaluation; got 'noise'"):
        setting().stream("noise")  # pyright: ignore[reportArgumentType]


def test_the_global_random_state_is_left_alone(factories: str) -> None:
    before = torch.get_rng_state()
    given = setting(network=f"{factories}:good")
    given.generator("method")
    given.images(default="digits", train=20, validation=10, test=10)
    given.network((1, 8, 8), 10, default=LeNet)
    setting().network((1, 8, 8), 10, default=LeNet)
    assert torch.equal(torch.get_rng_state(), before)


def test_networks_of_the_study_s_own_come_from_the_init_stream() -> None:
    before = torch.get_rng_state()

    def build() -> nn.ModuleList:
        return nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])

    one, same = setting().initialised(build), setting().initialised(build)
    other = setting(seed=1).initialised(build)
    assert torch.equal(one[0].weight, same[0].weight)
    assert not torch.equal(one[0].weight, one[1].weight)
    assert not torch.equal(one[0].weight, other[0].weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_knows_what_was_given_and_not_asked_for(factories: str) -> None:
    assert setting().unused == []
    given = setting(data="digits", network=f"{factories}:good")
    assert given.unused == ["data", "network"]
    data = given.shared("base").images(default="digits", train=20, validation=10, test=10)
    assert given.unused == ["network"]
    given.network(data.shape, len(data.classes), default=LeNet)
    assert given.unused == []


def test_a_network_of_the_user_s_may_call_view_on_what_a_convolution_makes_of_digits(factories: str) -> None:
    parts = setting(network=f"{factories}:good").images(default="digits", train=20, validation=10, test=10)
    for part in (parts.train, parts.validation, parts.test):
        features = nn.Conv2d(1, 8, 3)(part.images[:7])
        assert torch.equal(features.view(7, -1), features.reshape(7, -1))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="seed must be at least 0, got -1"):
        setting(seed=-1)
    with pytest.raises(InputError, match="budget must be one of smoke, desk, gpu; got 'huge'"):
        setting(budget="huge")


def test_pick_follows_the_budget() -> None:
    assert [setting(budget=budget).pick(smoke=1, desk=2, gpu=3) for budget in ("smoke", "desk", "gpu")] == [1, 2, 3]


# --- data ----------------------------------------------------------------------------------------------------------


def test_images_depend_on_the_seed_alone() -> None:
    sizes = {"default": "digits", "train": 50, "validation": 10, "test": 10}
    one, same, other = (setting("a", seed).images(**sizes) for seed in (0, 0, 1))  # pyright: ignore
    assert torch.equal(one.train.images, same.train.images)
    assert torch.equal(one.test.labels, same.test.labels)
    assert not torch.equal(one.train.images, other.train.images)
    assert [len(part) for part in (one.train, one.validation, one.test)] == [50, 10, 10]


def test_time_for_data_is_not_billed() -> None:
    given = setting()
    given.images(default="digits", train=50, validation=10, test=10)
    assert given.unbilled_wall > 0
    assert given.unbilled_cpu >= 0


# --- networks ------------------------------------------------------------------------------------------------------


def test_weights_are_the_same_at_every_call_and_differ_by_seed(factories: str) -> None:
    for network in (None, f"{factories}:good"):
        torch.manual_seed(1)
        first = weights(setting(network=network).network((1, 8, 8), 10, default=LeNet))
        torch.manual_seed(2)
        given = setting(network=network)
        for _ in range(2):
            assert torch.equal(weights(given.network((1, 8, 8), 10, default=LeNet)), first)
        assert not torch.equal(weights(setting(seed=1, network=network).network((1, 8, 8), 10, default=LeNet)), first)


def test_the_user_s_network_replaces_the_default_and_is_in_training_mode(factories: str) -> None:
    model = setting(network=f"{factories}:good").network((3, 4, 5), 7, default=LeNet)
    assert isinstance(model, nn.Sequential)
    assert all(module.training for module in model.modules())
    assert model(torch.zeros(2, 3, 4, 5)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (":wrong_shape", r"to logits \(N, 10\); for N = 2 it returned \(2, 11\)"),
        (":wrong_input", r"to logits \(N, 10\); it failed on zeros of that shape"),
        (":no_module", "must return a module .* its factory returned function"),
        (":no_tensor", "for N = 2 it returned tuple"),
        (
            ":refuses",
            r"cannot be built for images of shape \(1, 8, 8\) and 10 classes: ValueError: images must be larger",
        ),
        (":probabilities", "must return a module .* it returned probabilities, .*: leave its last softmax out"),
        (":number", "must be callable, it is int"),
        (":absent", "cannot be imported: .*absent"),
        ("", "must be written package.module:name"),
        (":", "must be written package.module:name"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_network_that_does_not_fit_is_refused(factories: str, name: str, says: str) -> None:
    with pytest.raises(InputError, match=f"network .*{says}") as caught:
        setting(network=factories + name).network((1, 8, 8), 10, default=LeNet)
    assert factories + name in str(caught.value)


def test_a_module_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="'no_such_module:f' cannot be imported"):
        setting(network="no_such_module:f").network((1, 8, 8), 10, default=LeNet)


# --- tensors that are kept ------------------------------------------------------------------------------------------


class Builds:
    """Builds tensors and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def make(self, value: float = 1.0, *, source: Path | None = None) -> Callable[[], dict[str, torch.Tensor]]:
        def build() -> dict[str, torch.Tensor]:
            self.count += 1
            return {"weight": torch.full((2, 3), value).t(), "bias": torch.arange(3)}

        if source is None:
            return build
        spec = importlib.util.spec_from_file_location("own_recipe", source)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["own_recipe"] = module
        spec.loader.exec_module(module)
        return build


def test_tensors_are_built_once_a_study() -> None:
    builds = Builds()
    first = setting().cached("base", builds.make())
    again = setting().cached("base", builds.make(2.0))
    assert builds.count == 1
    for found in (first, again):
        assert torch.equal(found["weight"], torch.ones(3, 2))
        assert torch.equal(found["bias"], torch.arange(3))
    other_study = setting("another").cached("base", builds.make(3.0))
    assert builds.count == 2
    assert torch.equal(other_study["weight"], torch.full((3, 2), 3.0))


def test_what_is_shared_is_shared_by_studies_with_its_data_and_its_networks() -> None:
    builds = Builds()
    studies = [setting(), setting("another")]
    both = [study.shared("classifier") for study in studies]
    for shared in both:
        shared.cached("base", builds.make())
    setting().shared("other").cached("base", builds.make())
    assert builds.count == 2
    first, second = (shared.images(default="digits", train=50, validation=10, test=20) for shared in both)
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.images, second.test.images)
    own = studies[0].images(default="digits", train=50, validation=10, test=20)
    assert not torch.equal(own.train.images, first.train.images)
    weights = [next(shared.network((1, 8, 8), 10, default=LeNet).parameters()) for shared in both]
    assert torch.equal(*weights)
    assert studies[0].stream("data") == setting().stream("data")


def test_time_and_notes_of_what_is_shared_are_those_of_the_run() -> None:
    given = setting()
    shared = given.shared("classifier")

    def build() -> dict[str, torch.Tensor]:
        time.sleep(0.05)
        return shared.cached("inner", lambda: {"x": torch.zeros(1)})

    shared.cached("outer", build)
    assert 0.05 <= given.unbilled_wall < 10
    assert given.unbilled_wall == shared.unbilled_wall
    shared.images(default="digits", train=50, validation=10, test=20)
    assert len(given.notes) == len(shared.notes) > 0


def test_time_is_left_out_once_where_tensors_are_built_within_others() -> None:
    given = setting()

    def inner() -> dict[str, torch.Tensor]:
        time.sleep(0.2)
        return {"x": torch.zeros(1)}

    before = time.perf_counter()
    given.cached("outer", lambda: given.cached("inner", inner))
    assert 0.2 <= given.unbilled_wall <= time.perf_counter() - before


@pytest.mark.parametrize("change", [{"seed": 1}, {"budget": "desk"}, {"name": "other"}], ids=str)
def test_what_is_kept_is_built_for_each_setting(change: dict[str, Any]) -> None:
    builds = Builds()
    setting().cached("base", builds.make())
    name = change.get("name", "base")
    setting(**{key: value for key, value in change.items() if key != "name"}).cached(name, builds.make())
    assert builds.count == 2


def test_what_is_kept_is_built_anew_when_its_code_changes(tmp_path: Path) -> None:
    builds = Builds()
    file = tmp_path / "own_shared.py"
    for text in ("x = 1\n", "x = 1  # one\n", "x = 2\n"):
        file.write_text(text)
        setting().cached("base", builds.make(source=file))
    del sys.modules["own_recipe"]
    assert builds.count == 2


def test_what_is_kept_is_built_anew_when_the_data_or_the_network_s_code_changes(
    tmp_path: Path, factories: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = Builds()
    data = tmp_path / "data.npz"
    data.write_bytes(b"one")
    setting(data=str(data)).cached("base", builds.make())
    data.write_bytes(b"two")
    setting(data=str(data)).cached("base", builds.make())
    assert builds.count == 2
    setting(network=f"{factories}:good").cached("base", builds.make())
    file = tmp_path / "my_factories.py"
    file.write_text(file.read_text() + "\n\nmore = 1\n")
    monkeypatch.delitem(sys.modules, factories, raising=False)
    setting(network=f"{factories}:good").cached("base", builds.make())
    assert builds.count == 4


def test_its_draws_do_not_reach_the_run() -> None:
    def build() -> dict[str, torch.Tensor]:
        return {"weight": torch.rand(3)}

    after = []
    for _ in range(2):
        torch.manual_seed(0)
        setting().cached("base", build)
        after.append(torch.rand(1).item())
    assert after[0] == after[1]


def test_time_for_building_is_not_billed() -> None:
    given = setting()

    def build() -> dict[str, torch.Tensor]:
        x = torch.rand(300, 300)
        for _ in range(20):
            x = (x @ x).softmax(0)
        return {"x": x}

    given.cached("slow", build)
    built = given.unbilled_cpu
    assert built > 0
    assert given.unbilled_wall > 0


def test_an_outcome_needs_metrics_only() -> None:
    outcome = Outcome(metrics={"loss": 1.0})
    assert (outcome.arguments, outcome.curves, outcome.images, outcome.correct) == ({}, {}, {}, None)

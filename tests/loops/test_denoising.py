"""Training that is saved at any step goes on bit for bit; what it learns, and files that are not its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from paperweight.errors import InputError
from paperweight.generators.model import DiffusionModel, ModelSpec, load_model, write_tensors
from paperweight.generators.process import denoise
from paperweight.generators.protocol import predicted_noise
from paperweight.loops.denoising import DenoiserTraining

SPEC = ModelSpec(shape=(1, 4, 4), arguments={"width": 16, "blocks": 1}, classes=3, condition_dim=5, steps=50)
IMAGES = torch.rand(14, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(14) % 3


@pytest.fixture(autouse=True)
def _fixed_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def model(spec: ModelSpec = SPEC, seed: int = 0) -> DiffusionModel:
    torch.manual_seed(seed)
    return spec.build()


def training(seed: int = 3, weights: int = 0, **more) -> DenoiserTraining:
    return DenoiserTraining(
        model(seed=weights), **{"batch_size": 4, "label_dropout": 0.3, "decay": 0.9, "seed": seed, **more}
    )


def state(run: DenoiserTraining) -> dict[str, torch.Tensor]:
    tensors = {f"model.{name}": value for name, value in run.model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in run.average.state_dict().items()}
    for index, moments in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    return {name: value.clone() for name, value in tensors.items()}


def require_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# Three full batches an epoch: 9 steps end one, 10 and 11 are in the middle of one.
@pytest.mark.parametrize("stop", [1, 9, 10, 11])
@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "none"])
def test_saved_and_loaded_is_straight_on_bit_for_bit(tmp_path: Path, stop: int, labels):
    straight = training()
    losses = straight.run(IMAGES, labels, 20)
    before = training()
    first = before.run(IMAGES, labels, stop)
    before.save(tmp_path / "run")
    after = training(weights=7)
    torch.manual_seed(99)
    after.load(tmp_path / "run")
    assert after.step == stop
    require_equal(state(before), state(after))
    second = after.run(IMAGES, labels, 20 - stop)
    assert torch.equal(torch.cat([first, second]), losses)
    assert after.step == straight.step == 20
    require_equal(state(after), state(straight))


def test_one_object_in_two_runs_is_one_run():
    straight, halves = training(), training()
    whole = straight.run(IMAGES, LABELS, 8)
    parts = [halves.run(IMAGES, LABELS, 5), halves.run(IMAGES, LABELS, 3)]
    assert torch.equal(torch.cat(parts), whole)
    require_equal(state(straight), state(halves))


def test_a_training_saved_before_its_first_step(tmp_path: Path):
    fresh, loaded = training(), training(weights=5)
    fresh.save(tmp_path / "run")
    loaded.load(tmp_path / "run")
    assert torch.equal(fresh.run(IMAGES, LABELS, 4), loaded.run(IMAGES, LABELS, 4))


def test_every_epoch_shows_every_sample_once_but_for_those_left_over():
    # Images of levels so far apart that the noise cannot hide which is which.
    seen: list[list[int]] = []
    spec = ModelSpec(shape=(1, 1, 1), network="custom", steps=1, schedule="linear")

    class Look(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, z, t, *condition):
            clean = z.flatten() / 0.9**0.5
            seen.append((clean / 100).round().int().tolist())
            return self.weight * z

    run = DenoiserTraining(spec.build(Look()), batch_size=2, seed=1)
    levels = (100 * torch.arange(7.0).view(7, 1, 1, 1) + 1) / 2
    run.run(levels, None, 9)
    epochs = [[level for batch in seen[start : start + 3] for level in batch] for start in (0, 3, 6)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_average_is_that_of_the_weights_after_every_step():
    run = training(decay=0.75)
    expected = run.model.network.stem.weight.detach().clone()
    for _ in range(3):
        run.run(IMAGES, LABELS, 1)
        expected = 0.75 * expected + 0.25 * run.model.network.stem.weight.detach()
    torch.testing.assert_close(run.average.network.stem.weight, expected)
    assert not run.average.training
    assert run.model.training


def test_the_model_in_a_checkpoint_is_the_average(tmp_path: Path):
    run = training()
    run.run(IMAGES, LABELS, 6)
    run.save(tmp_path / "run")
    loaded = load_model(tmp_path / "run")
    assert not loaded.training
    for name, value in run.average.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert not torch.equal(loaded.network.stem.weight, run.model.network.stem.weight)


def test_the_seed_decides_what_is_random_and_the_global_state_does_not():
    first, again, other = training(), training(), training(seed=4)
    losses = first.run(IMAGES, LABELS, 4)
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    assert torch.equal(again.run(IMAGES, LABELS, 4), losses)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(other.run(IMAGES, LABELS, 4), losses)


def test_it_calls_back_after_every_step():
    run, seen = training(), []
    run.run(IMAGES, LABELS, 2)
    losses = run.run(IMAGES, LABELS, 3, on_step=lambda step, loss: seen.append((step, loss.item(), run.step)))
    assert seen == [(0, losses[0].item(), 3), (1, losses[1].item(), 4), (2, losses[2].item(), 5)]


def test_it_learns_which_image_belongs_to_which_label():
    spec = ModelSpec(shape=(1, 2, 2), arguments={"width": 32, "blocks": 1}, classes=2, condition_dim=8, steps=50)
    run = DenoiserTraining(model(spec), lr=3e-3, batch_size=64, decay=0.98, seed=1)
    labels = torch.arange(64) % 2
    run.run(torch.where(labels.bool(), 0.8, 0.1).view(64, 1, 1, 1).expand(64, 1, 2, 2), labels, 600)
    noise = torch.randn(40, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    wanted = torch.arange(40) % 2
    network = predicted_noise(run.average, wanted, 40)
    samples = run.average.decode(denoise(network, noise, schedule=run.model.schedule, clamp=run.model.clamp))
    means = [samples[wanted == label].mean().item() for label in (0, 1)]
    assert means == pytest.approx([0.1, 0.8], abs=0.05)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"lr": -1.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"batch_size": 0}, "batch_size"),
        ({"decay": 1.5}, "decay"),
        ({"label_dropout": -0.1}, "label_dropout"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_numbers(change, name: str):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        training(**change)


def test_bad_data():
    with pytest.raises(ValueError, match="images must hold at least one"):
        training().run(IMAGES[:0], None, 1)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        training().run(IMAGES, LABELS, 0)
    with pytest.raises(ValueError, match=r"labels must have shape \(14,\)"):
        training().run(IMAGES, LABELS[:4], 1)


def test_files_of_another_training_change_nothing(tmp_path: Path):
    path, run = tmp_path / "run", training()
    run.run(IMAGES, LABELS, 2)
    run.save(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    facts = {"step": 2, "seed": 3}

    def files() -> Iterator[tuple[str, str]]:
        training(seed=4).save(path)
        yield "seed", "must be of a training with seed 3"
        run.model.save(path)
        yield "model alone", "must be of a training with seed 3"
        DenoiserTraining(model(ModelSpec(shape=(1, 4, 4))), seed=3).save(path)
        yield "architecture", "is of another model"
        for step, message in ((-1, "must be of a training"), ("2", "must be of a training"), (None, r"facts\.step")):
            write_tensors(path, tensors, SPEC, {"step": step, "seed": 3})
            yield f"step {step}", message
        for change in (
            {"model.network.stem.weight": torch.zeros(2, 2)},
            {"average.network.stem.bias": None},
            {"optimizer.0.exp_avg": torch.zeros(3)},
            {"optimizer.1.step": None},
            {"optimizer.x.step": torch.zeros(())},
            {"optimizer.999.step": torch.zeros(())},
            {"more": torch.zeros(1)},
        ):
            changed = {name: value for name, value in {**tensors, **change}.items() if value is not None}
            write_tensors(path, changed, SPEC, facts)
            yield str(change.keys()), f"do not fit the model, the first is {next(iter(change))}"

    before = state(run)
    for what, message in files():
        with pytest.raises(InputError, match=message) as caught:
            run.load(path)
        assert str(path) in str(caught.value), what
        assert run.step == 2
        require_equal(state(run), before)
    write_tensors(path, tensors, SPEC, facts)
    run.load(path)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(InputError, match="nothing cannot be read"):
        training().load(tmp_path / "nothing")

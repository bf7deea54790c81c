"""The study of SolidMark: what each model is trained on, and that scores of a perfect memory are perfect."""

import pytest
import torch

from paperweight.auditing.solidmark import SolidMark
from paperweight.studies import Setting
from paperweight.studies.auditing import solidmark as study

MARK = SolidMark(thickness=2)


def records(count: int = 6) -> study._Records:
    generator = torch.Generator().manual_seed(0)
    images, keys = torch.rand(count, 1, 4, 4, generator=generator), torch.rand(count, 16, generator=generator)
    return study._Records(images, torch.arange(count), keys)


@pytest.mark.parametrize(
    ("arm", "copies"), [("replace", (1, 4, 16)), ("redrawn", (1, 4, 16)), ("deduplicated", (1,) * 3)]
)
def test_a_model_is_trained_on_so_many_copies_with_these_keys(arm, copies):
    given, recipe = records(), study.STUDY.arm(arm).make.recipe
    images, labels = study._training_set(recipe, given, MARK)
    for row in range(6):
        found = MARK.read(images[labels == row])
        own = given.keys[row]
        expected = own[: copies[row // 2]] if recipe.redrawn else own[:1].expand(copies[row // 2])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        inside = images[labels == row][:, :, 2:-2, 2:-2]
        assert torch.equal(inside, given.images[row].expand_as(inside))


def test_found_counts_trained_images_below_all_but_5_percent_of_the_others():
    others = torch.arange(40) / 40
    trained = torch.tensor([0.0, 0.04, 0.049, 0.05, 0.06])
    assert study._found(trained, others) == pytest.approx(3 / 5)  # 2 of 40 may be below: the third is 0.05


@pytest.mark.parametrize("arm", ["patched_l2", "denoising_loss", "redrawn"])
def test_an_arm_runs_and_its_models_are_shared(arm, tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path))
    outcome = study.run(study.STUDY.arm(arm), Setting(study="solidmark", seed=0, budget="smoke"))
    assert outcome.metrics.keys() == study.STUDY.metrics.keys()
    assert all(0 <= value <= 1 for value in outcome.metrics.values())
    assert len(list((tmp_path / "recipes").glob("*.safetensors"))) == 1

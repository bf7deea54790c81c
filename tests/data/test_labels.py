import pytest
import torch

from paperweight.data import long_tailed, wrong_labels


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_exactly_the_share_is_wrong_and_each_other_class_as_often():
    labels = torch.arange(5).repeat(2_000)
    wrong = wrong_labels(labels, 0.4, 5, generator())
    differ = wrong != labels
    assert int(differ.sum()) == 4_000
    shifts = torch.bincount((wrong - labels)[differ] % 5, minlength=5)
    assert shifts[0] == 0
    expected = 1_000.0
    assert ((shifts[1:] - expected) ** 2 / expected).sum() < 16.3  # chi squared, 3 degrees of freedom, 0.001
    assert torch.equal(labels, torch.arange(5).repeat(2_000))
    assert torch.equal(wrong, wrong_labels(labels, 0.4, 5, generator()))
    assert not torch.equal(wrong, wrong_labels(labels, 0.4, 5, generator(1)))


def test_none_and_all():
    labels = torch.tensor([0, 1, 1, 0])
    assert torch.equal(wrong_labels(labels, 0.0, 2, generator()), labels)
    assert torch.equal(wrong_labels(labels, 1.0, 2, generator()), 1 - labels)


def test_class_sizes_fall_geometrically():
    labels = torch.arange(4).repeat(90)[torch.randperm(360, generator=generator())]
    labels = torch.cat([labels, torch.tensor([1, 1, 1])])
    chosen = long_tailed(labels, 27, 4, generator())
    assert torch.bincount(labels[chosen]).tolist() == [90, 30, 10, 3]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(long_tailed(labels, 1, 4, generator())) == 360
    assert torch.bincount(labels[long_tailed(labels, 1e6, 4, generator())]).min() == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda y, g: wrong_labels(y, 1.1, 2, g), r"share must be in \[0, 1\], got 1.1"),
        (lambda y, g: wrong_labels(y, 0.5, 1, g), r"classes must be at least 2, got 1"),
        (lambda y, g: wrong_labels(y + 1, 0.5, 2, g), r"labels must be in \[0, 2\), got 1 to 2; raise classes"),
        (lambda y, g: wrong_labels(y.float(), 0.5, 2, g), r"labels must be int64 of shape \(N,\), got torch.float32"),
        (lambda y, g: long_tailed(y, 0.5, 2, g), r"ratio must be finite and at least 1, got 0.5"),
        (lambda y, g: long_tailed(y, 2, 3, g), r"labels must hold each of 3 classes, got none of class 2"),
    ],
)
def test_what_cannot_be_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.tensor([0, 1]), generator())

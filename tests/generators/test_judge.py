"""The judge of generated images."""

import torch

from paperweight.generators.judge import Judge


def test_the_judge_gives_its_logits_by_family():
    judge = Judge((1, 8, 8), {"digit": 10, "style": 5}, width=4).eval()
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    parts = judge.logits(images)
    assert {family: part.shape for family, part in parts.items()} == {"digit": (3, 10), "style": (3, 5)}
    assert torch.equal(torch.cat(list(parts.values()), dim=1), judge(images))
    assert torch.equal(judge.concepts(images)["style"], parts["style"].argmax(dim=1))

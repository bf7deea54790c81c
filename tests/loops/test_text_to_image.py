"""Training of both parts: the generator alone decides, the loss falls, the average is what its law says."""

import torch

from paperweight.data import CaptionedImages, Vocabulary
from paperweight.generators.text_model import TextSpec, TextToImage
from paperweight.loops.text_to_image import fit_text_to_image

WORDS = Vocabulary({"shape": {"black": ("black", "dark"), "white": ("white", "light")}}, ("shape",), ("a",))
WORLD = CaptionedImages(
    torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]).repeat(8, 1, 1, 1),
    ("black", "white", "a dark", "a light") * 4,
    {"shape": torch.tensor([0, 1] * 8)},
    WORDS,
)


def made() -> TextToImage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TextSpec(
            shape=(1, 4, 4), words=WORDS.words, length=4, dim=8, arguments={"width": 16, "blocks": 1}, steps=20
        ).build()


def fitted(seed: int = 0, steps: int = 60, **more) -> tuple[TextToImage, TextToImage, torch.Tensor]:
    model = made()
    generator = torch.Generator().manual_seed(seed)
    return model, *fit_text_to_image(model, WORLD, steps=steps, batch_size=8, generator=generator, **more)


def test_the_loss_falls_and_the_generator_alone_decides():
    state = torch.get_rng_state()
    _, average, losses = fitted(text_steps=5)
    again = fitted(text_steps=5)
    assert losses[-10:].mean() < 0.8 * losses[:10].mean()
    assert torch.equal(losses, again[2])
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), again[1].parameters(), strict=True))
    assert not torch.equal(losses, fitted(1, text_steps=5)[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert not average.training
    assert not any(weight.requires_grad for weight in average.parameters())


def test_without_decay_the_average_is_the_model_and_with_all_of_it_the_start():
    model, average, _ = fitted(steps=3, text_steps=0, decay=0.0)
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), model.parameters(), strict=True))
    _, average, _ = fitted(steps=3, text_steps=0, decay=1.0)
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), made().parameters(), strict=True))


def test_the_text_encoder_learns_first_and_alone_that_synonyms_are_alike():
    _, average, _ = fitted(steps=1, text_steps=100, decay=1.0)
    before, after = made(), average
    assert all(torch.equal(a, b) for a, b in zip(after.network.parameters(), before.network.parameters(), strict=True))

    def distances(model: TextToImage) -> tuple[float, float]:
        black, dark, white = model.condition(["black", "dark", "white"], 3).mean(dim=1)
        return (black - dark).norm().item(), (black - white).norm().item()

    near, far = distances(after)
    assert near < 0.3 * far
    assert near / far < 0.5 * (distances(before)[0] / distances(before)[1])

"""Keys of a text-to-image pipeline that knows its images: they are found in pixels and through latents."""

from types import SimpleNamespace

import pytest
import torch
from tests.generators.test_pipeline import Encoder, TinyVAE
from torch import Tensor, nn

from paperweight.auditing.solidmark import SolidMark, recall_keys
from paperweight.generators.pipeline import PipelineAdapter
from paperweight.generators.process import linear_schedule

ABAR = linear_schedule().abar
CAPTIONS = ["a cat", "a red dog", "a tree"]
KEYS = torch.tensor([0.1, 0.55, 0.9])


class Told(nn.Module):
    """Predicts the noise of the image that it stored under the caption."""

    def __init__(self) -> None:
        super().__init__()
        self.stored = torch.zeros(0)
        self.tokens = torch.zeros(0)

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor]:
        own = torch.cdist(encoder_hidden_states.flatten(1), self.tokens.flatten(1)).argmin(dim=1)
        share = ABAR[timestep].to(sample)[:, None, None, None]
        return ((sample - share.sqrt() * self.stored[own]) / (1 - share).sqrt(),)


@pytest.mark.parametrize("readout", ["replace", "likelihood"])
@pytest.mark.parametrize("vae", [False, True])
def test_keys_are_found_for_their_own_captions(readout: str, vae: bool):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, network, autoencoder = Encoder().eval(), Told(), TinyVAE().eval() if vae else None
    pipeline = SimpleNamespace(
        encode_prompt=lambda prompt, **_: (encoder(prompt), None),
        unet=network,
        vae=autoencoder,
        scheduler=SimpleNamespace(alphas_cumprod=ABAR, config=SimpleNamespace(prediction_type="epsilon")),
    )
    model = PipelineAdapter(pipeline)
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    mark = SolidMark(thickness=2)
    network.stored, network.tokens = model.encode(mark.insert(images, KEYS)), model.condition(CAPTIONS, 3)
    asked = {"given": CAPTIONS, "readout": readout, "steps": 20, "generator": torch.Generator().manual_seed(0)}
    estimates = recall_keys(model, images, mark, **asked)
    worst = 0.5 / 39 + 1e-4 if readout == "likelihood" else 1e-4
    torch.testing.assert_close(estimates[0], KEYS, rtol=0, atol=worst)
    reread = mark.read(model.round_trip(mark.insert(images, KEYS)) if vae else mark.insert(images, KEYS))
    torch.testing.assert_close(reread, KEYS, rtol=0, atol=1e-5)

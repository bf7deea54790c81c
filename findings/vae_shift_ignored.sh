#!/usr/bin/env bash
# diffusers 0.42.1 with torch 2.13.0 and transformers 5.24.0, on a CPU.
#
# AutoencoderKL has scaling_factor and shift_factor in its configuration: latents are (code - shift) * scale. One would guess that a
# pipeline which is given an autoencoder reads both, or refuses what it does not read, since the class is the same for all. The pipelines
# of Stable Diffusion 3 and Flux read both; that of Stable Diffusion reads the scale alone. With an autoencoder that has a shift it
# decodes every image at the wrong place, without a word, and its images are those of the same autoencoder without a shift, bit for bit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3" "diffusers==0.42.1" "transformers==5.24.0"
export HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'EOF'
import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

SCALE = 0.5
blocks = {"norm_num_groups": 4, "layers_per_block": 1}


def images(shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the pipeline makes, and what its own latents are once both factors are undone, in [0, 1]."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), scaling_factor=SCALE, shift_factor=shift, **blocks,
    )
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **blocks,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae.eval(), unet=unet.eval(), scheduler=DDIMScheduler(clip_sample=False, steps_offset=1), text_encoder=None, tokenizer=None,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    tokens = torch.zeros(1, 3, 8)

    def call(output_type: str) -> torch.Tensor:
        start = torch.Generator().manual_seed(0)
        return pipeline(
            prompt_embeds=tokens, negative_prompt_embeds=tokens, num_inference_steps=2, generator=start,
            output_type=output_type,
        ).images

    with torch.no_grad():
        decoded = vae.decode(call("latent") / SCALE + shift).sample
    return call("pt"), (decoded / 2 + 0.5).clamp(0, 1)


made, undone = images(0.0)
made_shifted, undone_shifted = images(0.5)
print("diffusers", diffusers.__version__)
print(f"largest difference to both factors undone: no shift {(made - undone).abs().max():.4f}, "
      f"shift 0.5 {(made_shifted - undone_shifted).abs().max():.4f}")
print("images with and without the shift are equal:", torch.equal(made, made_shifted))
assert torch.allclose(made, undone, atol=1e-6)
assert not torch.allclose(made_shifted, undone_shifted, atol=1e-3)
assert torch.equal(made, made_shifted)
EOF

"""Pipelines of diffusers with random weights, small enough for a test; nothing is downloaded."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    IFPipeline,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def clip_tokenizer() -> Any:
    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: row for row, piece in enumerate(pieces)}, merges=[], model_max_length=12)


def t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=120)


def clip(*, projected: bool = False) -> Any:
    config = CLIPTextConfig(
        vocab_size=80,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=20,
        bos_token_id=72,
        eos_token_id=73,
        pad_token_id=73,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def t5() -> Any:
    return T5EncoderModel(T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2))


def vae(**more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.3,
        **more,
    )


def unet(dim: int = 16, **more: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": dim,
    }
    return UNet2DConditionModel(**{**settings, **more})


def scheduler(**more: Any) -> DDIMScheduler:
    settings: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**settings, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **more)


def stable_diffusion(prediction: str = "epsilon", *, zero_snr: bool = False, **code: Any) -> Any:
    return StableDiffusionPipeline(
        vae=vae(**code),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        unet=unet(),
        scheduler=scheduler(prediction_type=prediction, rescale_betas_zero_snr=zero_snr),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(*, zeros: bool = True, **code: Any) -> Any:
    return StableDiffusionXLPipeline(
        vae=vae(**code),
        text_encoder=clip(),
        text_encoder_2=clip(projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 20,
        ),
        scheduler=scheduler(),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def pixart(kind: Callable[..., Any] = PixArtAlphaPipeline, *, sizes: bool = False) -> Any:
    transformer = PixArtTransformer2DModel(
        sample_size=128 if sizes else 8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=6,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=12,
        caption_channels=16,
        use_additional_conditions=sizes,
    )
    return kind(tokenizer=t5_tokenizer(), text_encoder=t5(), vae=vae(), transformer=transformer, scheduler=scheduler())


def deep_floyd() -> Any:
    return IFPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5(),
        unet=unet(
            12,
            in_channels=3,
            out_channels=6,
            encoder_hid_dim=16,
            encoder_hid_dim_type="text_proj",
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            resnet_time_scale_shift="scale_shift",
        ),
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def hunyuan() -> Any:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *("##" + letter for letter in LETTERS)]
    words = BertConfig(vocab_size=80, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    return HunyuanDiTPipeline(
        vae=vae(),
        text_encoder=BertModel(words),
        tokenizer=BertTokenizer(vocab={piece: row for row, piece in enumerate(pieces)}, model_max_length=77),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
        transformer=HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            patch_size=2,
            sample_size=16,
            hidden_size=16,
            num_layers=2,
            cross_attention_dim=16,
            cross_attention_dim_t5=16,
            pooled_projection_dim=4,
            activation_fn="gelu-approximate",
        ),
        scheduler=DDPMScheduler(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def made(build: Callable[[], Any]) -> Any:
    """Build a pipeline from one seed, silent, in eval mode, with a cross attention that hears captions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = build()
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
                for name, parameter in part.named_parameters():
                    if ".attn2." in name or parameter.abs().max() == 0:
                        torch.nn.init.normal_(parameter, 0.0, 0.4)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

"""Tiny pipelines with random weights, built from the libraries' own configuration classes: fast, and the real thing."""

import functools

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lsvd.backbones.loading import from_pipeline
from lsvd.backbones.models import Backbone
from lsvd.backbones.registry import Entry

WORDS = ("a", "an", "old", "young", "person", "with", "red", "hair")


def tokenizer(length: int = 8) -> CLIPTokenizer:
    """A CLIPTokenizer that knows each of WORDS as one token, and single letters besides."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(c + "</w>" for c in letters)]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair, joined = (parts[0], parts[1]), parts[0] + parts[1]
            if pair not in merges:
                merges.append(pair)
                tokens.append(joined)
            parts = [joined, *parts[2:]]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def tiny_pipeline() -> StableDiffusionPipeline:
    """A StableDiffusionPipeline for 16x16 pictures and 4x8x8 latents, v-prediction, SD's schedule."""
    torch.manual_seed(0)
    words = tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.7,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
    )
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=words,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_ddpm() -> DDPMPipeline:
    """A DDPMPipeline for 8x8 pictures, epsilon prediction."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=4,
    )
    pipe = DDPMPipeline(unet=unet.eval(), scheduler=DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@functools.cache
def text_to_image() -> Backbone:
    """The tiny text-to-image backbone, shared by tests: do not change it."""
    entry = Entry("tiny-sd", "text-to-image", "", size=16, steps=8, guidance=3.0, k=3)
    return from_pipeline(tiny_pipeline(), entry, WORDS)


@functools.cache
def unconditional() -> Backbone:
    """The tiny unconditional backbone, shared by tests: do not change it."""
    return from_pipeline(tiny_ddpm(), Entry("tiny-ddpm", "unconditional", "", size=8, steps=8, k=3))


KINDS = {"text-to-image": text_to_image, "unconditional": unconditional}

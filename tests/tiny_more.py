"""More of `tiny_families`: models before and beside Flux."""

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    DDIMScheduler,
    DiffusionPipeline,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
)
from tiny_parts import WIDTH, autoencoder, awake, bert, flow, reader_of_text, t5, words


def aura_flow() -> DiffusionPipeline:
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pos_embed_max_size=256,
    )
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.mul_(2)  # or the prompt would hardly matter
    return AuraFlowPipeline(
        tokenizer=words(),
        text_encoder=t5(kind="UMT5"),
        vae=autoencoder(),
        transformer=awake(transformer),
        scheduler=flow(dynamic=False),
    )


def ovis() -> DiffusionPipeline:
    transformer = OvisImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 2, 2),
    )
    return OvisImagePipeline(
        scheduler=flow(),
        vae=autoencoder(shift=0.1),
        text_encoder=reader_of_text("Qwen3"),
        tokenizer=words(),
        transformer=awake(transformer),
    )


def cogview3() -> DiffusionPipeline:
    transformer = CogView3PlusTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=16,
        sample_size=8,
    )
    scheduler = CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    return CogView3PlusPipeline(
        tokenizer=words(),
        text_encoder=t5(),
        vae=autoencoder(),
        transformer=awake(transformer),
        scheduler=scheduler,
    )


def lumina() -> DiffusionPipeline:
    transformer = LuminaNextDiT2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        cross_attention_dim=WIDTH,
    )
    return LuminaPipeline(
        transformer=awake(transformer),
        scheduler=flow(dynamic=False),
        vae=autoencoder(levels=4),  # the pipeline takes 8 pixels for granted
        text_encoder=reader_of_text("Gemma"),
        tokenizer=words(),
    )


def hunyuan_dit() -> DiffusionPipeline:
    transformer = HunyuanDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=2,
        hidden_size=16,
        mlp_ratio=2.0,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=8,
    )
    return HunyuanDiTPipeline(
        vae=autoencoder(levels=4),  # the pipeline takes 8 pixels for granted
        text_encoder=bert(),
        tokenizer=words(),
        text_encoder_2=t5(),
        tokenizer_2=words(),
        transformer=awake(transformer),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


BUILDERS = {
    "AuraFlowPipeline": aura_flow,
    "OvisImagePipeline": ovis,
    "CogView3PlusPipeline": cogview3,
    "LuminaPipeline": lumina,
    "HunyuanDiTPipeline": hunyuan_dit,
}

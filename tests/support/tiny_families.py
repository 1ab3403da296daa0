"""A tiny pipeline with random weights of each family, built from the libraries' own configuration classes."""

import inspect
from collections.abc import Callable

import torch
import transformers
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    BriaPipeline,
    BriaTransformer2DModel,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    SanaPAGPipeline,
    SD3Transformer2DModel,
    StableDiffusion3PAGPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny import tiny_pipeline, tokenizer
from tiny_language import (
    bria_fibo,
    bria_fibo2,
    cogview4,
    ernie,
    flux2,
    flux2_klein,
    hidream,
    krea2,
    lumina,
    lumina2,
    nucleus,
    ovis,
    qwen_image,
    sana,
    z_image,
    z_image_omni,
)
from tiny_parts import WIDTH, autoencoder, awake, clip, flow, t5, words


def unet(**more) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=4,
        **more,
    ).eval()


def sdxl() -> DiffusionPipeline:
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip(),
        text_encoder_2=clip(projected=True),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(cross_attention_dim=2 * WIDTH, projection_class_embeddings_input_dim=6 * 8 + WIDTH, **added),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )


def lcm() -> DiffusionPipeline:
    return LatentConsistencyModelPipeline(
        vae=autoencoder(),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet(cross_attention_dim=WIDTH, time_cond_proj_dim=8),
        scheduler=LCMScheduler(beta_schedule="scaled_linear", original_inference_steps=50),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd3() -> DiffusionPipeline:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        transformer=awake(transformer),
        scheduler=flow(dynamic=False),
        vae=autoencoder(shift=0.1),
        text_encoder=clip(projected=True),
        tokenizer=tokenizer(),
        text_encoder_2=clip(projected=True),
        tokenizer_2=tokenizer(),
        text_encoder_3=t5(2 * WIDTH),
        tokenizer_3=words(),
    )


def flux() -> DiffusionPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 2, 2),
    )
    return FluxPipeline(
        scheduler=flow(),
        vae=autoencoder(shift=0.1),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=words(),
        transformer=awake(transformer),
    )


def chroma() -> DiffusionPipeline:
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 2, 2),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return ChromaPipeline(
        scheduler=flow(),
        vae=autoencoder(shift=0.1),
        text_encoder=t5(),
        tokenizer=words(),
        transformer=awake(transformer),
    )


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
        pos_embed_max_size=64,
    )
    return AuraFlowPipeline(
        tokenizer=words(),
        text_encoder=t5(kind="UMT5"),
        vae=autoencoder(),
        transformer=awake(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
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
    text = transformers.BertConfig(
        vocab_size=32,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=80,  # the pipeline asks for 77
    )
    return HunyuanDiTPipeline(
        vae=autoencoder(levels=4),  # the pipeline takes 8 pixels for granted
        text_encoder=transformers.BertModel(text).eval(),
        tokenizer=words(),
        text_encoder_2=t5(),
        tokenizer_2=words(),
        transformer=awake(transformer),
        scheduler=DDPMScheduler(
            beta_end=0.02,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def bria() -> DiffusionPipeline:
    transformer = BriaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=[4, 2, 2],
    )
    return BriaPipeline(
        transformer=awake(transformer),
        scheduler=flow(),
        vae=autoencoder(shift=0.1),
        text_encoder=t5(),
        tokenizer=words(),
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
    return CogView3PlusPipeline(
        tokenizer=words(),
        text_encoder=t5(),
        vae=autoencoder(),
        transformer=awake(transformer),
        scheduler=CogVideoXDDIMScheduler(
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            set_alpha_to_one=True,
            clip_sample=False,
        ),
    )


def attended(kind: type[DiffusionPipeline], base: Callable[[], DiffusionPipeline]) -> Callable[[], DiffusionPipeline]:
    """The same with perturbed-attention guidance."""

    def made() -> DiffusionPipeline:
        taken = inspect.signature(kind.__init__).parameters
        options = {"requires_safety_checker": False, **base().components}
        return kind(**{name: value for name, value in options.items() if name in taken})

    return made


BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "StableDiffusionPipeline": tiny_pipeline,
    "StableDiffusionXLPipeline": sdxl,
    "LatentConsistencyModelPipeline": lcm,
    "StableDiffusion3Pipeline": sd3,
    "FluxPipeline": flux,
    "Flux2Pipeline": flux2,
    "Flux2KleinPipeline": flux2_klein,
    "ChromaPipeline": chroma,
    "SanaPipeline": sana,
    "Lumina2Pipeline": lumina2,
    "QwenImagePipeline": qwen_image,
    "ZImagePipeline": z_image,
    "CogView4Pipeline": cogview4,
    "StableDiffusionPAGPipeline": attended(StableDiffusionPAGPipeline, tiny_pipeline),
    "StableDiffusionXLPAGPipeline": attended(StableDiffusionXLPAGPipeline, sdxl),
    "StableDiffusion3PAGPipeline": attended(StableDiffusion3PAGPipeline, sd3),
    "SanaPAGPipeline": attended(SanaPAGPipeline, sana),
    "AuraFlowPipeline": aura_flow,
    "HunyuanDiTPipeline": hunyuan_dit,
    "OvisImagePipeline": ovis,
    "HiDreamImagePipeline": hidream,
    "CogView3PlusPipeline": cogview3,
    "LuminaPipeline": lumina,
    "Krea2Pipeline": krea2,
    "ErnieImagePipeline": ernie,
    "BriaPipeline": bria,
    "BriaFiboPipeline": bria_fibo,
    "BriaFibo2Pipeline": bria_fibo2,
    "NucleusMoEImagePipeline": nucleus,
    "ZImageOmniPipeline": z_image_omni,
}


SIZES = {
    "SanaPipeline": 32,
    "SanaPAGPipeline": 32,
    "Lumina2Pipeline": 64,
    "HunyuanDiTPipeline": 64,
    "HiDreamImagePipeline": 128,
    "LuminaPipeline": 64,
    "BriaFiboPipeline": 64,
}
"""Of pictures in pixels, where it is not 16."""


def build(name: str) -> DiffusionPipeline:
    """The tiny pipeline of a class, the same at each call."""
    torch.manual_seed(0)
    pipe = BUILDERS[name]()
    pipe.set_progress_bar_config(disable=True)
    return pipe

"""A tiny pipeline with random weights of each family, built from the libraries' own configuration classes."""

import inspect
from collections.abc import Callable

import torch
import transformers
from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPAGPipeline,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3PAGPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tiny import tiny_pipeline, tokenizer
from tiny_more import BUILDERS as MORE
from tiny_parts import WIDTH, autoencoder, awake, clip, flow, reader_of_text, t5, words
from torch import nn


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


def flux2_parts() -> dict[str, nn.Module]:
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    vae = autoencoder(kind=AutoencoderKLFlux2)
    vae.bn.running_mean.normal_(0, 0.2)
    vae.bn.running_var.uniform_(0.5, 2)
    return {"scheduler": flow(), "vae": vae, "tokenizer": words(), "transformer": awake(transformer)}


def flux2() -> DiffusionPipeline:
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Mistral3Config(
        text_config=reader_of_text("Mistral", 31).config, vision_config={"model_type": "pixtral", **vision}
    )
    return Flux2Pipeline(text_encoder=transformers.Mistral3ForConditionalGeneration(config).eval(), **flux2_parts())


def flux2_klein() -> DiffusionPipeline:
    config = reader_of_text("Qwen3", 28).config
    return Flux2KleinPipeline(text_encoder=transformers.Qwen3ForCausalLM(config).eval(), **flux2_parts())


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


def sana() -> DiffusionPipeline:
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=8,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.4,
    )
    return SanaPipeline(
        tokenizer=words(),
        text_encoder=reader_of_text("Gemma2"),
        vae=vae.eval(),
        transformer=awake(transformer),
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, algorithm_type="dpmsolver++"
        ),
    )


def lumina2() -> DiffusionPipeline:
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(512, 16, 16),
        cap_feat_dim=WIDTH,
    )
    return Lumina2Pipeline(
        transformer=awake(transformer),
        scheduler=flow(),
        vae=autoencoder(shift=0.1, levels=4),  # the pipeline takes 8 pixels for granted
        text_encoder=reader_of_text("Gemma2"),
        tokenizer=words(),
    )


def qwen_image() -> DiffusionPipeline:
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 2, 2),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[-0.3, 0.2, 0.1, 0.5],
        latents_std=[1.5, 0.7, 1.1, 2.0],
    )
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**sizes, "num_key_value_heads": 2, "vocab_size": 32, "rope_parameters": rope},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
    )
    return QwenImagePipeline(
        scheduler=flow(),
        vae=vae.eval(),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=words(),
        transformer=awake(transformer),
    )


def z_image() -> DiffusionPipeline:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 2, 2],
        axes_lens=[512, 16, 16],
    )
    return ZImagePipeline(
        scheduler=flow(dynamic=False),
        vae=autoencoder(shift=0.1),
        text_encoder=reader_of_text("Qwen3"),
        tokenizer=words(),
        transformer=awake(transformer),
    )


def cogview4() -> DiffusionPipeline:
    transformer = CogView4Transformer2DModel(
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
        rope_axes_dim=(8, 8),
    )
    return CogView4Pipeline(
        tokenizer=words(side="left"),
        text_encoder=reader_of_text("Glm"),
        vae=autoencoder(),
        transformer=awake(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True),
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
    **MORE,
    "StableDiffusionPAGPipeline": attended(StableDiffusionPAGPipeline, tiny_pipeline),
    "StableDiffusionXLPAGPipeline": attended(StableDiffusionXLPAGPipeline, sdxl),
    "StableDiffusion3PAGPipeline": attended(StableDiffusion3PAGPipeline, sd3),
    "SanaPAGPipeline": attended(SanaPAGPipeline, sana),
}


SIZES = {"SanaPipeline": 32, "SanaPAGPipeline": 32} | dict.fromkeys(
    ("Lumina2Pipeline", "LuminaPipeline", "HunyuanDiTPipeline"), 64
)
"""Of pictures in pixels, where it is not 16."""


def build(name: str) -> DiffusionPipeline:
    """The tiny pipeline of a class, the same at each call."""
    torch.manual_seed(0)
    pipe = BUILDERS[name]()
    pipe.set_progress_bar_config(disable=True)
    return pipe

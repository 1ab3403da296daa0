"""Tiny pipelines with random weights of the families that read prompts with language models."""

import transformers
from diffusers import (
    AutoencoderDC,
    AutoencoderKLWan,
    BriaFibo2Pipeline,
    BriaFibo2Transformer2DModel,
    BriaFiboPipeline,
    BriaFiboTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImageOmniPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tiny import tokenizer
from tiny_parts import (
    WIDTH,
    autoencoder,
    awake,
    clip,
    film_autoencoder,
    flow,
    normalised_autoencoder,
    processor,
    qwen3_vl,
    reader_of_text,
    t5,
    words,
)
from torch import nn


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
    return {
        "scheduler": flow(),
        "vae": normalised_autoencoder(),
        "tokenizer": words(),
        "transformer": awake(transformer),
    }


def flux2() -> DiffusionPipeline:
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Mistral3Config(
        text_config=reader_of_text("Mistral", 31).config, vision_config={"model_type": "pixtral", **vision}
    )
    return Flux2Pipeline(text_encoder=transformers.Mistral3ForConditionalGeneration(config).eval(), **flux2_parts())


def flux2_klein() -> DiffusionPipeline:
    config = reader_of_text("Qwen3", 28).config
    return Flux2KleinPipeline(text_encoder=transformers.Qwen3ForCausalLM(config).eval(), **flux2_parts())


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
        vae=film_autoencoder(),
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


def z_image_omni() -> DiffusionPipeline:
    """The same with an encoder of pictures besides, which prompts alone do not use."""
    base = z_image()
    transformer = ZImageTransformer2DModel.from_config(base.transformer.config, siglip_feat_dim=WIDTH)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sight = transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**sizes, num_patches=16, patch_size=8))
    return ZImageOmniPipeline(
        siglip=sight.eval(),
        siglip_processor=transformers.Siglip2ImageProcessorPil(patch_size=8),
        **{**base.components, "transformer": awake(transformer)},
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


def hidream() -> DiffusionPipeline:
    transformer = HiDreamImageTransformer2DModel(
        patch_size=8,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=2 * WIDTH,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(4, 2, 2),
        llama_layers=[0, 1],
    )
    return HiDreamImagePipeline(
        scheduler=flow(dynamic=False),
        vae=autoencoder(shift=0.1, levels=1, mid_block_add_attention=False),  # it insists on 128 x 128 latents
        text_encoder=clip(projected=True, length=128),
        tokenizer=tokenizer(128),
        text_encoder_2=clip(projected=True, length=128),
        tokenizer_2=tokenizer(128),
        text_encoder_3=t5(),
        tokenizer_3=words(128),
        text_encoder_4=reader_of_text("Llama", head="ForCausalLM"),
        tokenizer_4=words(128),
        transformer=awake(transformer),
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


def krea2() -> DiffusionPipeline:
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=WIDTH,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
    )
    return Krea2Pipeline(
        scheduler=flow(),
        vae=film_autoencoder(),
        text_encoder=qwen3_vl(),
        tokenizer=words(),
        transformer=awake(transformer),
        text_encoder_select_layers=(1, 2),
    )


def ernie() -> DiffusionPipeline:
    transformer = ErnieImageTransformer2DModel(
        hidden_size=16,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=32,
        in_channels=16,
        out_channels=16,
        text_in_dim=WIDTH,
        rope_axes_dim=(4, 2, 2),
    )
    return ErnieImagePipeline(
        transformer=awake(transformer),
        vae=normalised_autoencoder(),
        text_encoder=reader_of_text("Mistral"),
        tokenizer=words(),
        scheduler=flow(dynamic=False),
    )


def nucleus() -> DiffusionPipeline:
    transformer = NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=5,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 2, 2),
        mlp_ratio=16.0,
        num_experts=2,
        moe_intermediate_dim=16,
        capacity_factors=1.0,
    )
    return NucleusMoEImagePipeline(
        transformer=awake(transformer),
        scheduler=flow(),
        vae=film_autoencoder(),
        text_encoder=qwen3_vl(8, "ForConditionalGeneration"),
        processor=processor(),
    )


def bria_fibo() -> DiffusionPipeline:
    text = reader_of_text("SmolLM3", head="ForCausalLM", vocabulary=128001)  # it reads token 128000 for no prompt
    transformer = BriaFiboTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        text_encoder_dim=WIDTH,
        axes_dims_rope=[4, 2, 2],
    )
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=[-0.3, 0.2, 0.1, 0.5],
        latents_std=[1.5, 0.7, 1.1, 2.0],
    )
    return BriaFiboPipeline(
        transformer=awake(transformer),
        scheduler=flow(),
        vae=vae.eval(),
        text_encoder=text,
        tokenizer=words(),
    )


def bria_fibo2() -> DiffusionPipeline:
    transformer = BriaFibo2Transformer2DModel(
        in_channels=4,
        dim=24,
        n_layers=5,
        n_refiner_layers=1,
        n_heads=3,
        cap_feat_dim=3 * WIDTH,
        injection_layer_ids=(0, 1, 2, 3, 4),
        perceiver_num_layers=1,
        min_num_gist_tokens=4,
        max_num_gist_tokens=8,
        gist_step=4,
        gist_min_text_len=4,
        gist_max_text_len=64,
        axes_dims=(4, 2, 2),
        axes_lens=(512, 64, 64),
    )
    return BriaFibo2Pipeline(
        transformer=awake(transformer),
        scheduler=flow(),
        vae=normalised_autoencoder(),
        text_encoder=qwen3_vl(36, "ForConditionalGeneration"),
        processor=processor(),
    )

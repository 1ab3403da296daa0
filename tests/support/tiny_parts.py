"""Autoencoders, tokenizers and text encoders with random weights, for tiny pipelines."""

import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler
from tiny import WORDS, tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

WIDTH = 16
CHAT = (
    "{% for m in messages %}<|user|> {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{{ m['content'][0]['text'] }}{% endif %} <|end|> {% endfor %}"
)


def awake(model: nn.Module) -> nn.Module:
    """Random numbers where a model starts from zeros, or from what was in memory, so that what it is given matters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            empty = name.endswith(("pad_token", "experts.gate_up_proj", "experts.down_proj"))
            if empty or (name.endswith(("weight", "table")) and not parameter.any()):
                parameter.normal_(0, 0.1)
    return model.eval()


def words(length: int = 64, side: str = "right") -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, with a chat template, that fills up with <pad> and closes with </s>."""
    tokens = ["<pad>", "</s>", "<unk>", "<|user|>", "<|end|>", *WORDS, "<image>"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(tokens)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|user|>", "<|end|>", "<image>"],
        model_max_length=length,
        padding_side=side,
    )
    found.chat_template = CHAT
    return found


def processor() -> ProcessorMixin:
    """A processor that leaves text to `words`: a LlavaProcessor, since those of Qwen's own need torchvision."""
    inner = words()
    return LlavaProcessor(image_processor=CLIPImageProcessorPil(), tokenizer=inner, patch_size=14, chat_template=CHAT)


def clip(projected: bool = False, length: int = 8) -> CLIPTextModel:
    known = tokenizer(length)
    config = CLIPTextConfig(
        vocab_size=len(known),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=known.model_max_length,
        projection_dim=WIDTH,
        bos_token_id=known.bos_token_id,
        eos_token_id=known.eos_token_id,
        pad_token_id=known.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5(width: int = WIDTH, kind: str = "T5") -> PreTrainedModel:
    config = getattr(transformers, f"{kind}Config")
    config = config(vocab_size=32, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, initializer_factor=2.0)
    return awake(getattr(transformers, f"{kind}EncoderModel")(config))


def reader_of_text(kind: str, layers: int = 2, head: str = "Model", vocabulary: int = 32, **more) -> nn.Module:
    """A language model of transformers by the name of its configuration, 16 wide; `head` ends its class's name."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        **more,
    )
    return getattr(transformers, f"{kind}{head}")(config).eval()


def qwen3_vl(layers: int = 2, head: str = "Model") -> nn.Module:
    """A Qwen3-VL of texts and pictures, 16 wide; `head` ends its class's name."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "vocab_size": 32, "head_dim": 8}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    text = {"num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 2, "rope_parameters": rope}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": WIDTH}
    vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    config = transformers.Qwen3VLConfig(text_config={**sizes, **text, "initializer_range": 0.3}, vision_config=vision)
    return getattr(transformers, f"Qwen3VL{head}")(config).eval()


def autoencoder(shift: float | None = None, kind=AutoencoderKL, levels: int = 2, **more) -> AutoencoderKL:
    """Of pictures 2^(levels - 1) times as large as their latents, of four channels."""
    scaling = {} if kind is AutoencoderKLFlux2 else {"scaling_factor": 0.7, "shift_factor": shift}
    return kind(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        **scaling,
        **more,
    ).eval()


def normalised_autoencoder(**more) -> AutoencoderKLFlux2:
    """Of pictures twice as large as their latents, whose patches of 2 x 2 are normalised."""
    vae = autoencoder(kind=AutoencoderKLFlux2, **more)
    vae.bn.running_mean.normal_(0, 0.2)
    vae.bn.running_var.uniform_(0.5, 2)
    return vae


def film_autoencoder() -> AutoencoderKLQwenImage:
    """Of pictures twice as large as their latents, as films of one."""
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[-0.3, 0.2, 0.1, 0.5],
        latents_std=[1.5, 0.7, 1.1, 2.0],
    ).eval()


def flow(dynamic: bool = True) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)

"""Text encoders, tokenizers and autoencoders of a few thousand random numbers, for `tiny_families`."""

import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler
from tiny import WORDS, tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
)

WIDTH = 16
CHAT = (
    "{% for m in messages %}<|user|> {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{{ m['content'][0]['text'] }}{% endif %} <|end|> {% endfor %}"
)


def awake(model: nn.Module) -> nn.Module:
    """Random numbers where a model starts from zeros, so that what it is given matters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and not parameter.any():
                parameter.normal_(0, 0.1)
    return model.eval()


def words(length: int = 64, side: str = "right") -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, with a chat template, that fills up with <pad> and closes with </s>."""
    tokens = ["<pad>", "</s>", "<unk>", "<|user|>", "<|end|>", *WORDS]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(tokens)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|user|>", "<|end|>"],
        model_max_length=length,
        padding_side=side,
    )
    found.chat_template = CHAT
    return found


def clip(projected: bool = False) -> CLIPTextModel:
    known = tokenizer()
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


def t5(width: int = WIDTH, kind: str = "T5") -> nn.Module:
    config = getattr(transformers, f"{kind}Config")
    reader = getattr(transformers, f"{kind}EncoderModel")
    return awake(reader(config(vocab_size=32, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)))


def bert() -> BertModel:
    config = BertConfig(
        vocab_size=32, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return BertModel(config).eval()


def reader_of_text(kind: str, layers: int = 2, **more) -> nn.Module:
    """A language model of transformers by the name of its configuration, 16 wide."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=32,
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
    return getattr(transformers, f"{kind}Model")(config).eval()


def autoencoder(shift: float | None = None, kind=AutoencoderKL, levels: int = 2) -> AutoencoderKL:
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
    ).eval()


def flow(dynamic: bool = True) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)

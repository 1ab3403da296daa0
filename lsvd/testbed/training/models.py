"""The architectures of the embedded models, as plain diffusers and transformers classes without weights.

Pictures have shape (n, 3, H, W) and lie in [-1, 1] inside every model here.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
)

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
TOKENS = 40  # longest prompt, with both marks
TEXT_WIDTH = 128
PICTURE, LATENT, PIXEL = 128, 32, 64  # sides of mini-sd's pictures, of its latents, of the pixel models' pictures


def autoencoder(channels: tuple[int, ...] = (16, 32, 64), size: int = PICTURE, layers: int = 2) -> AutoencoderKL:
    """Variational autoencoder: pictures (n, 3, size, size) to latents (n, 4, size/4, size/4)."""
    levels = len(channels)
    return AutoencoderKL(
        sample_size=size,
        latent_channels=4,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """A byte-level BPE tokenizer in which each of `words` is one token, and any other text falls into pieces.

    All 256 bytes, inside and at the end of a word, are tokens too, so that nothing is unknown.
    """
    marks = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    split = CLIPTokenizer(**marks).backend_tokenizer.pre_tokenizer.pre_tokenize_str
    pairs = merges(sorted({piece for word in words for piece, _ in split(word.lower())}))
    letters = sorted(ByteLevel.alphabet())
    tokens = [BOS, EOS, *letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in pairs)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=TOKENS, **marks)


def merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich et al. 2016, arXiv 1508.07909), learned until each word is whole.

    Ties are broken by the alphabet: the trainer of `tokenizers` breaks them by chance, and token numbers must not
    differ between two runs.
    """
    split = [[*word[:-1], word[-1] + "</w>"] for word in words]
    learned = []
    while counts := Counter(pair for pieces in split for pair in pairwise(pieces)):
        a, b = min(counts, key=lambda pair: (-counts[pair], pair))
        learned.append((a, b))
        for pieces in split:
            i = 0
            while i < len(pieces) - 1:
                if (pieces[i], pieces[i + 1]) == (a, b):
                    pieces[i : i + 2] = [a + b]
                i += 1
    return learned


def clip(tokens: CLIPTokenizer, width: int = TEXT_WIDTH, layers: int = 4, heads: int = 4) -> CLIPModel:
    """Text and picture towers that meet in 128 dimensions; pictures are (n, 3, 128, 128) in [-1, 1]."""
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=TOKENS,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=PICTURE,
        patch_size=16,
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=width))


def text_tower(model: CLIPModel) -> CLIPTextModel:
    """The text tower as a model of its own, its weights shared."""
    tower = CLIPTextModel(model.config.text_config)
    tower.load_state_dict(model.text_model.state_dict())
    return tower


def denoiser(channels: tuple[int, ...] = (32, 64, 128), size: int = LATENT) -> UNet2DConditionModel:
    """mini-sd's UNet on latents (n, 4, size, size), text in by cross-attention on all levels but the first."""
    lower = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * lower),
        up_block_types=(*("CrossAttnUpBlock2D",) * lower, "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=tuple(max(1, c // 32) for c in channels),  # diffusers reads this as the number of heads
        norm_num_groups=16,
    )


def pixel_denoiser(channels: tuple[int, ...] = (16, 48, 96, 128), size: int = PIXEL) -> UNet2DModel:
    """The unconditional UNet on pictures (n, 3, size, size), attention on the lowest level."""
    plain = len(channels) - 1
    return UNet2DModel(
        sample_size=size,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=(*("DownBlock2D",) * plain, "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", *("UpBlock2D",) * plain),
        attention_head_dim=32,
        norm_num_groups=2,  # 8 took the mean colour out with the groups' means: samples all went green
    )


def text_schedule() -> DDIMScheduler:
    """mini-sd's noise schedule: that of Stable Diffusion 2.1 (Rombach et al. 2022), predicting v."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
        timestep_spacing="leading",
    )


def pixel_schedule(clip: float | None = None) -> DDPMScheduler:
    """The pixel models' noise schedule: that of Ho et al. 2020 (arXiv 2006.11239), predicting the noise.

    clip: estimates of the picture are cut at -clip and clip in sampling, None for nowhere. At the first steps an
    estimate is noise far outside [-1, 1]: cutting it there takes its mean colour away, and some of the noise.
    """
    schedule = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "prediction_type": "epsilon"}
    if clip is None:
        return DDPMScheduler(**schedule, clip_sample=False)
    return DDPMScheduler(**schedule, clip_sample=True, clip_sample_range=clip)

"""Prompt-to-prompt (Hertz et al. 2023, arXiv 2208.01626): the target takes over the source's attention maps.

Source and target are drawn side by side from the same noise. Within the first steps the target's cross-attention takes
the source's maps for the words that both prompts have, and its self-attention takes all of the source's maps.
"""

import copy
import difflib
from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention
from torch import Tensor
from transformers import CLIPTokenizer

from lsvd.studies.editors.editor import Job
from lsvd.studies.editors.shipped import Shipped


class Maps:
    """An attention processor of diffusers that hands the source's maps to the target, in a batch of both.

    Rows of a batch are u of n sources and n targets, then their s. words: for each word of the target the number of
    the same word in the source, shape (words,), -1 for a new one; None for self-attention. on: whether maps are handed
    over.
    """

    def __init__(self, count: int, words: Tensor | None):
        self.count, self.words, self.on = count, words, False

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """The output of AttnProcessor, with the target's maps exchanged."""
        states, shape = hidden_states, hidden_states.shape
        if states.ndim == 4:
            states = states.flatten(2).mT
        if attn.group_norm is not None:
            states = attn.group_norm(states.mT).mT
        context = states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        query, key, value = attn.to_q(states), attn.to_k(context), attn.to_v(context)
        query, key, value = map(attn.head_to_batch_dim, (query, key, value))
        maps = attn.get_attention_scores(query, key, attention_mask)
        if self.on:
            maps = self._exchanged(maps.unflatten(0, (len(states), -1))).flatten(0, 1)
        out = attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(torch.bmm(maps, value))))
        out = out.mT.reshape(shape) if len(shape) == 4 else out
        out = out + hidden_states if attn.residual_connection else out
        return out / attn.rescale_output_factor

    def _exchanged(self, maps: Tensor) -> Tensor:
        """Maps, shape (4n, heads, positions, keys), with those of the n conditional targets exchanged."""
        n = self.count
        source, target = maps[2 * n : 3 * n], maps[3 * n :]
        if self.words is None:
            mixed = source
        else:
            words = self.words.to(maps.device)
            mixed = torch.where(words >= 0, source[..., words.clamp(min=0)], target)
        return torch.cat([maps[: 3 * n], mixed])


@dataclass(frozen=True)
class PromptToPrompt(Shipped):
    """Prompt-to-prompt. cross, own: the shares of the steps in which cross- and self-attention are the source's."""

    method: ClassVar[str] = "prompt-to-prompt"
    cross: float = 0.8
    own: float = 0.4

    def edit(self, job: Job) -> Tensor:
        """See Editor."""
        pipe = copy.copy(job.backbone.pipe)
        pipe.unet, pipe.scheduler = copy.deepcopy(pipe.unet), copy.deepcopy(job.backbone.scheduler)
        words, settings = shared_words(pipe.tokenizer, job.prompt, job.target), job.source.settings
        kinds = {name: "attn2" in name for name in pipe.unet.attn_processors}
        maps = {name: Maps(job.count, words if cross else None) for name, cross in kinds.items()}
        pipe.unet.set_attn_processor(dict(maps))

        def set_maps(step: int) -> None:
            for name, processor in maps.items():
                processor.on = step < round((self.cross if kinds[name] else self.own) * settings.steps)

        def callback(pipe: StableDiffusionPipeline, step: int, t: Tensor, tensors: dict) -> dict:
            set_maps(step + 1)
            return tensors

        set_maps(0)
        codes = pipe(
            prompt=[job.prompt] * job.count + [job.target] * job.count,
            latents=job.source.codes[0].repeat(2, 1, 1, 1),
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            output_type="latent",
            callback_on_step_end=callback,
        ).images
        return job.backbone.decode(codes[job.count :])


def shared_words(tokenizer: CLIPTokenizer, source: str, target: str) -> Tensor:
    """For each token of the target the place of the same token in the source, -1 for a new one: shape (tokens,)."""
    ids = [tokenizer(text, padding="max_length", truncation=True).input_ids for text in (source, target)]
    places = torch.full((len(ids[1]),), -1)
    for a, b, size in difflib.SequenceMatcher(None, *ids, autojunk=False).get_matching_blocks():
        places[b : b + size] = torch.arange(a, a + size)
    return places

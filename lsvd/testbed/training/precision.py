"""Which device can compute in bfloat16, asked of torch instead of a list of processors."""

from copy import deepcopy

import torch
from torch import nn

# Names in torch.cpu.get_capabilities(): Intel's and AMD's, then ARM's.
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def has_bfloat16(device: str | torch.device) -> bool:
    """Does the device multiply bfloat16 in hardware? Where it only emulates that, float32 is faster."""
    kind = torch.device(device).type
    if kind == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in _INSTRUCTIONS)
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:  # mps has no question to ask, and refuses bfloat16 before macOS 14
        one = torch.ones(1, device=device, dtype=torch.bfloat16)
        return (one * one).item() == 1
    except (RuntimeError, TypeError):
        return False


class HalfCopy:
    """A bfloat16 copy of a model that learns in its place: weights go to it before a step, gradients come back after.

    Under autocast, a GPU spends most of its time on conversions between bfloat16 and the float32 of normalisation. Here
    all layers are in bfloat16, and only weights, their averages and the optimiser stay in float32.
    """

    def __init__(self, model: nn.Module):
        self.model, self.copy = model, deepcopy(model).bfloat16()
        self.pairs = list(zip(model.parameters(), self.copy.parameters(), strict=True))

    @torch.no_grad()
    def fetch(self) -> nn.Module:
        """The copy, with the model's weights as they are now."""
        torch._foreach_copy_([half for _, half in self.pairs], [whole for whole, _ in self.pairs])
        return self.copy

    def give(self) -> None:
        """Hand the copy's gradients to the model."""
        for whole, half in self.pairs:
            whole.grad, half.grad = None if half.grad is None else half.grad.float(), None


def autocast(device: str | torch.device, wanted: bool = True) -> torch.autocast:
    """Bfloat16 where it is wanted and the device has it, else float32."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=wanted and has_bfloat16(device))

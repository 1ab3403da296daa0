"""Which device can compute in bfloat16, asked of torch instead of a list of processors."""

import torch

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


def autocast(device: str | torch.device, wanted: bool = True) -> torch.autocast:
    """Bfloat16 where it is wanted and the device has it, else float32."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=wanted and has_bfloat16(device))

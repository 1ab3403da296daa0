"""What Attribute Vector Integration has to beat: plainer ways to a code between source and target.

Linear interpolation is torch.lerp(x, z, weight). Prompt switching is `lsvd.sampling.trajectory.resume` with the target
prompt.
"""

import torch
from torch import Tensor

from lsvd.avi.exact import check_pair
from lsvd.decomposition.svd import svd


def swap(x: Tensor, z: Tensor, k: int) -> Tensor:
    """x with its leading k triplets replaced by z's, these with their own singular values.

    x, z: codes of one shape (..., C, H, W), which is the result's, in x's dtype. Raises ValueError for codes that do
    not fit, or a k that is out of range.
    """
    a, b = _wide(x, z)
    return (a - svd(a).truncate(k).recompose() + svd(b).truncate(k).recompose()).to(x.dtype)


def slerp(x: Tensor, z: Tensor, weight: float) -> Tensor:
    """Spherical interpolation from x (weight 0) to z (weight 1), each code (C, H, W) one vector.

    sin((1 - w) theta) / sin(theta) x + sin(w theta) / sin(theta) z, theta the angle between x and z; the straight line
    where there is no one arc, between codes that are parallel or 0. x, z: of one shape (..., C, H, W), which is the
    result's, in x's dtype. Raises ValueError for codes that do not fit or a weight that is not finite.
    """
    a, b = _wide(x, z)
    if not abs(weight) < float("inf"):
        raise ValueError(f"cannot interpolate by {weight}: give a finite weight")
    u, v = (torch.nn.functional.normalize(code.flatten(-3), dim=-1) for code in (a, b))
    # exact near 0 and pi too, unlike the arc cosine
    theta = 2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))[..., None, None, None]
    sine = theta.sin()
    line = (sine < 1e-4) | (u.norm(dim=-1) * v.norm(dim=-1) < 0.5)[..., None, None, None]
    safe = torch.where(line, 1.0, sine)
    of_x = torch.where(line, 1 - weight, ((1 - weight) * theta).sin() / safe)
    of_z = torch.where(line, weight, (weight * theta).sin() / safe)
    return (of_x * a + of_z * b).to(x.dtype)


def _wide(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Both codes on x's device, in float32 at least. Raises ValueError if they do not fit."""
    check_pair(x, z)
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.to(dtype), z.to(x.device, dtype)

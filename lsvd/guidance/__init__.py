"""Low-rank guidance: an edit that adds the leading singular triplets of the difference between two predictions.

Ours, in the spirit of Wang et al. 2025 (arXiv 2502.02225). With u, s and g the model's predictions for the empty, the
source and the target prompt, and d = g - s = sum_i sigma_i u_i v_i^T channel by channel, classifier-free guidance of
scale w goes on with

    e = u + w (s' - u),   s' = s + c sum_{i <= k} sigma_i u_i v_i^T   from start T down to end T, else s' = s.

It is linear, so the same holds for models that predict noise, v or a flow. k = min(H, W) with c = 1 is prompt switching
within the window.
"""

from lsvd.guidance.edit import GuidedEdit
from lsvd.guidance.pipeline import LowRankPipeline
from lsvd.guidance.settings import LowRank

__all__ = ["GuidedEdit", "LowRank", "LowRankPipeline"]

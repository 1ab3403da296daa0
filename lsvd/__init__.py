"""The latent space of diffusion models through singular value decomposition.

After Wang et al. 2025, "Exploring the latent space of diffusion models directly through singular value decomposition"
(arXiv 2502.02225). Import what you need: `lsvd.backbones.load`, `lsvd.trajectory.run` and `resume`, `lsvd.svd.svd`,
`lsvd.avi.edit_prompt`, `lsvd.plotting`.
"""

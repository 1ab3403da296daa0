"""The paper's Figure 1 from a run: trajectories, decomposition, integration, and the edited continuation."""

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from lsvd.avi.edit import Edit
from lsvd.backbones.models import Backbone
from lsvd.figures.style import COLOURS, STYLE, to_array


def framework(edit: Edit, backbone: Backbone, index: int = 0, channel: int = 0) -> Figure:
    """The paper's Figure 1 from a run: two trajectories, SVD of a channel, integration, edited continuation.

    The same colour frames the same code: x blue, z vermilion, y green. Noisy codes are decoded as they are.
    index: which picture of the batch; channel: the one whose decomposition is drawn (all are integrated). Raises
    ValueError if either does not exist, or the edit's trajectories were not drawn whole.
    """
    edit.source.final, edit.target.final  # noqa: B018 - raise if they are not there
    channels = edit.solution.y.shape[-3]
    for what, number, count in (("picture", index, len(edit.edited.final)), ("channel", channel, channels)):
        if not 0 <= number < count:
            raise ValueError(f"there is no {what} {number}: choose from 0 to {count - 1}")
    cut, last = edit.source.index(edit.t), len(edit.source.timesteps)
    z_cut = edit.target.index(edit.t_target)
    shown = np.unique(np.r_[np.linspace(0, cut, 4), np.linspace(cut, last, 5)].round().astype(int)).tolist()
    cut_column = shown.index(cut)
    z_shown = [z_cut if step == cut else step for step in shown]

    def pictures(walk, steps):
        return to_array(backbone.decode(walk.codes[steps, index]))

    def times(walk, steps):
        # the code after the last step is x_0
        return ["x₀" if i == last else f"t = {walk.timesteps[i]:g}" for i in steps]

    with mpl.rc_context(STYLE):
        fig = plt.figure(figsize=(1.15 * len(shown) + 1.4, 7.4))
        top, middle, bottom = fig.subfigures(3, 1, height_ratios=[2.1, 2.2, 1.25])
        source, target = top.subplots(2, len(shown), squeeze=False)
        edited = bottom.subplots(1, len(shown), squeeze=False)[0]
        lines = ((source, edit.source, shown, "blue", "source"), (target, edit.target, z_shown, "vermilion", "target"))
        for axes, walk, steps, colour, name in lines:
            _filmstrip(axes, pictures(walk, steps), times(walk, steps))
            _frame(axes[cut_column], COLOURS[colour])
            _row_label(axes[0], name, walk.settings.prompts[index])
        rest = [f"y for x, t = {edit.t:g}", *times(edit.source, shown[cut_column + 1 :])]
        _filmstrip(edited[cut_column:], pictures(edit.edited, [i - cut for i in shown[cut_column:]]), rest)
        for ax in edited[:cut_column]:
            ax.set_axis_off()
        _frame(edited[cut_column], COLOURS["green"])
        _row_label(edited[0] if cut_column == 0 else edited[cut_column], "edited", edit.edited.settings.prompts[index])

        _integration(middle, edit, index, channel)
    return fig


def _integration(figure: SubFigure, edit: Edit, index: int, channel: int) -> None:
    """Draw x = U S V^T and z = U' S' V'^T of one channel, the spectrum learned, and y, framed as in the filmstrips."""
    solution = edit.solution
    codes = {
        "x": (solution.x, edit.source.at(edit.t)[index, channel], "blue", "σ", ""),
        "z": (solution.z, edit.target.at(edit.t_target)[index, channel], "vermilion", "σ′", "′"),
    }
    y = solution.y[index, channel].float().cpu()
    bound = float(max(y.abs().max(), *(code.float().abs().max() for _, code, *_ in codes.values())))
    layout = figure.add_gridspec(2, 6, width_ratios=[1, 0.6, 0.8, 1, 1.9, 1.2])
    for row, (name, (svd, code, colour, sigma, prime)) in enumerate(codes.items()):
        whole = figure.add_subplot(layout[row, 0])
        place = f"t = {edit.t if name == 'x' else edit.t_target:g}"
        _matrix(whole, code, bound, f"{name}, {place}\nchannel {channel}")
        _frame(whole, COLOURS[colour])
        _matrix(figure.add_subplot(layout[row, 1]), svd.U[index, channel], None, f"U{prime}")
        bars = figure.add_subplot(layout[row, 2])
        S = svd.S[index, channel].cpu().numpy()
        bars.bar(range(1, len(S) + 1), S, color=COLOURS[colour])
        bars.set_title(f"{sigma}, top {len(S)}")
        bars.set_xticks([])
        bars.grid(False, axis="x")
        _matrix(figure.add_subplot(layout[row, 3]), svd.Vh[index, channel], None, f"V{prime}ᵀ")
    spectrum = figure.add_subplot(layout[:, 4])
    for values, before, colour, name, sigma in (
        (solution.a, solution.x.S, "blue", "a, for x", "σ of x"),
        (solution.b, solution.z.S, "vermilion", "b, for z", "σ′ of z"),
    ):
        values, before = (part[index, channel].cpu().numpy() for part in (values, before))
        places = range(1, len(values) + 1)
        spectrum.plot(places, before, color=COLOURS[colour], marker="o", mfc="white", ls=":", label=sigma)
        spectrum.plot(places, values, color=COLOURS[colour], marker="o", ls="-", label=name)
    spectrum.set_xlabel("triplet")
    spectrum.set_title("the spectrum S = (a, b)")
    spectrum.xaxis.get_major_locator().set_params(integer=True)
    spectrum.legend()
    result = figure.add_subplot(layout[:, 5])
    _matrix(
        result,
        y,
        bound,
        f"y, t = {edit.t:g}, channel {channel}\n= Σ a u vᵀ + Σ b u′ v′ᵀ" + " + rest" * edit.config.keep_rest,
    )
    _frame(result, COLOURS["green"])


def _matrix(ax: Axes, values: Tensor, bound: float | None, title: str) -> None:
    """A matrix as a heat map, 0 in the middle of the scale."""
    values = values.detach().float().cpu().numpy()
    bound = bound or float(abs(values).max(initial=0)) or 1.0
    ax.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
    ax.set_title(title)
    _bare(ax)


def _filmstrip(axes: Sequence[Axes], pictures: np.ndarray, titles: Sequence[str]) -> None:
    for ax, picture, title in zip(axes, pictures, titles, strict=True):
        ax.imshow(picture)
        ax.set_title(title, fontsize=8)
        _bare(ax)


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.spines[:].set_visible(False)


def _frame(ax: Axes, colour: str) -> None:
    ax.spines[:].set(visible=True, color=colour, linewidth=2.5)


def _row_label(ax: Axes, name: str, prompt: str) -> None:
    """The row's name and prompt beside its first picture, the prompt broken into short lines."""
    words, lines = f"“{prompt}”".split(), [""]
    for word in words:
        lines[-1:] = [f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < 16 else [lines[-1], word]
    ax.set_ylabel("\n".join([name, *lines]), rotation=0, ha="right", va="center", fontsize=8)

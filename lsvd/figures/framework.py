"""The paper's Figure 1 from a run: trajectories, decomposition, integration, and the edited continuation."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from lsvd.avi.edit import Edit
from lsvd.figures.style import COLOURS, styled, to_array
from lsvd.sampling.trajectory import Trajectory


def shown(edit: Edit, index: int = 0) -> dict[str, Tensor]:
    """The codes that `framework` shows as pictures: "source" and "target", shape (n, C, H, W), and "edited", from x on.

    index: which picture of the batch. Raises ValueError if it does not exist, the edit's trajectories were not drawn
    whole, or its method gave no decomposition.
    """
    edit.source.final, edit.target.final  # noqa: B018 - raise if they are not there
    if edit.solution is None or edit.config is None:
        raise ValueError("the edit's method gave no decomposition to show: edit with an AVIConfig")
    _check("picture", index, len(edit.edited.final))
    source, target, cut = _steps(edit)
    edited = [step - source[cut] for step in source[cut:]]
    walks = {"source": (edit.source, source), "target": (edit.target, target), "edited": (edit.edited, edited)}
    return {name: walk.codes[steps, index] for name, (walk, steps) in walks.items()}


def framework(edit: Edit, pictures: Mapping[str, Tensor], index: int = 0, channel: int = 0) -> Figure:
    """The paper's Figure 1 from a run: two trajectories, SVD of a channel, integration, edited continuation.

    The same colour frames the same code: x blue, z vermilion, y green. Noisy codes are shown as they are.
    pictures: the codes of `shown`, decoded, each (n, 3, H, W); index: which picture of the batch they are; channel: the
    one whose decomposition is drawn (all are integrated). Raises ValueError if either does not exist, or pictures are
    missing.
    """
    counts = {name: len(codes) for name, codes in shown(edit, index).items()}
    _check("channel", channel, edit.solution.y.shape[-3])
    if {name: len(batch) for name, batch in pictures.items()} != counts:
        raise ValueError("the pictures are not those of this edit: decode each value of shown(edit, index)")
    source_steps, target_steps, cut = _steps(edit)
    source_times, target_times = _times(edit.source, source_steps), _times(edit.target, target_steps)
    strips = {name: to_array(batch) for name, batch in pictures.items()}
    with styled():
        fig = plt.figure(figsize=(1.15 * len(source_steps) + 1.4, 7.4))
        top, middle, bottom = fig.subfigures(3, 1, height_ratios=[2.1, 2.2, 1.25])
        source, target = top.subplots(2, len(source_steps), squeeze=False)
        edited = bottom.subplots(1, len(source_steps), squeeze=False)[0]
        lines = ((source, "source", source_times, "blue"), (target, "target", target_times, "vermilion"))
        for axes, name, times, colour in lines:
            _filmstrip(axes, strips[name], times)
            _frame(axes[cut], COLOURS[colour])
            _row_label(axes[0], name, getattr(edit, name).settings.prompts[index])
        _filmstrip(edited[cut:], strips["edited"], [f"y for x, t = {edit.t:g}", *source_times[cut + 1 :]])
        for ax in edited[:cut]:
            ax.set_axis_off()
        _frame(edited[cut], COLOURS["green"])
        _row_label(edited[cut], "edited", edit.edited.settings.prompts[index])
        _integration(middle, edit, index, channel)
    return fig


def _check(what: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise ValueError(f"there is no {what} {number}: choose from 0 to {count - 1}")


def _steps(edit: Edit) -> tuple[list[int], list[int], int]:
    """The steps shown of source and target, up to nine each, and the place in them at which x and z are taken."""
    at, last = edit.source.index(edit.t), len(edit.source.timesteps)
    source = np.unique(np.r_[np.linspace(0, at, 4), np.linspace(at, last, 5)].round().astype(int)).tolist()
    target = [edit.target.index(edit.t_target) if step == at else step for step in source]
    return source, target, source.index(at)


def _times(walk: Trajectory, steps: Sequence[int]) -> list[str]:
    # the code after the last step is x_0
    return ["x₀" if i == len(walk.timesteps) else f"t = {walk.timesteps[i]:g}" for i in steps]


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

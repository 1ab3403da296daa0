"""The longer charts of the notebooks on the three properties and on predictions, from the results of their studies."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lsvd.figures import charts, style
from lsvd.statistics import intervals
from lsvd.studies import encoding, neighbourhood, order, predictions
from lsvd.studies.neighbourhood import Neighbourhood
from lsvd.studies.predictions import Difference, Settling
from lsvd.studies.responses import Responses


def timestep_distances(result: neighbourhood.Result) -> Figure:
    """Mean distance from each timestep to all others, for the model and its nulls: the paper's Figure 5."""
    fig, axes = charts.panels(list(result.models), 3.6, sharey=True)
    for ax, model in zip(axes[0], result.models.values(), strict=True):
        conditions = {"model": model.D, "model, eta = 1": model.stochastic, "its noise added": model.shared}
        conditions |= {"fresh noise added": model.fresh, "its noise, another's x₀": model.mixed}
        lines = {label: charts.spread(neighbourhood.by_timestep(D)) for label, D in conditions.items()}
        charts.curves(ax, model.timesteps, lines | {"other pictures": model.others.mean(1)})
        ax.axhline(model.chance.value, color="0.5", lw=1, label="chance")
        ax.set(xlabel="timestep t", ylim=(0, 1))
        ax.invert_xaxis()
    fig.suptitle("The paper's Figure 5: from each timestep's subspaces to those of all others")
    axes[0, 0].set_ylabel(f"mean distance to other timesteps\n(fraction of the largest), k = {result.k}")
    _legend_below(fig, axes[0, 0], 7 if len(result.models) > 1 else 2)
    return fig


def distance_matrices(models: Mapping[str, Neighbourhood]) -> Figure:
    """Distance of all pairs of timesteps, mean over pictures: of the model above, of its noise added to x_0 below."""
    fig, axes = plt.subplots(2, len(models), figsize=(2.3 * len(models) + 1.6, 5.2), squeeze=False)
    for column, (name, model) in enumerate(models.items()):
        first = model.timesteps[0].item()
        conditions = {"model": model.D, "its noise added to x₀": model.shared}
        for ax, (label, D) in zip(axes[:, column], conditions.items(), strict=True):
            image = ax.imshow(D.mean(-1), vmin=0, vmax=1, extent=(first, 0, 0, first))
            ax.set(title=f"{name}\n{label}", xlabel="timestep t")
            ax.grid(False)
    fig.suptitle("The paper's Figure 5: distance between the subspaces of two timesteps")
    for ax in axes[:, 0]:
        ax.set_ylabel("timestep t")
    fig.colorbar(image, ax=axes, label="distance (fraction of the largest)", shrink=0.6)
    return fig


def distance_by_dimension(models: Mapping[str, Neighbourhood]) -> Figure:
    """Mean distance against the dimension k of the subspaces, left and right, beside noise and chance."""
    fig, axes = charts.panels(list(models), 3.4, sharey=True)
    lines = {"model": "blue", "its noise added": "green", "chance": "black"}
    for ax, model in zip(axes[0], models.values(), strict=True):
        for side, marker, dashes in (("left", "o", "-"), ("right", "s", ":")):
            sweep = {k: values for (which, k), values in model.dimensions.items() if which == side}
            for number, (label, colour) in enumerate(lines.items()):
                look = {"color": style.COLOURS[colour], "linestyle": dashes, "marker": marker, "mfc": "none"}
                means = [values[number].value for values in sweep.values()]
                charts.curves(ax, list(sweep), {f"{label}, {side}": means}, [look])
        ax.set(xlabel="dimension k", ylim=(0, 1))
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
    axes[0, 0].set_ylabel("mean distance\n(fraction of the largest)")
    _legend_below(fig, axes[0, 0], 6 if len(models) > 1 else 2)
    return fig


def response_trends(models: Mapping[str, Sequence[Responses]]) -> Figure:
    """Moves of attributes by scaled singular values, by scale, against t: beyond random directions, and both below."""
    fig, axes = charts.panels(list(models), 5, rows=2, sharex="col", height_ratios=[3, 2])
    for (upper, lower), parts in zip(axes.T, models.values(), strict=True):
        excess, (moves, null), timesteps = encoding.curves(parts), encoding.moves(parts), [part.t for part in parts]
        looks = [charts.SCALES[scale] for scale in excess]
        charts.curves(upper, timesteps, excess, looks, marker="o")
        charts.curves(lower, timesteps, moves, looks)
        charts.curves(lower, timesteps, null, looks, linestyle=":")
        upper.axhline(0, color="0.5", lw=1)
        lower.set(xlabel="timestep t")
        upper.invert_xaxis()
    axes[0, 0].set_ylabel("moved − null (0 to 1)")
    axes[1, 0].set_ylabel("moved; dotted: null")
    axes[0, 0].legend()
    fig.suptitle("Response beyond random directions, with 95% intervals")
    return fig


def rank_changes(models: Mapping[str, order.Mobility]) -> Figure:
    """Mean change of the ranks of the leading triplets over each time step, beside that matched with other pictures."""
    fig, axes = charts.panels(list(models), 3.3)
    for ax, mobility in zip(axes[0], models.values(), strict=True):
        lines = {"same picture": mobility.same, "another picture": mobility.null}
        charts.curves(ax, mobility.same.dt, {label: charts.spread(part.by_sample) for label, part in lines.items()})
        ax.set(xlabel="Δt (timesteps)", ylim=(0, None))
    axes[0, 0].set_ylabel("mean rank change")
    axes[0, 0].legend()
    fig.suptitle("How far the ranks of the first eight triplets move")
    return fig


def settling_distances(settling: Mapping[str, Settling]) -> Figure:
    """Distance of the subspaces of x̂_0 and x_t from the final one, against t."""
    fig, axes = charts.panels(list(settling), 3.3, sharey=True)
    for ax, model in zip(axes[0], settling.values(), strict=True):
        lines = {"$x_t$": model.code, "another picture's $\\hat x_0$": model.other, "$\\hat x_0$": model.estimate}
        charts.curves(ax, model.timesteps, {label: charts.spread(D) for label, D in lines.items()})
        ax.set(xlabel="timestep t", ylim=(0, 1))
        ax.invert_xaxis()
    axes[0, 0].set_ylabel("distance from the final subspace")
    _legend_below(fig, axes[0, 0], 3)
    return fig


def settling_times(settling: Mapping[str, Settling]) -> Figure:
    """The fraction of T at which each triplet of the final code has settled, in x̂_0 and in x_t."""
    fig, axes = charts.panels(list(settling), 3.3, sharey=True)
    ranks = range(1, predictions.TRIPLETS + 1)
    for ax, model in zip(axes[0], settling.values(), strict=True):
        lines = {}
        for label, parts in {"$x_t$": model.code_parts, "$\\hat x_0$": model.parts}.items():
            means = [intervals.mean(times, bounds=intervals.UNIT) for times in model.settled(parts).T]
            lines[label] = list(zip(*((x.value, x.low, x.high) for x in means), strict=True))
        charts.curves(ax, ranks, lines, charts.LOOKS[::2], marker="o")
        ax.set(xlabel="triplet of the final code", ylim=(0, 1), xticks=ranks)
    axes[0, 0].set_ylabel("settled from t / T on")
    _legend_below(fig, axes[0, 0], 2)
    return fig


def estimate_responses(answers: Mapping[str, Sequence[Responses]]) -> Figure:
    """Moves of attributes by scaled singular values of x̂_0 beyond random directions, by scale, against t."""
    fig, axes = charts.panels(list(answers), 3.3, sharey=True)
    for ax, parts in zip(axes[0], answers.values(), strict=True):
        excess = encoding.curves(parts)
        charts.curves(ax, [part.t for part in parts], excess, [charts.SCALES[s] for s in excess], marker="o")
        ax.axhline(0, color="0.5", lw=1)
        ax.set(xlabel="timestep t")
        ax.invert_xaxis()
    axes[0, 0].set_ylabel("moved − null (0 to 1)")
    axes[0, 0].legend()
    return fig


def difference_spectra(result: predictions.Result, name: str) -> Figure:
    """d_t of a model, for each prompt: its spectrum, the energy of its first triplet, how that turns with the steps."""
    by_prompt, timesteps = result.differences[name], result.settling[name].timesteps
    titles = ["energy of each triplet", "energy of the first triplet", "distance of its left vector"]
    fig, [(left, middle, right)] = charts.panels(titles, 3.8, width=2.9)
    ranks = range(1, 9)
    charts.curves(left, ranks, {p: d.spectrum[..., :8].mean((0, 1)) for p, d in by_prompt.items()}, marker="o", ms=3)
    left.plot(ranks, result.noise[:8], color="0.5", ls="--", label="noise")
    charts.curves(middle, timesteps, {p: d.share.mean(1) for p, d in by_prompt.items()})
    middle.axhline(result.noise[0], color="0.5", ls="--")
    middle.invert_xaxis()
    _turning(right, by_prompt, len(timesteps))
    right.axhline(result.chance.value, color="0.5", ls="--")
    for ax, label in ((left, "triplet"), (middle, "timestep t"), (right, "steps apart")):
        ax.set(xlabel=label, ylim=(0, None))
    _legend_below(fig, left, 6)
    return fig


def _turning(ax: plt.Axes, by_prompt: Mapping[str, Difference], steps: int) -> None:
    """Distance of the first left vector between timesteps so many steps apart; dotted, that between seeds."""
    for look, d in zip(charts.LOOKS, by_prompt.values(), strict=False):
        ax.plot(range(1, steps), d.apart.mean(1), **look)
        ax.axhline(d.across_seeds.mean(), color=look["color"], ls=":", lw=0.8)


def _legend_below(fig: Figure, ax: plt.Axes, columns: int) -> None:
    """One legend for all panels, below them."""
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=columns)

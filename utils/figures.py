"""Figures 2, 3 and 4 of Li et al. (ACM MM 2023) from arrays and finished runs.

Every plot function returns a `matplotlib.figure.Figure` that belongs to no window and no global
state; `save` writes it. Classes have the same colours in all figures; the palette is Okabe and
Ito's, which readers with colour-blindness can tell apart.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from utils.audit.protocols import balanced_users
from utils.runs.files import replace_file

ORANGE, BLUE, GREEN, PINK, AMBER, SKY, BLACK = (
    "#D55E00",
    "#0072B2",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
PALETTE = (ORANGE, BLUE, GREEN, PINK, AMBER, SKY, BLACK)
GREY = "#666666"

DPI = 100
COLORS = 64
BINS = 48
NEEDLE = 4.0
"""A distribution is magnified when the row's widest is more than this many times as wide."""
PERPLEXITY = 30.0
TOUCHING = 0.04
"""Points closer than this share of both axes have one label."""


@dataclass(frozen=True)
class TradeOffPoint:
    """One attacked run: what it hides against what it still recommends.

    Attributes:
        method: the method's title.
        regularizer: l_r of eq. 1, by its name in the configs.
        alpha: weight of the regulariser; of no meaning for the original.
        attacker: the attacker's name in the configs.
        auc: its mean AUC.
        ndcg: NDCG@10 on test.
    """

    method: str
    regularizer: str
    alpha: float
    attacker: str
    auc: float
    ndcg: float


def class_separation(embedding: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How far the classes stand apart in each dimension.

        d_k = (max_c m_ck - min_c m_ck) / s_k,
        s_k^2 = sum_c sum_{i in c} (theta_ik - m_ck)^2 / (N - C),

    the distance of the furthest class means m_ck in pooled standard deviations; Cohen's d for
    two classes.

    Args:
        embedding: (N, K).
        labels: (N,) classes 0 .. C-1, -1 where unknown.

    Returns:
        (K,); 0 where the class means are equal, infinite where only they differ.
    """
    known = labels >= 0
    theta, classes = embedding[known].astype(np.float64), labels[known]
    numbers, position = np.unique(classes, return_inverse=True)
    means = np.stack([theta[classes == number].mean(0) for number in numbers])
    distance = np.ptp(means, axis=0)
    within = ((theta - means[position]) ** 2).sum(0) / (len(theta) - len(numbers))
    spread = np.sqrt(within)
    apart = np.where(distance > 0, np.inf, 0.0)
    return np.divide(distance, spread, out=apart, where=spread > 0)


def most_telling_dimension(embedding: np.ndarray, labels: np.ndarray) -> int:
    """The dimension whose class means differ most: the largest `class_separation`."""
    return int(class_separation(embedding, labels).argmax())


def dimension_histograms(
    embeddings: Mapping[str, np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    dimensions: Sequence[int],
    rng: np.random.Generator,
) -> Figure:
    """Histograms by class, a row a dimension and a column a method (Figure 4).

    The larger classes are down-sampled to the smallest, with the same users in all panels. A
    row's panels share their bins and x-axis, so that they compare; the heights are each panel's
    own. Dashed lines are the classes' means, the note above each panel is `class_separation`.
    A distribution much narrower than the row's widest is magnified in an inset.

    Args:
        embeddings: title -> (N, K).
        labels: (N,) classes 0 .. C-1, -1 where unknown.
        classes: their names.
        dimensions: which columns of the embeddings to show.
        rng: draws the users.
    """
    users = balanced_users(labels, rng)
    known = labels[users]
    rows, columns = len(dimensions), len(embeddings)
    figure = Figure(figsize=(3.1 * columns, 0.75 + 1.55 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex="row", squeeze=False)
    colors = class_colors(len(classes))
    for row, dimension in zip(grid.tolist(), dimensions, strict=True):
        shown = {title: theta[users, dimension] for title, theta in embeddings.items()}
        edges = np.histogram_bin_edges(np.concatenate(list(shown.values())), BINS)
        widest = max(map(_interquartile, shown.values()))
        for axes, values in zip(row, shown.values(), strict=True):
            by_class = [values[known == number] for number in range(len(classes))]
            _overlay(axes, by_class, edges)
            for of_class, color in zip(by_class, colors, strict=True):
                axes.axvline(of_class.mean(), color=color, linestyle="--", linewidth=1.2)
            if _interquartile(values) < widest / NEEDLE:
                _magnify(axes, by_class)
            apart = class_separation(values[:, None], known)[0]
            axes.set_title(f"means {apart:.2f} s.d. apart", loc="right", fontsize=8, color=GREY)
        row[0].set_ylabel(f"dimension {dimension}\nusers", fontsize=9)
    for top, bottom, title in zip(grid[0], grid[-1], embeddings, strict=True):
        top.set_title(title, loc="left", fontsize=11, fontweight="bold")
        bottom.set_xlabel("value", fontsize=9)
    patches = [
        Patch(color=color, alpha=0.5, label=f"{name} ({(known == number).sum()})")
        for number, (name, color) in enumerate(zip(classes, colors, strict=True))
    ]
    _legend(figure, patches)
    return figure


def prediction_tsne(
    embeddings: Mapping[str, np.ndarray],
    predictions: Mapping[str, Mapping[str, np.ndarray]],
    labels: np.ndarray,
    classes: Sequence[str],
    seed: int,
) -> Figure:
    """What attackers make of each embedding, in its two t-SNE dimensions (Figure 3).

    A row an embedding, a column the true labels and then each attacker's predictions. Where
    the attacker succeeds, its panel looks like that of the truth.

    Args:
        embeddings: title -> (N, K).
        predictions: title -> attacker -> (N,) predicted classes, -1 for users that are left
            out; all attackers and embeddings leave out the same users.
        labels: (N,) true classes 0 .. C-1.
        classes: their names.
        seed: t-SNE's, below 2^32.
    """
    attackers = list(next(iter(predictions.values())))
    headings = ["ground truth", *(f"{name} predicts" for name in attackers)]
    rows, columns = len(embeddings), len(headings)
    figure = Figure(figsize=(3.1 * columns, 0.6 + 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    colors = np.array(class_colors(len(classes)))
    for row, (title, embedding) in zip(grid, embeddings.items(), strict=True):
        shown = predictions[title][attackers[0]] >= 0
        truth = labels[shown]
        places = tsne(embedding[shown], seed)
        guesses = [predictions[title][name][shown] for name in attackers]
        for axes, colored in zip(row, [truth, *guesses], strict=True):
            axes.scatter(*places.T, s=9, c=colors[colored], alpha=0.75, linewidths=0)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("#cccccc")
        for axes, guess in zip(row[1:], guesses, strict=True):
            axes.set_xlabel(f"{np.mean(guess == truth):.0%} right", fontsize=9)
        row[0].set_ylabel(title, fontsize=11, fontweight="bold")
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(heading, fontsize=10)
    dots = [
        Line2D([], [], linestyle="", marker="o", color=color, label=name)
        for name, color in zip(classes, colors, strict=True)
    ]
    _legend(figure, dots)
    return figure


def tsne(embedding: np.ndarray, seed: int) -> np.ndarray:
    """(N, 2) t-SNE coordinates; needs at least 4 users."""
    # perplexity counts neighbours: a third of the users at most, in small samples
    perplexity = min(PERPLEXITY, (len(embedding) - 1) / 3)
    reduction = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    # one thread: the same picture on any number of cores, and no waiting on a busy machine
    with threadpool_limits(1):
        return reduction.fit_transform(embedding)


def trade_off_points(
    folder: Path, titles: Mapping[str, str], attribute: str, protocol: str, seed: int
) -> list[TradeOffPoint]:
    """The finished and attacked runs below `<results_path>/<model>/<dataset>`.

    Args:
        folder: where to look.
        titles: methods to collect, their names in the configs -> their titles.
        attribute: the attribute that was unlearned and attacked.
        protocol: of the attack.
        seed: of the runs.

    Returns:
        A point a run and attacker, in the order of the titles, alphas ascending.
    """
    points = []
    # a run that was kept with other settings lies in seed-<n>.<m>, which this doesn't match
    for run in folder.glob(f"**/seed-{seed}"):
        found = [run / name for name in ("config.json", "summary.json", "attack.json")]
        if not all(path.exists() for path in found):
            continue
        config, summary, attacks = (json.loads(path.read_text()) for path in found)
        attack = attacks.get(f"{attribute}/{protocol}")
        if attack is None or config["method"] not in titles or config["attribute"] != attribute:
            continue
        points += [
            TradeOffPoint(
                titles[config["method"]],
                config["regularizer"],
                config["au_trade_off"],
                attacker,
                scores["auc"]["mean"],
                summary["test"]["NDCG@10"],
            )
            for attacker, scores in attack["attackers"].items()
        ]
    order = list(titles.values())
    return sorted(
        points,
        key=lambda point: (
            order.index(point.method),
            point.regularizer,
            point.alpha,
            point.attacker,
        ),
    )


def trade_off(points: Sequence[TradeOffPoint], originals: Sequence[TradeOffPoint]) -> Figure:
    """AUC against NDCG@10 for every alpha (Figure 2): a row an attacker, a column a method.

    The best place is on the dashed line of chance and as far to the right as the original.

    Args:
        points: what to plot, at least one.
        originals: the original model under each attacker, as far as it was attacked.
    """
    methods, attackers, regularizers = (
        list(dict.fromkeys(getattr(point, name) for point in points))
        for name in ("method", "attacker", "regularizer")
    )
    size = (4.6 * len(methods), 0.8 + 2.7 * len(attackers))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(attackers), len(methods), sharex="col", sharey="row", squeeze=False)
    styles: list[dict[str, Any]] = [
        # hollow, above one another: coinciding series stay visible
        dict(color=color, marker=marker, markersize=6, markerfacecolor="none", linewidth=1)
        for color, marker in zip(PALETTE, "osD", strict=False)
    ]
    original: dict[str, Any] = dict(color=BLACK, marker="*", markersize=9, linestyle="")
    chance: dict[str, Any] = dict(color=GREY, linestyle="--", linewidth=1)
    for row, attacker in zip(grid, attackers, strict=True):
        for axes, method in zip(row, methods, strict=True):
            axes.axhline(0.5, **chance)
            reference = [point for point in originals if point.attacker == attacker]
            _plot_points(axes, reference, original)
            panel = [p for p in points if (p.method, p.attacker) == (method, attacker)]
            by_regularizer = [[p for p in panel if p.regularizer == r] for r in regularizers]
            for series, style in zip(by_regularizer, styles, strict=False):
                _plot_points(axes, series, style)
            axes.margins(0.2)
            for number, (series, style) in enumerate(zip(by_regularizer, styles, strict=False)):
                _label_alphas(axes, series, style["color"], above=number % 2 == 1)
            _clean(axes)
        row[0].set_ylabel(f"AUC of {attacker.upper()}", fontsize=9)
    for top, bottom, method in zip(grid[0], grid[-1], methods, strict=True):
        top.set_title(method, loc="left", fontsize=11, fontweight="bold")
        bottom.set_xlabel("NDCG@10", fontsize=9)
    lines = [
        Line2D([], [], label=f"{name} regulariser", **style)
        for name, style in zip(regularizers, styles, strict=False)
    ]
    if originals:
        lines.append(Line2D([], [], label="original", **original))
    lines.append(Line2D([], [], label="chance", **chance))
    _legend(figure, lines)
    return figure


def class_colors(count: int) -> list[str]:
    """A colour a class: the palette, or shades where it is too short."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    return [to_hex(shade) for shade in colormaps["viridis"](np.linspace(0, 1, count))]


def save(figure: Figure, path: Path) -> Path:
    """Write a small PNG, whole or not at all; returns its path."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(DPI)
    canvas.draw()
    # a palette takes a third of the space of full colours
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLORS)
    with replace_file(path) as file:
        picture.save(file, format="png", optimize=True)
    return path


def _interquartile(values: np.ndarray) -> float:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low)


def _overlay(axes: Axes, by_class: Sequence[np.ndarray], edges: np.ndarray) -> None:
    for values, color in zip(by_class, class_colors(len(by_class)), strict=True):
        axes.stairs(*np.histogram(values, edges), fill=True, color=color, alpha=0.5)
    _clean(axes)


def _magnify(axes: Axes, by_class: Sequence[np.ndarray]) -> None:
    """Show the middle of a narrow distribution, two interquartile ranges to either side."""
    values = np.concatenate(by_class)
    middle, reach = np.median(values), 2 * _interquartile(values)
    ends = (middle - reach, middle + reach)
    # on the roomier side of the needle
    left = 0.08 if middle > np.mean(axes.get_xlim()) else 0.62
    inset = axes.inset_axes((left, 0.3, 0.36, 0.6))
    _overlay(inset, by_class, np.linspace(*ends, 31))
    inset.set(yticks=[], xticks=ends, xlim=ends)
    inset.xaxis.set_major_formatter("{x:.2g}")
    inset.tick_params(labelsize=7)
    inset.set_title("magnified", fontsize=7, pad=2)


def _plot_points(axes: Axes, points: Sequence[TradeOffPoint], style: dict[str, Any]) -> None:
    axes.plot([point.ndcg for point in points], [point.auc for point in points], **style)


def _label_alphas(axes: Axes, series: Sequence[TradeOffPoint], color: str, above: bool) -> None:
    """Write alpha beside each point, once for neighbours in the series that touch."""
    size = np.array([np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())])
    places = np.array([[point.ndcg, point.auc] for point in series])
    groups: list[list[int]] = []
    for number, place in enumerate(places):
        if groups and (np.abs(place - places[groups[-1][0]]) < TOUCHING * size).all():
            groups[-1].append(number)
        else:
            groups.append([number])
    for group in groups:
        names = [np.format_float_scientific(series[n].alpha, trim="-", exp_digits=1) for n in group]
        axes.annotate(
            names[0] if len(group) == 1 else f"{names[0]} to {names[-1]}",
            places[group[0]],
            (0, 6) if above else (6, -3),
            textcoords="offset points",
            ha="center" if above else "left",
            va="bottom" if above else "top",
            fontsize=7.5,
            color=color,
        )


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _legend(figure: Figure, handles: list) -> None:
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(len(handles), 8), frameon=False
    )

"""Embeddings over training as density contours (DRIFT, Figure 2, left).

Ours, as the paper does not say how its plane was made: features are L2-normalised, each prompt's
mean under the base model is subtracted, and the plane is that of the base model's two principal
components. Plane, kernel width and levels are the base model's in every panel, so a shrinking
contour is a shrinking set of pictures and not another scale.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from drift.evaluation.sheets import spread_out
from drift.report.arms import Compared
from drift.report.comparison import Comparison
from drift.report.plots.style import BASE, INK, RULE, SOFT, WIDTH, caption, look, plain
from drift.report.verdict import number

COLUMNS = 5  # steps shown
CELLS = 100  # of the density's grid, along each axis


@dataclass(frozen=True)
class Plane:
    """Where features are seen: the base model's two principal components."""

    centre: Float[Tensor, "P 1 D"]  # each prompt's mean
    axes: Float[Tensor, "2 D"]
    width: Float[Tensor, "2"]  # of the kernel, along either axis
    shares: Float[Tensor, "2"]  # of the base model's variance

    def project(self, features: Float[Tensor, "P N D"]) -> Float[Tensor, "M 2"]:
        """All pictures of all prompts: M = P·N."""
        E = normalize(features.double(), dim=2)
        return (E - self.centre).flatten(0, 1) @ self.axes.T


def fit_plane(base: Float[Tensor, "P N D"]) -> Plane:
    """Principal components, and Scott's rule for the width: std·M^(-1/6) in two dimensions."""
    E = normalize(base.double(), dim=2)
    centre = E.mean(1, keepdim=True)
    X = (E - centre).flatten(0, 1)
    _, scales, axes = torch.linalg.svd(X, full_matrices=False)
    std = scales[:2] / (len(X) - 1) ** 0.5
    width = (std * len(X) ** (-1 / 6)).clamp(min=1e-6)  # a base model of one picture has std 0
    shares = scales.square() / scales.square().sum().clamp(min=1e-12)
    return Plane(centre, axes[:2], width, shares[:2])


def density(
    points: Float[Tensor, "M 2"],
    x: Float[Tensor, "X"],
    y: Float[Tensor, "Y"],
    width: Float[Tensor, "2"],
) -> Float[Tensor, "Y X"]:
    """Mean of a Gaussian kernel of fixed width at each point.

    scipy's gaussian_kde takes its width from the points, and fails where they coincide; with this
    one they make a blob of the kernel's own size.
    """
    kernels = [
        torch.exp(-0.5 * ((grid[:, None] - points[:, axis]) / width[axis]) ** 2)
        / (width[axis] * (2 * torch.pi) ** 0.5)
        for axis, grid in enumerate((x, y))
    ]
    return kernels[1] @ kernels[0].T / len(points)


def _window(points: Float[Tensor, "M 2"], width: Float[Tensor, "2"]) -> Float[Tensor, "2 X"]:
    """The grid along either axis that holds all points and their kernels."""
    low, high = points.amin(0) - 3 * width, points.amax(0) + 3 * width
    return low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, CELLS)


def _panel(ax: Axes, grid: tuple, p: Tensor, base: Tensor, levels: list, colour: str) -> None:
    """The filled contours are an image, so that the file stays small; no ticks: units say nothing.

    Dashed, the outermost contour of the base model.
    """
    cmap = LinearSegmentedColormap.from_list("", ["#ffffff", colour, INK])
    norm = LogNorm(levels[0] / 2, 2 * levels[-1])
    ax.contourf(*grid, p, levels, cmap=cmap, norm=norm, extend="max").set_rasterized(True)
    ax.contour(*grid, base, levels[:1], colors=SOFT, linewidths=0.7, linestyles="--")
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color(RULE)


def _tell(ax: Axes, run: Compared, step: int, encoder: str, colour: str) -> None:
    """Above the panel its step; in its corner the diversity, which knows all dimensions."""
    ax.set_title(f"epoch {step}" if step else "base model", weight="normal", color=colour)
    figure = run.figure(f"diversity/{encoder}", step)
    if figure and figure["mean"] is not None:
        shown = number(figure["mean"])
        ax.text(0.96, 0.04, shown, ha="right", fontsize=7.5, transform=ax.transAxes)


def _levels(densities: list[Tensor], base: Tensor) -> list[float]:
    """Each twice the one before, from a sixteenth of the base model's peak to the highest peak."""
    peak, highest = base.max().item(), max(p.max().item() for p in densities)
    return [peak * 2.0**k for k in range(-4, max(1, math.ceil(math.log2(highest / peak))))]


def contours(compared: Comparison) -> Figure:
    """A row for each arm (its first seed), a column for each of some steps, base model first."""
    encoder, arms = compared.encoder, compared.arms
    shown = [[arm.steps[k] for k in spread_out(len(arm.steps), COLUMNS)] for arm in arms]
    plane = fit_plane(compared.base.features(0, encoder))
    clouds = [
        [plane.project(arm.runs[0].features(step, encoder)) for step in steps]
        for arm, steps in zip(arms, shown, strict=True)
    ]
    x, y = _window(torch.cat([points for row in clouds for points in row]), plane.width)
    densities = [[density(points, x, y, plane.width) for points in row] for row in clouds]
    base = densities[0][0]
    levels = _levels([p for row in densities for p in row], base)

    columns = max(map(len, shown))
    shape = (y[-1] - y[0]).item() / (x[-1] - x[0]).item()
    width = min(WIDTH, 1.8 * columns)
    height = 0.6 + len(arms) * (0.2 + shape * width / columns)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(len(arms), columns, squeeze=False)
    for r, (arm, row) in enumerate(zip(arms, axes, strict=True)):
        for ax, step, p in zip(row, shown[r], densities[r], strict=False):
            colour = look(r).colour if step else BASE
            _panel(ax, (x, y), p, base, levels, colour)
            _tell(ax, arm.runs[0], step, encoder, colour)
        row[0].set_ylabel(plain(arm.label, 20), color=look(r).colour, weight="bold")
        for ax in row[len(shown[r]) :]:
            ax.set_axis_off()
    of_variance = " + ".join(f"{100 * share:.0f} %" for share in plane.shares.tolist())
    caption(
        figure,
        f"Density of the {plain(encoder, 24)} features of all prompts' pictures, each prompt's "
        "base-model mean subtracted, on the base model's two principal components "
        f"({of_variance} of its variance). Plane, kernel and levels are the same in all panels: "
        "each level is twice the one around it. Dashed: the base model's outermost. Numbers: "
        "diversity in all dimensions. First training seed of each arm.",
    )
    return figure

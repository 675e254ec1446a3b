"""Coverage of the base model's images by the fine-tuned model's (DRIFT, Section 6, App. D).

Kynkäänniemi et al., Eq. 1-2: a set of images stands for the union of balls around each of them
that reach to its k-th nearest neighbour, itself not counted; the rim belongs to the ball. Features
are compared as given, by Euclidean distance and without normalisation, as there; a caller who
wants angles normalises.

Float64 whatever comes in. Distances that decide are sums of squared differences, never expanded
into dot products, so that a point is at distance exactly 0 from itself and a set recalls itself
wholly, duplicates included. As such sums are slow, a matrix product first tells the pairs whose
answer its rounding cannot change from the few that are then worked out; the result is the same,
bit for bit. Beside the features themselves, memory stays within a few times `BLOCK_BYTES`.

On one slow core, 50,000 against 50,000 images at D = 64 take 2 minutes and 210 MiB, and 10,000 at
D = 512 a quarter of a minute (9 times as fast as the sums alone). At worst, where most distances
tie to within rounding, it is as slow as they are.
"""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

BLOCK_BYTES = 2**26  # of squared distances held at a time


def generalized_recall(
    reference: Float[Tensor, "N D"], generated: Float[Tensor, "M D"], k: int = 10
) -> float:
    """Share of reference images within the k-NN balls of the generated (DRIFT, App. D).

    The base model against itself is 1. Needs M > k.
    """
    points, centres = _finite("reference", reference), _finite("generated", generated)
    return _covered(points, centres, k, "generated").double().mean().item()


def precision(
    reference: Float[Tensor, "N D"], generated: Float[Tensor, "M D"], k: int = 10
) -> float:
    """Share of generated images within the k-NN balls of the reference (Kynkäänniemi, Eq. 2).

    Falls where fine-tuning leaves what the base model draws. Needs N > k.
    """
    points, centres = _finite("generated", generated), _finite("reference", reference)
    return _covered(points, centres, k, "reference").double().mean().item()


def covered(
    points: Float[Tensor, "N D"], centres: Float[Tensor, "M D"], k: int = 10
) -> Bool[Tensor, "N"]:
    """Which of the points lie within the k-NN balls of the centres: what the shares are means of.

    For shares by prompt. Needs M > k.
    """
    return _covered(_finite("points", points), _finite("centres", centres), k, "centres")


def _finite(name: str, features: Float[Tensor, "N D"]) -> Float64[Tensor, "N D"]:
    x = features.detach().double()
    if not len(x) or not x.isfinite().all():
        raise ValueError(f"{name} must hold at least one image and finite features only")
    return x


def _covered(
    points: Float64[Tensor, "N D"], centres: Float64[Tensor, "M D"], k: int, name: str
) -> Bool[Tensor, "N"]:
    M, D = centres.shape
    if not 1 <= k < M:
        raise ValueError(f"k-NN balls of {name} need 1 <= k < images, got k={k}, images={M}")
    # A row takes its distances to all centres and, for its radius, its k + 1 nearest centres.
    rows = max(1, BLOCK_BYTES // (8 * max(M, (k + 1) * D)))
    radius = torch.cat([_radius(some, centres, k) for some in centres.split(rows)])
    return torch.cat([_inside(some, centres, radius) for some in points.split(rows)])


def _radius(
    x: Float64[Tensor, "N D"], centres: Float64[Tensor, "M D"], k: int
) -> Float64[Tensor, "N"]:
    """Distance of each of the centres `x` to its k-th nearest other one."""
    squared, slack = _screen(x, centres)
    # The centre is its own nearest, so the k-th other one is the (k+1)-th smallest distance.
    smallest, nearest = squared.topk(k + 1, dim=1, largest=False)
    radius = _distance(x[:, None], centres[nearest]).amax((1, 2))
    candidates = squared <= smallest[:, -1:] + 2 * slack
    tied = candidates.sum(1) > k + 1  # rounding may have chosen the wrong k + 1
    if tied.any():
        among = centres[candidates[tied].any(0)]
        radius[tied] = _distance(x[tied], among).topk(k + 1, dim=1, largest=False).values.amax(1)
    return radius


def _inside(
    x: Float64[Tensor, "N D"], centres: Float64[Tensor, "M D"], radius: Float64[Tensor, "M"]
) -> Bool[Tensor, "N"]:
    """Whether each of `x` lies in any of the balls."""
    squared, slack = _screen(x, centres)
    outside = squared.sub_(radius.square())  # below 0 inside
    inside = (outside < -slack).any(1)
    unsure = (outside <= slack) & ~inside[:, None]
    rows, columns = unsure.any(1), unsure.any(0)
    inside[rows] = (_distance(x[rows], centres[columns]) <= radius[columns]).any(1)
    return inside


def _screen(
    x: Float64[Tensor, "N D"], y: Float64[Tensor, "M D"]
) -> tuple[Float64[Tensor, "N M"], Float64[Tensor, ""]]:
    """|x|^2 + |y|^2 - 2xy, and how far it may lie from the square of `_distance`.

    With L the largest |.|^2, D-term sums of either kind, in any order, are off by at most
    2(D + 5)·eps·L each (Higham, Section 3.1); another 6·eps·L is the rounding of a squared radius.
    The bound is twice all of that.
    """
    xx, yy = x.square().sum(1), y.square().sum(1)
    slack = 8 * (x.shape[1] + 8) * torch.finfo(x.dtype).eps * torch.maximum(xx.max(), yy.max())
    return torch.addmm(yy, x, y.T, alpha=-2).add_(xx[:, None]), slack


def _distance(
    x: Float64[Tensor, "*batch N D"], y: Float64[Tensor, "*batch M D"]
) -> Float64[Tensor, "*batch N M"]:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")

"""Coverage of the base model's images by the fine-tuned model's (DRIFT, Section 6, App. D).

Kynkäänniemi et al., Eq. 1-2: a set of images stands for the union of balls around each of them
that reach to its k-th nearest neighbour, itself not counted. Features are compared as given, by
Euclidean distance and without normalisation, as there; a caller who wants angles normalises.
Distances are never expanded into dot products, so that a point is at distance exactly 0 from
itself and a set recalls itself wholly, duplicates included.
"""

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = 1024  # rows of the distance matrix held at a time


def generalized_recall(
    reference: Float[Tensor, "N D"], generated: Float[Tensor, "M D"], k: int = 10
) -> float:
    """Share of reference images within the k-NN balls of the generated (DRIFT, App. D).

    The base model against itself is 1. Needs M > k.
    """
    return _covered(reference, generated, k)


def precision(
    reference: Float[Tensor, "N D"], generated: Float[Tensor, "M D"], k: int = 10
) -> float:
    """Share of generated images within the k-NN balls of the reference (Kynkäänniemi, Eq. 2).

    Falls where fine-tuning leaves what the base model draws. Needs N > k.
    """
    return _covered(generated, reference, k)


def _covered(points: Float[Tensor, "N D"], centres: Float[Tensor, "M D"], k: int) -> float:
    if not 1 <= k < len(centres):
        raise ValueError(f"k-NN balls need 1 <= k < images, got k={k}, images={len(centres)}")
    if not (points.isfinite().all() and centres.isfinite().all()):
        raise ValueError("coverage needs finite features")
    # The centre is its own nearest, so the k-th other one is the (k+1)-th smallest distance.
    radii = [_distance(rows, centres).kthvalue(k + 1, dim=1).values for rows in centres.split(ROWS)]
    radius = torch.cat(radii)
    inside = [(_distance(rows, centres) <= radius).any(1) for rows in points.split(ROWS)]
    return torch.cat(inside).double().mean().item()


def _distance(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")

"""How diverse a set of images is, judged by features (DRIFT, Section 6 and Appendix D).

Features are L2-normalised inside, in float64 whatever comes in. Ours: the Vendi score's kernel is
the cosine of the features it is given; the paper does not name its own.
"""

from jaxtyping import Float, Float64
from torch import Tensor, linalg, special


def mean_pairwise_distance(features: Float[Tensor, "P N D"]) -> Float64[Tensor, "P"]:
    """Mean over a prompt's pairs of images of ||E(x^i) - E(x^j)||^2 (DRIFT, Eq. 31).

    Twice the total variance, which needs no N x N matrix. Unlike 2 - 2·cos, differences from the
    mean keep small distances, and identical images get exactly 0 (`var` is Welford's).
    What training rewards, `shaping.intra_group_diversity`, is this by image, in its own precision.
    """
    if features.shape[1] < 2:
        raise ValueError(f"features must hold at least 2 images, got {features.shape[1]}")
    return 2 * _unit(features).var(1).sum(1)


def vendi_score(features: Float[Tensor, "N D"]) -> float:
    """exp of the Shannon entropy of the eigenvalues of K/N (Friedman & Dieng, Eq. 2).

    The effective number of distinct images, between 1 and N. X·X^T and X^T·X share their non-zero
    eigenvalues: the smaller one is decomposed, so 50,000 images cost a D x D matrix.
    """
    if not len(features):
        raise ValueError("features must hold at least 1 image, got 0")
    X = _unit(features)
    N, D = X.shape
    K = X.T @ X if N > D else X @ X.T
    eigenvalues = linalg.eigvalsh(K / N).clamp(min=0)
    return special.entr(eigenvalues).sum().exp().clamp(1, N).item()  # rounding may lead outside


def _unit(features: Float[Tensor, "*images D"]) -> Float64[Tensor, "*images D"]:
    """Features of length 1; torch's own `normalize` leaves those below 1e-12 shorter."""
    X = features.double()
    if not (X.isfinite().all() and X.any(-1).all()):
        raise ValueError("features must be finite, and no image's all 0")
    return X / linalg.vector_norm(X, dim=-1, keepdim=True)

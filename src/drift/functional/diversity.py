"""How diverse a set of images is, judged by features (DRIFT, Section 6 and Appendix D).

Features are L2-normalised inside. Ours: the Vendi score's kernel is the cosine of the features
it is given; the paper does not name its own.
"""

from jaxtyping import Float
from torch import Tensor, linalg, special
from torch.nn.functional import normalize

from drift.functional.shaping import intra_group_diversity


def mean_pairwise_distance(features: Float[Tensor, "P N D"]) -> Float[Tensor, "P"]:
    """Mean over a prompt's pairs of images of ||E(x^i) - E(x^j)||^2 (DRIFT, Eq. 31).

    Every pair counts in two of the terms of Eq. 11, so this is their mean.
    """
    return intra_group_diversity(features).mean(1)


def vendi_score(features: Float[Tensor, "N D"]) -> float:
    """exp of the Shannon entropy of the eigenvalues of K/N (Friedman & Dieng, Eq. 2).

    The effective number of distinct images, between 1 and N. X·X^T and X^T·X share their non-zero
    eigenvalues: the smaller one is decomposed.
    """
    if not (features.isfinite().all() and features.any(1).all()):
        raise ValueError("vendi_score needs finite, non-zero features")
    X = normalize(features.double(), dim=1)
    N, D = X.shape
    K = X.T @ X if N > D else X @ X.T
    eigenvalues = linalg.eigvalsh(K / N).clamp(min=0)
    return special.entr(eigenvalues).sum().exp().item()

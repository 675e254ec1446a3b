"""A plain vision transformer with DINO's (and timm's) parameter names: published weights fit.

CLIP's towers differ by a LayerNorm before the first block (`norm_pre`, as in timm; DreamSim's files
call it `pos_drop`), by a projection at the end (`proj`), by eps 1e-5 and, in OpenAI's weights, by
`quick_gelu`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class Attention(nn.Module):
    """Multi-head self-attention over L tokens."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "N L D"]) -> Float[Tensor, "N L D"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers, four times as wide between them."""

    def __init__(self, width: int, activation: str):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Float[Tensor, "N L D"]) -> Float[Tensor, "N L D"]:
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a residual path."""

    def __init__(self, width: int, heads: int, eps: float, activation: str):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn, self.mlp = Attention(width, heads), Mlp(width, activation)

    def forward(self, x: Float[Tensor, "N L D"]) -> Float[Tensor, "N L D"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """One token for each square of pixels, in reading order."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N L D"]:
        return self.proj(images).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Normalised images of one size -> the class token of each, normed and, in CLIP, projected.

    Without `final_norm` it is the last block's own, as DreamSim takes it from DINO; the norm's
    weights stay, unused, since files hold them. A `projection` of 0 is none.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        eps: float = 1e-6,
        activation: str = "gelu",
        pre_norm: bool = False,
        final_norm: bool = True,
        projection: int = 0,
    ):
        super().__init__()
        tokens = 1 + (image_size // patch_size) ** 2
        self.patch_embed = PatchEmbed(patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.norm_pre = nn.LayerNorm(width, eps) if pre_norm else nn.Identity()
        self.blocks = nn.Sequential(*(Block(width, heads, eps, activation) for _ in range(depth)))
        self.norm, self.final_norm = nn.LayerNorm(width, eps), final_norm
        self.proj = nn.Parameter(torch.zeros(width, projection)) if projection else None

    def tokens(self, images: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N L D"]:
        """All tokens after the last block, before the final norm; the class token is first."""
        patches = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed
        return self.blocks(self.norm_pre(x))

    def forward(self, images: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N D"]:
        token = self.tokens(images)[:, 0]
        token = self.norm(token) if self.final_norm else token
        return token if self.proj is None else token @ self.proj

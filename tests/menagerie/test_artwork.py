import numpy as np

from drift.menagerie.animals import STYLES, VARIANTS
from drift.menagerie.artwork import load_sprites


def test_drawings_kept_from_elsewhere_need_neither_npm_nor_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    rng, codes = np.random.default_rng(0), [c for v in VARIANTS.values() for c in v.values()]
    drawn = {
        f"{style} {code}": np.full((5 + k % 3, 9, 4), 255, np.uint8)
        * rng.integers(2, size=(5 + k % 3, 9, 1), dtype=np.uint8)
        for style in STYLES
        for k, code in enumerate(codes)
    }
    for pixels in drawn.values():
        pixels[2] = 255  # a line that is its own mirror image
    np.savez(tmp_path / "sprites.npz", **drawn)
    sprites = load_sprites(tmp_path)
    assert len(sprites) == len(codes) * len(STYLES)
    for sprite in sprites:
        code = list(list(VARIANTS.values())[sprite.animal].values())[sprite.variant]
        pixels = drawn[f"{STYLES[sprite.style]} {code}"]
        assert (np.asarray(sprite.image) == pixels).all()
        mirrored = (pixels == pixels[:, ::-1]).all()
        assert sprite.symmetric or not mirrored

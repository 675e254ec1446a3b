"""The embedded text-to-image world of 45 animals, whose true modes and preferences are known.

In: attributes (animal, style, scene, facing). Out: painted pictures and captions, the gold utility
of a picture, and a reader of the attributes in any picture (`probe`). Start reading at `pictures`
and `taste`; `pretrain` trains the shipped weights.
"""

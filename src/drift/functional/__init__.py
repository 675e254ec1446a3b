"""The mathematics of DRIFT: tensors in, tensors out, one module per idea of the paper.

Nothing here knows a model, a configuration or a device, and nothing keeps state. Every function
opens with the equation it implements (arXiv 2601.12401 unless another paper is named). The axis
letters in the signatures are those of the legend in `drift.types`.

The measures serve alone, on any features, and load nothing but torch and jaxtyping. A model that
draws 20 of its base model's 200 images again and again:

>>> import torch
>>> from drift.functional import coverage, diversity
>>> base = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
>>> tuned = base[:20].repeat(10, 1)
>>> coverage.generalized_recall(base, tuned, k=5), coverage.precision(base, tuned, k=5)
(0.1, 1.0)
>>> round(diversity.vendi_score(base), 1), round(diversity.vendi_score(tuned), 1)
(54.4, 17.3)
"""

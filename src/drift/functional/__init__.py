"""The mathematics of DRIFT: tensors in, tensors out, one module per idea of the paper.

Nothing here knows a model, a configuration or a device, and nothing keeps state. Every function
opens with the equation it implements (arXiv 2601.12401 unless another paper is named). The axis
letters in the signatures are those of the legend in `drift.types`.
"""

"""What a model draws from fixed prompts and seeds, and what encoders and rewards say of it.

In: a run folder or a plain model. Out: evaluations/step-NNNNNN/, or NAME/step-NNNNNN/ there, with
metrics.json, features and a sheet of the pictures. Start reading at `evaluate.evaluate`; `generate`
and `export` make pictures and LoRA files for other programs, `measure` reads pictures of others.
"""

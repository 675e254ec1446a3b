"""The way from prompts to a checkpoint: one training run and its folder on disk.

In: a `TrainConfig`. Out: a run folder (config.yaml, metrics.jsonl, checkpoints/, live.jsonl). Every
stage hands tensors "P C" or "P G" to the next: rollout, scoring, the method's parts, update. Start
reading at `epoch.train_epoch`; `runs` reads a folder back.
"""

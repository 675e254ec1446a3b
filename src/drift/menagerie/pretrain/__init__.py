"""Trains what the embedded world ships: autoencoder, denoiser, probe, encoders and rewards.

In: pictures that `drift.menagerie` paints. Out: files in `menagerie/weights`. Start reading at
`run`.
"""

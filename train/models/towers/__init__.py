"""Towers of the frame encoders: clips [B, T, 3, H, W] of normalised frames -> embeddings [B, T / stride, E].

One module each. Their tensors are named as in the public checkpoints they come from, or ``rename`` converts the names.
``outputs`` gives all that the public implementation of each computes, by name.
"""

"""Towers of the frame encoders: clips [B, T, 3, H, W] of normalised pictures -> embeddings [B, T / stride, E].

One module each. Their tensors are named as in the public checkpoints they come from, or ``own_name`` says how. They know
no tokens, no videos and no sampling; ``outputs`` gives all that the public implementation of each computes, by name.
"""

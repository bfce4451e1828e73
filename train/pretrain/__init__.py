"""Teaches a frame encoder's tower what sound belongs to what it sees, before any diffusion: ``python -m train.pretrain``."""

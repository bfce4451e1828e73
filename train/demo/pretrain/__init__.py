"""Pretraining of a frame encoder's tower, before any diffusion: the command ``python -m train.demo.pretrain``."""

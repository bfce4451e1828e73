"""What a user can get wrong when exporting, beyond the errors of ``vta_rt``."""

from train.weights import CheckpointError as CheckpointError

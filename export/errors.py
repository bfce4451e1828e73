"""What a user can get wrong when exporting, beyond the errors of ``vta_rt``."""

from train.models.weights import CheckpointError as CheckpointError

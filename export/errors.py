"""What a user can get wrong when exporting, beyond the errors of ``vta_rt``."""

from vta_rt.errors import VTAError


class CheckpointError(VTAError):
    """A checkpoint or first stage that cannot be found or read, is of another kind, or does not fit its own shapes."""

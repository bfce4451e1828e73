"""Training of the first stage: the autoencoder of log-mels and the vocoder. The command is ``python -m train.first_stage``."""

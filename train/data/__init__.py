"""Training data: lists of clips, their pictures and sound as they lie or prepared, and the loader that deals them out."""

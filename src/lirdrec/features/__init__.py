"""From texts and pictures to feature matrices: encoders, captions, and the run that survives being killed."""

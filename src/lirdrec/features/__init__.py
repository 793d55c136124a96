"""From texts and images to feature matrices: encoders, captions, and the run that survives being killed."""

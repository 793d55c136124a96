"""Opening pictures safely, and encoders of them."""

"""One module for each library. `RUNNER` is its class, `PACKAGES` are the packages whose versions are noted."""

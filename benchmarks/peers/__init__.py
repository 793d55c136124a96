"""The parts of benchmarks/peers.py; a process that measures imports `child`, `data`, `runner` and one of `runners`."""

"""Other libraries and lirdrec on the same data, by the same clock, in one run (docs/performance.md).

    python benchmarks/peers.py environments peers          # a virtual environment for each library
    python benchmarks/peers.py run peers --datasets baby tiktok
    python benchmarks/peers.py report peers

`peers` is a folder for environments, data and results; it may be anywhere. `run` trains each model of each library and
the same model of lirdrec in turn, each in a process of its own, and appends a line of JSON to `results.jsonl`; what is
there is not run again, so it can be stopped at any time. `report` prints the ratios, and what is missing and why.
"""

from peers.command import main

if __name__ == "__main__":
    main()

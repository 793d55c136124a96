"""The experiments: each module plans the trials of one experiment and writes its report; some hold shared functions."""

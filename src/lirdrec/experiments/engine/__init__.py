"""What every experiment runs on: cells in processes of their own, the sealed test, tuning."""

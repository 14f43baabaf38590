"""Calibration: which images choose the integer ranges. Knows no target."""

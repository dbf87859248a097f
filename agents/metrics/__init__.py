"""Figures beyond means: curves over usage, calibration, paired differences, and their intervals."""

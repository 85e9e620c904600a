"""The floors, measured: python -m theory bench, toys bench, scaleup bench, in a checkout."""

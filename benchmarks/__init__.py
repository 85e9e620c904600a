"""The floors, measured in a checkout: `python -m benchmarks` lists the benches and runs one."""

#!/usr/bin/env bash
# diffusers' DEISMultistepScheduler and SASolverScheduler with use_flow_sigmas=True, given the exact velocity of a Gaussian.
#
# Expected of a scan over all flow schedulers: like UniPC and DPM-Solver with the same switch, they end at the data: mean 0.7 from ten steps on.
# Seen (diffusers 0.42.1, torch 2.13.0): they stop at the noise level of the last step but the end, sigma = 1/steps, and hand that
# state out as the sample: its mean is 0.7 (1 - 1/steps), and 1/steps of noise stays on it.
#
#     steps       4      10     50     200
#     UniPC     0.700  0.700  0.700  0.700
#     DEIS      0.525  0.630  0.686  0.696      (exactly 0.7 (1 - 1/steps))
#     SASolver  0.524  0.630  0.687  0.699
#
# A picture of 10 steps is a tenth noise and a tenth too dark, without a warning; final_sigmas_type, which would choose the end, these two do not have.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -qq --disable-pip-version-check torch==2.13.0
"$folder/env/bin/pip" install -qq --disable-pip-version-check diffusers==0.42.1 "numpy<3" scipy
OMP_NUM_THREADS=1 "$folder/env/bin/python" - <<'PY'
import inspect

import torch
from diffusers import DEISMultistepScheduler, SASolverScheduler, UniPCMultistepScheduler

MEAN, STD, ROWS = 0.7, 0.5, 100_000


def velocity(x, s):
    """E[noise - data | x] of (1 - s) N(MEAN, STD^2) + s N(0, 1)."""
    a = 1 - s
    rest = (x - a * MEAN) / (a * a * STD * STD + s * s)
    return s * rest - (MEAN + a * STD * STD * rest)


def mean(kind, steps):
    scheduler = kind(use_flow_sigmas=True, prediction_type="flow_prediction")
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 1, 1, 1, generator=generator, dtype=torch.float64)
    more = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, float(t) / 1000), t, x, **more).prev_sample.double()
    return float(x.mean())


COUNTS = (4, 10, 50, 200)
for kind in (UniPCMultistepScheduler, DEISMultistepScheduler, SASolverScheduler):
    found = [mean(kind, n) for n in COUNTS]
    print(f"{kind.__name__:28s}", [round(v, 3) for v in found])
    short = kind is not UniPCMultistepScheduler
    for n, value in zip(COUNTS[:3], found):
        expected = MEAN * (1 - 1 / n) if short else MEAN
        assert abs(value - expected) < 0.01, f"{kind.__name__} changed at {n} steps"
PY
echo "as described"

#!/usr/bin/env bash
# peft's disable_adapter() on adapters that begin from the weights' own factors (init_lora_weights="pissa" or "olora").
#
# Taken for granted by trainers (we doubted it): an adapter that has learned nothing yet changes nothing, on or off; the model with the adapter disabled is
# the pretrained model, as trainers with a KL to the base take it to be (one copy in memory, the reference is the adapter switched off).
# Seen (peft 0.21.2, torch 2.13.0): with the adapter on, the outputs are the base's; switched off they are 0.83 (pissa) and
# 1.22 (olora) of their own size away. These kinds take the factors out of the weight, and what stays there is the rest. The KL
# to "the base" is then one to a model that nobody trained, and is large before the first step. The default start, "gaussian" and
# "orthogonal" give the base exactly.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -qq --disable-pip-version-check torch==2.13.0
"$folder/env/bin/pip" install -qq --disable-pip-version-check peft==0.21.2 "numpy<3"
OMP_NUM_THREADS=1 "$folder/env/bin/python" - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn


def away(start):
    """Relative distance to the base's outputs, with the adapter on and off, before any training."""
    torch.manual_seed(1)
    base, x = nn.Sequential(nn.Linear(16, 16, bias=False)), torch.randn(8, 16)
    with torch.no_grad():
        y = base(x)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=start)
        model = get_peft_model(base, config)
        on = model(x)
        with model.disable_adapter():
            off = model(x)
    return [float((z - y).norm() / y.norm()) for z in (on, off)]


for start in (True, "gaussian", "orthogonal", "pissa", "olora"):
    on, off = away(start)
    print(f"{start!s:12s} on {on:.1e}  off {off:.3f}")
    assert on < 1e-5
    if start in ("pissa", "olora"):
        assert off > 0.3, f"{start}: the disabled adapter is the base now"
    else:
        assert off < 1e-5, f"{start}: the disabled adapter is not the base any more"
PY
echo "as described"

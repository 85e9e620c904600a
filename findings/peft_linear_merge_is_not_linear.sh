#!/usr/bin/env bash
# peft's add_weighted_adapter(..., combination_type="linear"), on two LoRA adapters of one layer.
#
# Taken for granted by its name (we suspected crossed terms, not their size): with weights 0.5 and 0.5 the new adapter changes the layer by the mean of the two changes.
# Seen (peft 0.21.2, torch 2.13.0): it averages A and B, not B A. The change is (B1 + B2)(A1 + A2)/2, half of each own
# product and half of the two crossed ones, B1 A2 + B2 A1, which nobody trained. On random adapters of rank 4 it is 105 % of the
# mean's size away from the mean; "cat" gives the mean to rounding. With one adapter, or one and its own copy, both agree, so a
# first test shows nothing.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -qq --disable-pip-version-check torch==2.13.0
"$folder/env/bin/pip" install -qq --disable-pip-version-check peft==0.21.2 "numpy<3"
OMP_NUM_THREADS=1 "$folder/env/bin/python" - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"])
model = get_peft_model(nn.Sequential(nn.Linear(16, 16, bias=False)), config, adapter_name="one")
model.add_adapter("two", config)
layer = model.base_model.model[0]
for name in ("one", "two"):
    nn.init.normal_(layer.lora_A[name].weight)
    nn.init.normal_(layer.lora_B[name].weight)
change = layer.get_delta_weight
mean = 0.5 * change("one") + 0.5 * change("two")
far = {}
for kind in ("linear", "cat"):
    model.add_weighted_adapter(["one", "two"], [0.5, 0.5], kind, combination_type=kind)
    far[kind] = float(((change(kind) - mean).norm() / mean.norm()).detach())
A1, A2, B1, B2 = (getattr(layer, f"lora_{m}")[n].weight for m in "AB" for n in ("one", "two"))
crossed = 0.5 * layer.scaling["one"] * (B1 + B2) @ (A1 + A2)
print("distance to the mean of the two changes:", {k: round(v, 3) for k, v in far.items()})
assert far["cat"] < 1e-5
assert far["linear"] > 0.5, "linear merges changed"
assert float((change("linear") - crossed).norm() / mean.norm()) < 1e-5, "linear merges changed"
PY
echo "as described"

"""One torch thread a process, and the verification's dtype nowhere by default."""

import matplotlib as mpl
import torch

mpl.use("Agg")
torch.set_num_threads(1)

"""Every test process has one intra-op thread, as every trial has: processes on shared cores would wait otherwise."""

import torch

torch.set_num_threads(1)

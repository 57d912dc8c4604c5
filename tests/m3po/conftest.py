"""Small networks: more threads than one slow them down many times over."""

import torch

torch.set_num_threads(1)

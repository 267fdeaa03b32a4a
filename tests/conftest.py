"""One thread for torch in all tests: cores are few, and a forked child that misses its threads waits for ever."""

import torch

torch.set_num_threads(1)

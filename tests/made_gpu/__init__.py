"""GPUs that compute nothing, for the GPU tests on a machine without one: `python -m made_gpu`."""

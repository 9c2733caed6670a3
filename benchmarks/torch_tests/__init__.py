"""Whether recording changes the outcome of PyTorch's own distributed tests: `python -m benchmarks.torch_tests`."""

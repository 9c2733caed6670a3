"""What tests of the allocator share."""

import gc

import pytest
import torch


@pytest.fixture
def quiet_allocator():
    """No garbage of an earlier test is freed in the middle of a count."""
    torch.cuda.init()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    gc.disable()
    yield
    gc.enable()

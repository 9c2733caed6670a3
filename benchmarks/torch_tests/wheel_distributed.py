"""The tests of torch.distributed that ship in torch's wheel, as a module to collect them from.

They read BACKEND, WORLD_SIZE and TEMP_DIR when they are imported; `programs.py` sets these. The tests are torch's: this
only puts together the two halves that the wheel has.
"""

import torch.distributed as dist
from torch.testing._internal.distributed.distributed_test import DistributedTest, TestDistBackend

if dist.is_available():

    class WheelDistributed(TestDistBackend, DistributedTest._DistTestBase):
        """Each of its tests runs in WORLD_SIZE processes."""

        def setUp(self):
            super().setUp()
            self._spawn_processes()

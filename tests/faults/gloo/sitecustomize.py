"""Two GPUs that are none, for tests: put this folder on PYTHONPATH and train with device=0,1.

Torch then tells of two CUDA devices, and each rank trains on the CPU, the two of them by Ultralytics' own DDP over
gloo instead of NCCL. What is replaced is where the tensors lie; the ranks, their loop, sampler, gradients' reduction,
validation and checkpoints are the real ones.

RDDKIT_OOM="MESSAGE" raises it in rank 1's forward pass, once in each epoch that has a file oom-EPOCH in RDDKIT_OOM_DIR;
the file is removed.
"""

import os
import sys

COUNT, GIB = 2, 1 << 30
RANK = int(os.environ.get("RANK", -1))


def tell_of_gpus():
    import torch

    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: COUNT
    torch.cuda.mem_get_info = lambda device=None: (8 * GIB, 8 * GIB)
    torch.cuda.get_device_name = lambda device=None: "a GPU that is none"


def train_on_the_cpu():
    import torch
    import torch.distributed as dist
    import ultralytics.engine.trainer as trainer
    import ultralytics.engine.validator as validator
    from torch.nn.parallel import DistributedDataParallel

    cpu = torch.device("cpu")
    torch.cuda.mem_get_info = lambda device=None: (8 * GIB, 8 * GIB)
    torch.cuda.set_per_process_memory_fraction = lambda share, device=None: None
    torch.cuda.memory_reserved = lambda device=None: (RANK + 1) * GIB  # the second is fuller
    torch.cuda.memory_allocated = torch.cuda.memory_reserved
    torch.cuda.current_device = lambda: RANK
    torch.cuda.set_device = lambda device: None
    trainer.select_device = lambda *words, **more: cpu
    begin, backend = trainer.BaseTrainer.__init__, validator.AutoBackend

    def begin_as_one_of_two(self, *words, **more):
        begin(self, *words, **more)
        self.world_size = COUNT  # the CPU counts as none there

    def meet(self):
        dist.init_process_group("gloo", rank=RANK, world_size=COUNT)

    class OnTheCpu(DistributedDataParallel):
        def __init__(self, module, device_ids, **more):
            super().__init__(module, **more)

        def forward(self, *words, **more):
            run_out(self.training)
            return super().forward(*words, **more)

    trainer.BaseTrainer.__init__ = begin_as_one_of_two
    trainer.BaseTrainer._setup_ddp = meet
    torch.nn.parallel.DistributedDataParallel = OnTheCpu
    validator.AutoBackend = lambda *words, **more: backend(*words, **{**more, "device": cpu})
    on_epoch = trainer.BaseTrainer._model_train

    def noted(self):
        now["epoch"] = self.epoch + 1
        on_epoch(self)

    trainer.BaseTrainer._model_train = noted


now = {"epoch": 0}


def run_out(training):
    message = os.environ.get("RDDKIT_OOM")
    planned = f"{os.environ.get('RDDKIT_OOM_DIR')}/oom-{now['epoch']}"
    if training and RANK == 1 and message and os.path.exists(planned):
        os.remove(planned)
        raise RuntimeError(message)


if "rddkit.device" in sys.orig_argv:
    tell_of_gpus()
elif "rddkit.worker" in sys.orig_argv and RANK >= 0:
    from rddkit import faults

    begin = faults.begin

    def begin_on_the_cpu(attempt):
        train_on_the_cpu()
        begin(attempt)

    faults.begin = begin_on_the_cpu

"""What a CPU run of MDLM or ReMDM needs before its main.py starts. Read by Python itself when on PYTHONPATH."""

import contextlib
import os

# The host's checkpoints pickle their settings and tokenizer; they are loaded by the host's own code.
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

import torch

if not torch.cuda.is_available():
    torch.cuda.device_count = lambda: 1  # asserted by the data loaders, read by the resolver ${device_count:}
    library = torch.library.Library("torchvision", "FRAGMENT")  # absent where torchvision is a CUDA build
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        with contextlib.suppress(RuntimeError):  # declared by a CPU build of torchvision
            library.define(schema)

"""The precision of training: float32, or less where the config says so.

    float32  every product in float32
    tf32     float32 products may be rounded to TF32 where the device can (tensor cores)
    bf16     the model's forward pass in bfloat16 where autocast deems it safe; parameters, the loss
             and the optimizer stay float32

Evaluation, unlearning and what is saved are float32 throughout.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Logits = Callable[[Tensor, Tensor], Tensor]
"""Users and items (n,) -> logits (n,)."""


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Within it, float32 products have this precision; afterwards they are as before."""
    if precision != "tf32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def at_precision(model: Logits, precision: str, device: torch.device) -> Logits:
    """`model` itself, or its forward pass under autocast with logits in float32."""
    if precision != "bf16":
        return model

    def logits(users: Tensor, items: Tensor) -> Tensor:
        # each weight is cast once a pass anyway, and a recorded step can't use a cache
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            return model(users, items).float()

    return logits

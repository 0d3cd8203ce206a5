"""A stand-in for CUDA graphs on the CPU: operations recorded once, repeated on the same memory."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {"_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "equal"}
"""Operations that make the CPU wait for a device."""


class NothingRead(TorchDispatchMode):
    """Within it, what would make the CPU wait for a device is an error."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in READS:
            raise RuntimeError(f"{func} while recording")
        return func(*args, **kwargs or {})


class Tape(NothingRead):
    """Like a CUDA graph it knows operations and memory only: numbers of Python's are frozen in."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.before = {}  # what was overwritten while recording, as it was

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        values = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
        for argument in func._schema.arguments:
            if argument.alias_info and argument.alias_info.is_write:
                for tensor in tree_leaves(values.get(argument.name)):
                    if isinstance(tensor, torch.Tensor):
                        self.before.setdefault(id(tensor), (tensor, tensor.clone()))
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.calls.append((func, args, kwargs, out))
        return out

    @torch.no_grad()
    def undo(self):
        """Recording a CUDA graph runs nothing."""
        for tensor, before in reversed(self.before.values()):
            tensor.copy_(before)

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out in self.calls:
            aliases = [r.alias_info for r in func._schema.returns]
            if any(alias and not alias.is_write for alias in aliases):
                continue  # a view of memory that is the same again
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor):
                        old.copy_(new)


class TapeRecorder:
    """A `Recorder` of tapes that counts what it does."""

    def __init__(self):
        self.warmed, self.tapes, self.replayed = 0, [], 0

    def warm_up(self, work):
        self.warmed += 1
        work()

    def record(self, work):
        tape = Tape()
        with tape:
            work()
        tape.undo()
        self.tapes.append(tape)

        def replay():
            self.replayed += 1
            tape.replay()

        return replay

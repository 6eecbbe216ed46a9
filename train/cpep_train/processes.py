"""Training in several processes started by torchrun: the rank of this one, and embeddings gathered from all.

Each process trains on its share of every batch. Every process computes the contrastive loss over the whole batch, so
the negatives are the same as in training with one process. Lightning averages the gradients.
"""

import os

import torch
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx


def rank() -> int:
    """The rank of this process, from zero, out of torchrun's variable, because it is needed before any set-up."""
    return int(os.environ.get("RANK", "0"))


def n_processes() -> int:
    """The number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def n_local_processes() -> int:
    """The number of training processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def join() -> None:
    """Join the group of training processes, if there is one; Lightning then uses that group."""
    if n_processes() > 1 and not distributed.is_initialized():
        distributed.init_process_group(backend())


def backend() -> str:
    """The torch.distributed backend to use."""
    return "nccl" if torch.cuda.is_available() else "gloo"


def wait_for_all() -> None:
    """Wait until every process has reached this point, so that all see the files that the first has written."""
    if n_processes() > 1:
        distributed.barrier()


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, in their order: (B, ...) to (n_processes B, ...), with gradients."""
    if n_processes() == 1 or not distributed.is_initialized():
        return rows
    everything: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]  # torch types it not
    return everything


class _Gather(torch.autograd.Function):
    """Gather with gradients. Every process computes the same loss, so the gradients for one process' rows are summed.

    The sum is `n_processes` times the gradient, and the averaging over processes that follows divides by that again.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(n_processes())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        distributed.all_reduce(total)
        return total.chunk(n_processes())[rank()]

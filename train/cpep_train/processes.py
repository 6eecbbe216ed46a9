"""Training in several processes, as torchrun starts them: who this one is, and embeddings gathered from all.

Each process trains on its share of every batch. The contrastive loss is taken over the whole batch on every process, so
that the negatives are those of one process with all of it; Lightning averages the gradients.
"""

import os

import torch
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx


def rank() -> int:
    """The number of this process, from zero; torchrun's variable, because it is asked before anything is set up."""
    return int(os.environ.get("RANK", "0"))


def n_processes() -> int:
    """The number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def n_local_processes() -> int:
    """The number of them on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def join() -> None:
    """Join the group of training processes, where there is one; Lightning then uses that group."""
    if n_processes() > 1 and not distributed.is_initialized():
        distributed.init_process_group(backend())


def backend() -> str:
    """The backend of the communication between processes."""
    return "nccl" if torch.cuda.is_available() else "gloo"


def wait_for_all() -> None:
    """Go on when every process has come here, so that all see the files that the first has written."""
    if n_processes() > 1:
        distributed.barrier()


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, in their order: (B, ...) to (n_processes B, ...), with gradients."""
    if n_processes() == 1 or not distributed.is_initialized():
        return rows
    everything: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]  # torch types it not
    return everything


class _Gather(torch.autograd.Function):
    """Every process computes the same loss from what it gathers, so their gradients for one process' rows add up.

    The sum is `n_processes` times the gradient, which the average that follows over processes takes back.
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

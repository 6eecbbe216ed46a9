"""Run independent jobs through submitit, on a Slurm cluster or as processes of this machine."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from cpep_edge.errors import ConfigError, CpepError

Cluster = Literal["slurm", "local"]
Answer = TypeVar("Answer")


def run_all(
    jobs: Sequence[Callable[[], Answer]],
    cluster: Cluster,
    folder: Path,
    options: Mapping[str, str | int] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Answer]:
    """Submit all jobs, wait for them, and return their results in order.

    folder: for submitit's logs; on a cluster every machine must see it, and also the data and the runs
    options: of submitit: timeout_min, gpus_per_node, slurm_partition, ...
    Raises CpepError, naming the log, when a job failed, after waiting for the others, whose runs are kept.
    """
    import submitit

    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    try:
        executor.update_parameters(**{"name": "cpep-edge", **(options or {})})
    except (NameError, TypeError, AssertionError, ValueError) as error:
        raise ConfigError(f"--launch-set: submitit does not take it: {error}") from error
    submitted = [executor.submit(job) for job in jobs]
    say(f"{len(submitted)} jobs submitted; logs in {folder}")
    answers, failed = list[Answer](), list[Any]()
    for job in submitted:
        try:
            answers.append(job.result())
        except Exception:  # the log has the details; other jobs go on
            failed.append(job)
    if failed:
        raise CpepError(
            f"{len(failed)} of {len(submitted)} jobs failed, see {failed[0].paths.stderr}; the same command runs those "
            "again and keeps the others"
        )
    return answers

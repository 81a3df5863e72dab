"""Two processes that train a guided model together get the gradients of one process with the whole batch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import worker

import attention_guidance
from attention_guidance import guide
from benchmarks import forked

# Long beside the few seconds of a run, so that a hang fails instead of blocking.
TIMEOUT = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes have left the results of all cases."""
    folder = tmp_path_factory.mktemp("distributed")
    package = Path(attention_guidance.__file__).parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)}
    processes = []
    for rank in range(worker.RANKS):
        with (folder / f"rank-{rank}.txt").open("w") as log:
            command = [sys.executable, worker.__file__, str(folder), str(rank)]
            processes.append(forked.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    end = time.monotonic() + TIMEOUT
    # Where one of them fails, the other would wait for it.
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        if any(process.poll() for process in processes):
            break
        time.sleep(0.1)
    for process in processes:
        process.kill()
        process.wait()
    return folder


def result_of(folder, case):
    result = folder / f"{case}.pt"
    if not result.exists():
        pytest.fail("\n".join(log.read_text()[-3000:] for log in sorted(folder.glob("rank-*.txt"))))
    return torch.load(result, weights_only=True)


def in_one_process(batches, weight=1.0):
    """Loss and gradients of the mean over batches."""
    model = worker.build()
    guide(model, worker.HEADS, weight=weight)
    loss = sum(model(**batch).loss for batch in batches) / len(batches)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def distance(gradients, others):
    return max((gradients[name] - others[name]).abs().max().item() for name in gradients)


def check(result, expected):
    loss, gradients = expected
    assert result["loss"] == pytest.approx(loss, rel=1e-12)
    assert result["gradients"].keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(result["gradients"][name], gradient, rtol=1e-9, atol=1e-13, msg=name)


@pytest.mark.parametrize("case", [case for case in worker.CASES if "none-padding" in case])
def test_without_padding_gradients_are_those_of_the_whole_batch(folder, case):
    check(result_of(folder, case), in_one_process([worker.joined(worker.micro_batches("none"))]))


@pytest.mark.parametrize("case", [case for case in worker.CASES if "uneven-padding" in case])
def test_with_uneven_padding_guidance_is_the_mean_over_ranks(folder, case):
    """As the objective is: of each rank's mean and, where a rank accumulates, of each micro-batch's."""
    if case.endswith("accumulated"):
        batches = worker.micro_batches("uneven")
    else:
        batches = [worker.joined(worker.share_of(rank, "uneven")) for rank in range(worker.RANKS)]
    check(result_of(folder, case), in_one_process(batches))


@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_a_relative_weight_is_that_of_the_whole_batch_on_all_ranks(folder, wrap):
    def in_one_process(batch):
        guidance = guide(model := worker.build(), worker.HEADS, worker.RELATIVE)
        model(**batch).loss.backward()
        guidance.step()
        return guidance.weight

    weights = [result_of(folder, f"relative-{wrap}-{rank}") for rank in range(worker.RANKS)]
    assert len({*weights}) == 1
    assert weights[0] == pytest.approx(in_one_process(worker.joined(worker.micro_batches("none"))), rel=1e-6)
    of_a_rank = in_one_process(worker.joined(worker.share_of(0, "none")))
    assert of_a_rank != pytest.approx(weights[0], rel=1e-3), "the ranks differ"


def test_the_cases_differ_where_they_should():
    """Else equal gradients would prove nothing: guidance counts, and so does how uneven batches are averaged."""
    _, plain = in_one_process([worker.joined(worker.micro_batches("none"))])
    _, unguided = in_one_process([worker.joined(worker.micro_batches("none"))], weight=0.0)
    assert distance(plain, unguided) > 1e-2
    _, by_micro_batch = in_one_process(worker.micro_batches("uneven"))
    _, by_rank = in_one_process([worker.joined(worker.share_of(rank, "uneven")) for rank in range(worker.RANKS)])
    _, whole = in_one_process([worker.joined(worker.micro_batches("uneven"))])
    assert distance(by_rank, whole) > 1e-4
    assert distance(by_micro_batch, by_rank) > 1e-4

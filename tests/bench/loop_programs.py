"""One training loop as three programs: `python -m tests.bench.loop_programs FORM --help`.

plain: a Python program over the Tinker SDK, written as its users write them; without_torch is the
same where the SDK finds no torch to import. train_loop and split: a pipeline through kfp.local, with
the iterations in one step, or three steps an iteration. All play the same episodes with the same
random numbers, so that they do the same work.

KFP reads types at run time: no postponed annotations here.
"""

import argparse
import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED, LORA_RANK = 0, 8
TASK: dict[str, Any] = {"groups": 8, "group_size": 8, "max_tokens": 2, "seed": SEED}
LEARNING_RATE = 3e-4
"""As the demo pipeline has them."""


@dataclass(frozen=True)
class Told:
    """What a program tells of its loop; `rewards` are those of the batches."""

    rewards: list[float]
    loop_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("form", choices=sorted(FORMS))
    parser.add_argument("--model", required=True)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for everything it writes")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    told = FORMS[options.form](options.model, options.iterations, options.folder)
    (options.folder / "told.json").write_text(json.dumps(told.__dict__))


def read(folder: Path) -> Told:
    return Told(**json.loads((folder / "told.json").read_text()))


def without_torch(model: str, iterations: int, folder: Path) -> Told:
    """As `plain` is where torch is not installed; the steps' processes start so everywhere."""
    from tuft_components.processes import enter_step_process, import_clients

    enter_step_process()
    import_clients(tokenizers=True)
    return plain(model, iterations, folder)


def plain(model: str, iterations: int, folder: Path) -> Told:
    del folder
    import tinker

    import tuft_sdk

    with tuft_sdk.connect() as tuft:
        tokenizer = tuft.tokenizer(model)
    service = tinker.ServiceClient()
    training = service.create_lora_training_client(model, rank=LORA_RANK, seed=SEED).result()
    sampler = training.save_weights_and_get_sampling_client().result()
    begun, rewards = time.perf_counter(), []
    for iteration in range(iterations):
        rewards.append(_plain_iteration(training, sampler, tokenizer, iteration))
        sampler = training.save_weights_and_get_sampling_client().result()
    return Told(rewards, time.perf_counter() - begun)


def _plain_iteration(training: Any, sampler: Any, tokenizer: Any, iteration: int) -> float:
    """Sample, reward, and one optimizer step; the mean reward."""
    from tinker import types

    from tuft_components.envs.base import Task
    from tuft_components.envs.second_word import SecondWord
    from tuft_components.rewards.exact_match import first_word

    asked = []
    for index in range(iteration * TASK["groups"], (iteration + 1) * TASK["groups"]):
        task = SecondWord()
        first = asyncio.run(task.reset(Task("train", SEED, index)))
        prompt = tokenizer.encode(first.observation)
        params = types.SamplingParams(
            max_tokens=TASK["max_tokens"], temperature=1.0, seed=_seed(iteration, index)
        )
        future = sampler.sample(
            types.ModelInput.from_ints(prompt), TASK["group_size"], sampling_params=params
        )
        asked.append((first.info["reference"], prompt, future))
    data, rewards = [], []
    for answer, prompt, future in asked:
        sequences = future.result().sequences
        right = [
            float(first_word(tokenizer.decode(each.tokens, skip_special_tokens=True)) == answer)
            for each in sequences
        ]
        rewards += right
        mean = sum(right) / len(right)
        if 0 < mean < 1:
            data += [
                _datum(prompt, each, reward - mean)
                for each, reward in zip(sequences, right, strict=True)
            ]
    if data:
        adam = types.AdamParams(learning_rate=LEARNING_RATE)
        sent = training.forward_backward(data, "importance_sampling")
        training.optim_step(adam).result()
        sent.result()
    return sum(rewards) / len(rewards)


def _datum(prompt: list[int], sampled: Any, advantage: float) -> Any:
    from tinker import types

    tokens = [*prompt, *sampled.tokens]
    before, count = len(prompt) - 1, len(sampled.tokens)
    size = [len(tokens) - 1]
    logprobs = [0.0] * before + list(sampled.logprobs)
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": types.TensorData(tokens[1:], "int64", size),
            "logprobs": types.TensorData(logprobs, "float32", size),
            "advantages": types.TensorData([0.0] * before + [advantage] * count, "float32", size),
        },
    )


def _seed(iteration: int, index: int) -> int:
    """As the steps seed their requests (`tuft_components.episodes`)."""
    text = f"train/{SEED}/{iteration}/{index}/0/0"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def train_loop(model: str, iterations: int, folder: Path) -> Told:
    from tuft_components.start_run.component import start_run_lightweight
    from tuft_components.train_loop.component import train_loop_lightweight
    from tuft_components.train_loop.history import read_history

    def pipeline() -> None:
        start = start_run_lightweight(base_model=model, lora_rank=LORA_RANK, seed=SEED)
        train_loop_lightweight(
            run_id=start.outputs["run_id"],
            policy_before=start.outputs["policy"],
            iterations=iterations,
            learning_rate=LEARNING_RATE,
            work_uri=str(folder / "work"),
            **TASK,
        ).set_display_name("loop")

    result = _run(pipeline, folder)["loop"]
    rows = read_history(result.artifacts["history"].uri)
    return Told([row.mean_reward for row in rows], sum(row.seconds or 0.0 for row in rows))


def split(model: str, iterations: int, folder: Path) -> Told:
    from tuft_components.feedback.component import feedback_lightweight
    from tuft_components.rollout.component import rollout_lightweight
    from tuft_components.start_run.component import start_run_lightweight
    from tuft_components.update.component import update_lightweight

    def pipeline() -> None:
        work = {"work_uri": str(folder / "work")}
        start = start_run_lightweight(base_model=model, lora_rank=LORA_RANK, seed=SEED)
        policy = start.outputs["policy"]
        for number in range(iterations):
            played = rollout_lightweight(policy=policy, iteration=number, **TASK, **work)
            judged = feedback_lightweight(
                trajectories=played.outputs["trajectories"], iteration=number, **work
            ).set_display_name(f"feedback {number}")
            policy = update_lightweight(
                run_id=start.outputs["run_id"],
                batch=judged.outputs["batch"],
                iteration=number,
                learning_rate=LEARNING_RATE,
                **work,
            ).outputs["policy"]

    results = _run(pipeline, folder)
    seconds = [each.seconds for each in results.values()][1:]  # all but start_run
    rewards = [
        float(results[f"feedback {number}"].parameters["mean_reward"])
        for number in range(iterations)
    ]
    return Told(rewards, sum(seconds))


def _run(pipeline: Callable[[], None], folder: Path) -> dict[str, Any]:
    from kfp import dsl

    from tuft_pipelines.local_run import run_locally

    made = dsl.pipeline(name="loop")(pipeline)
    return run_locally(made, {}, folder=folder / "root", log_file=folder / "kfp.log")


FORMS: dict[str, Callable[[str, int, Path], Told]] = {
    "plain": plain,
    "without_torch": without_torch,
    "train_loop": train_loop,
    "split": split,
}

if __name__ == "__main__":
    main()

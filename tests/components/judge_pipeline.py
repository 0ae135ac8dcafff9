"""A pipeline of one step. KFP reads types at run time: no postponed annotations here."""

from kfp import dsl

from tuft_components.feedback.component import feedback_lightweight


@dsl.pipeline(name="judge")
def judge(uri: str, reward: str) -> float:
    """Judge the trajectories at `uri`."""
    imported = dsl.importer(artifact_uri=uri, artifact_class=dsl.Dataset)
    task = feedback_lightweight(trajectories=imported.output, reward=reward)
    result: float = task.outputs["mean_reward"]
    return result

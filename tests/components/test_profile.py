from __future__ import annotations

from pathlib import Path

import pytest

from tuft_components.errors import BadConfiguration
from tuft_components.kfp_faces import steps_image
from tuft_components.profile import Profile, SecretKey, Toleration


def profile(folder: Path, text: str) -> Profile:
    path = folder / "profile.yaml"
    path.write_text(text)
    return Profile.load(path)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    loaded = profile(tmp_path, "# nothing\n")
    assert loaded == Profile()
    assert loaded.image == steps_image()
    secrets = loaded.secret_env()
    assert secrets["TINKER_API_KEY"] == SecretKey(secret="tuft-client", key="TINKER_API_KEY")
    assert [name for name, key in secrets.items() if not key.optional] == [
        "TINKER_API_KEY",
        "TINKER_BASE_URL",
    ]


def test_a_step_has_its_own_settings_before_the_default_ones(tmp_path: Path) -> None:
    loaded = profile(
        tmp_path,
        """
steps:
  default: {retries: 7, memory: 1Gi, tolerations: [{key: spot, operator: Exists}]}
  rollout: {memory: 4Gi, node_selector: {pool: big}}
""",
    )
    rollout, update = loaded.step("rollout"), loaded.step("update")
    assert (rollout.retries, rollout.memory, rollout.node_selector) == (7, "4Gi", {"pool": "big"})
    assert (update.retries, update.memory, update.node_selector) == (7, "1Gi", {})
    assert update.tolerations == (Toleration(key="spot", operator="Exists"),)
    assert update.cpu == "250m"


def test_secrets_are_added_replaced_and_taken_away(tmp_path: Path) -> None:
    loaded = profile(
        tmp_path,
        """
env: {AWS_REGION: eu-west-1}
secrets:
  MLFLOW_TRACKING_TOKEN: {secret: mlflow, key: token}
  TINKER_API_KEY: {secret: mine, key: key}
  AWS_ACCESS_KEY_ID: null
""",
    )
    secrets = loaded.secret_env()
    assert secrets["MLFLOW_TRACKING_TOKEN"].secret == "mlflow"
    assert secrets["TINKER_API_KEY"].secret == "mine"
    assert secrets["TINKER_BASE_URL"].secret == "tuft-client"
    assert "AWS_ACCESS_KEY_ID" not in secrets
    assert "AWS_REGION" not in secrets  # `env` says it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imgae: x", "imgae: there is no such key"),
        ("steps: {rolout: {retries: 1}}", "steps: no step rolout; there are: default, evaluate"),
        ("steps: {rollout: {gpu: 1}}", "steps.rollout.gpu: there is no such key"),
        ("steps: {default: {memory: much}}", "steps.default.memory: String should match"),
        ("steps: {default: {retries: -1}}", "greater than or equal to 0"),
        ("secrets: {TOKEN: {secret: x}}", "secrets.TOKEN.key: Field required"),
        ("- image", "must be a YAML mapping"),
        ("image: [", "can't be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        profile(tmp_path, text)
    assert message in str(caught.value)
    assert str(tmp_path / "profile.yaml") in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"nowhere\.yaml can't be read"):
        Profile.load(tmp_path / "nowhere.yaml")

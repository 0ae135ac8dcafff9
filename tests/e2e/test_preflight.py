"""A preflight against a real service and a real object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.service import Service
from tests.helpers.s3_server import S3Server
from tuft_components.artifacts import list_uris
from tuft_components.errors import BadConfiguration
from tuft_components.preflight.step import STEP

KEY = "tml-local-dev-key"


@pytest.fixture
def environment(service: Service, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_server.make_bucket("preflight")
    values = {"TINKER_BASE_URL": service.url, "TINKER_API_KEY": KEY, **s3_server.environment()}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_all_is_well(environment: None, tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    outputs = STEP.execute(
        {"env": "second_word", "reward": "env", "policy": "tiny", "work_uri": "s3://preflight/a"},
        {},
        {"report": str(report)},
    )
    assert outputs.report.metadata == {"schema": "tuft.preflight/1", "checks": 8}
    text = report.read_text()
    assert "everything that a pipeline needs is there" in text
    assert text.count("✅ ok") == 8
    assert "tiny is served" in text
    # The probe is gone; what is left is the record of this step.
    assert list_uris("s3://preflight/a") == ["s3://preflight/a/records/000000-preflight-0000.json"]


@pytest.mark.parametrize(
    ("key", "params", "says"),
    [
        ("tml-wrong", {}, r"1\. key and version: .*401"),
        (KEY, {"base_model": "huge"}, r"1\. base model: 'huge' is not served; there are: tiny"),
        (
            KEY,
            {"reward": "judge", "reward_args": '{"model": "huge"}', "work_uri": "s3://preflight/c"},
            r"1\. what the reward needs: the judge 'huge' is not served; there are: tiny",
        ),
        (KEY, {"policy": "tinker://a:train:0/sampler_weights/x"}, r"1\. policy: .*a:train:0"),
    ],
)
def test_what_is_wrong_is_said(
    key: str,
    params: dict[str, str],
    says: str,
    environment: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", key)
    with pytest.raises(BadConfiguration, match=says) as caught:
        STEP.execute(params, {}, {"report": str(tmp_path / "report.md")})
    assert "tml-wrong" not in str(caught.value)
    assert "❌ wrong" in (tmp_path / "report.md").read_text()


def test_a_key_of_the_store_that_may_not_write_is_said(
    environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "guest-access")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guest-secret")
    with pytest.raises(BadConfiguration, match=r"work_uri: .*refused the keys \(AccessDenied\)"):
        STEP.execute({"work_uri": "s3://preflight/b"}, {}, {"report": str(tmp_path / "r.md")})

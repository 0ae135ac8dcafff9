"""The step contract: names and types are checked before any work is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import tuft_sdk
from tuft_components import component_files, readmes
from tuft_components.errors import (
    BadConfiguration,
    BadData,
    ExitCode,
    TransientFailure,
    exit_code_of,
)
from tuft_components.steps import (
    STEP_NAMES,
    Contract,
    JsonObject,
    Metrics,
    NoInputs,
    Step,
    load_step,
)


class _Params(Contract):
    number: int
    settings: JsonObject = {}


class _Outputs(Contract):
    text: str
    metrics: Metrics


def _work(params: _Params, inputs: NoInputs, locations: Mapping[str, str]) -> _Outputs:
    return _Outputs(text=f"{params.number}", metrics={"a": float(len(params.settings))})


ECHO = Step("echo", "Says what it got.", _Params, NoInputs, _Outputs, _work)


def test_texts_become_values() -> None:
    outputs = ECHO.execute({"number": "3", "settings": '{"x": 1}'}, {}, {})
    assert outputs == _Outputs(text="3", metrics={"a": 1.0})
    # KFP gives integers as floats.
    assert ECHO.execute({"number": 3.0, "settings": ""}, {}, {}).text == "3"


def test_values_are_written_where_a_location_is_given(tmp_path: Path) -> None:
    places = {"text": str(tmp_path / "t"), "metrics": f"file://{tmp_path / 'm'}"}
    ECHO.execute({"number": "3"}, {}, places)
    assert (tmp_path / "t").read_text() == "3"
    assert json.loads((tmp_path / "m").read_text()) == {"a": 0.0}


@pytest.mark.parametrize(
    ("params", "inputs", "outputs", "says"),
    [
        ({}, {}, {}, "parameter number: Field required"),
        ({"number": "x"}, {}, {}, "parameter number: .*integer"),
        ({"number": 1.5}, {}, {}, "parameter number: .*integer"),
        ({"number": 1, "nmber": 2}, {}, {}, "nmber: unknown; there are: number, settings"),
        ({"number": 1, "settings": "{"}, {}, {}, "parameter settings"),
        ({"number": 1, "settings": "[1]"}, {}, {}, "parameter settings"),
        ({"number": 1}, {"batch": "x"}, {}, "input batch: unknown; there are: none"),
        ({"number": 1}, {}, {"txt": "x"}, "no output txt; it has: text, metrics"),
    ],
)
def test_what_does_not_fit_is_named(
    params: dict[str, Any], inputs: dict[str, str], outputs: dict[str, str], says: str
) -> None:
    with pytest.raises(BadConfiguration, match=says):
        ECHO.execute(params, inputs, outputs)


def test_an_artifact_needs_a_place() -> None:
    with pytest.raises(BadConfiguration, match="input batch: Field required"):
        load_step("update").execute({"run_id": "r"}, {}, {})
    with pytest.raises(BadConfiguration, match="writes batch: say where"):
        load_step("feedback").execute({}, {"trajectories": "x"}, {})


def test_an_unknown_step_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadConfiguration, match="there are: evaluate, feedback"):
        load_step("train")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadData("x"), 65),
        (BadConfiguration("x"), 78),
        (TransientFailure("x"), 75),
        (tuft_sdk.LeaseLost("x"), 3),
        (tuft_sdk.ConfigurationError("x"), 78),
        (tuft_sdk.Transient("x"), 75),
        (tuft_sdk.OperationFailed("x"), 75),
        (tuft_sdk.Rejected("x"), 65),
        (tuft_sdk.NotThere("x"), 65),
        (tuft_sdk.ResultExpired("x"), 65),
        (ZeroDivisionError(), None),
    ],
)
def test_each_error_has_an_exit_code(error: Exception, code: int | None) -> None:
    assert exit_code_of(error) == code
    assert code is None or ExitCode(code)


@pytest.mark.parametrize("name", STEP_NAMES)
def test_each_component_has_its_standard_folder(name: str) -> None:
    step = load_step(name)
    folder = readmes.readme_path(name).parent
    assert {"step.py", "component.py", "metadata.yaml", "README.md"} <= {
        file.name for file in folder.iterdir()
    }
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())
    assert metadata["name"] == step.name == name
    assert metadata["description"] == step.summary
    assert metadata["stability"] in {"experimental", "alpha", "beta", "stable"}
    assert metadata["dependencies"]["kubeflow"]
    text = (folder / "README.md").read_text()
    assert readmes.updated(text, step) == text, "run make generate"


@pytest.mark.parametrize("name", STEP_NAMES)
def test_everything_in_a_contract_is_described(name: str) -> None:
    step = load_step(name)
    for model in (step.params, step.inputs, step.outputs):
        for field_name, field in model.model_fields.items():
            assert field.description, f"{name}: {field_name}"


@pytest.mark.parametrize("name", STEP_NAMES)
def test_the_faces_are_those_of_the_contract(name: str) -> None:
    text = component_files.component_path(name).read_text()
    assert text == component_files.component_source(load_step(name)), "run make generate"


def test_the_catalogue_is_complete() -> None:
    assert readmes.catalogue_path().read_text() == readmes.catalogue(), "run make generate"

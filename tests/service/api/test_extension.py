"""TuFT's own endpoints: attaching, the ledger, plans, tokenizers."""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.service.api.checkpoints import write_checkpoint
from tests.service.api.harness import MODEL, Api, config_of, ok, refused, serving
from tests.waiting import wait_until
from tuft import __version__


def begin(api: Api, scope: str, key: str, **more: Any) -> dict[str, Any]:
    body = {"scope": scope, "step_key": key, **more}
    entry = ok(api.post("tuft/steps/begin", body))["entry"]
    assert isinstance(entry, dict)
    return entry


def test_the_service_tells_its_version_to_those_with_a_key(api: Api) -> None:
    look = "/api/v1/tuft/version"
    assert ok(api.http.get(look)) == {"tuft": __version__, "interface": 1}
    refused(api.http.get(look, headers={"X-API-Key": "tml-nobodys"}), 401)


def test_attaching_takes_a_new_epoch_each_time(api: Api) -> None:
    run_id = api.run()
    assert ok(api.post(f"tuft/runs/{run_id}/attach", {})) == {
        "run_id": run_id,
        "base_model": MODEL,
        "writer_epoch": 1,
        "next_seq_id": 1,
        "lora_rank": 8,
    }
    assert ok(api.post(f"tuft/runs/{run_id}/attach", {}))["writer_epoch"] == 2


def test_an_attach_that_is_repeated_takes_the_run_from_nobody(api: Api) -> None:
    """The first try was held up on its way, and comes after another writer's."""
    path = f"tuft/runs/{api.run()}/attach"
    first = ok(api.post(path, {"writer": "a"}))
    assert ok(api.post(path, {"writer": "a"})) == first
    assert ok(api.post(path, {"writer": "b"}))["writer_epoch"] == 2
    assert ok(api.post(path, {"writer": "a"}))["writer_epoch"] == 1
    assert ok(api.post(path, {"writer": "b"}))["writer_epoch"] == 2
    for number in range(20):
        assert ok(api.post(path, {"writer": f"{number}"}))["writer_epoch"] == 3 + number


def test_anyone_may_look_at_a_step_without_attaching(api: Api) -> None:
    run_id = api.run()
    where = {"scope": run_id, "step_key": "k"}
    look = "/api/v1/tuft/steps"
    assert ok(api.http.get(look, params=where)) == {"entry": None}
    begin(api, run_id, "k")
    ok(api.post("tuft/steps/finish", {**where, "result": "r"}))
    ok(api.post(f"tuft/runs/{run_id}/attach", {}))
    assert ok(api.http.get(look, params=where))["entry"]["result"] == "r"
    refused(api.http.get(look, params=where, headers=api.bob()), 404)


def test_a_step_that_is_begun_again_finds_its_result(api: Api) -> None:
    run_id = api.run()
    first = begin(api, run_id, "update/1", first_seq_id=4)
    assert (first["state"], first["first_seq_id"]) == ("started", 4)
    body = {"scope": run_id, "step_key": "update/1", "result": '{"loss": 1}'}
    finished = ok(api.post("tuft/steps/finish", body))["entry"]
    assert (finished["state"], finished["result"]) == ("finished", '{"loss": 1}')
    assert begin(api, run_id, "update/1", first_seq_id=9) == finished
    other = ok(api.post("tuft/steps/finish", body | {"result": "another"}))["entry"]
    assert other["result"] == '{"loss": 1}'


def test_a_step_of_the_tenant(api: Api) -> None:
    assert begin(api, "tenant", "start_run")["state"] == "started"
    assert api.store.ledger.get("tenant:alice", "start_run") is not None


def test_a_stale_writer_begins_and_finishes_nothing(api: Api) -> None:
    run_id = api.run()
    ok(api.post(f"tuft/runs/{run_id}/attach", {}))
    body = {"scope": run_id, "step_key": "k"}
    stale = api.post("tuft/steps/begin", body)
    assert stale.json()["code"] == "stale_writer"
    refused(stale)
    begin(api, run_id, "k", writer_epoch=1)
    refused(api.post("tuft/steps/finish", body | {"result": "r"}))
    put = api.http.put(
        "/api/v1/tuft/steps/plan",
        params={"scope": run_id, "step_key": "k", "first_seq_id": 1},
        content=b"plan",
    )
    assert put.json()["code"] == "stale_writer"
    ok(api.post("tuft/steps/finish", body | {"result": "r"}, **{"X-Tuft-Writer-Epoch": "1"}))


def test_an_epoch_in_header_and_body_must_be_one(api: Api) -> None:
    body = {"scope": api.run(), "step_key": "k", "writer_epoch": 1}
    message = refused(api.post("tuft/steps/begin", body, **{"X-Tuft-Writer-Epoch": "2"}))
    assert "writer_epoch is 1" in message


def test_the_first_plan_stays(api: Api) -> None:
    run_id = api.run()
    where = {"scope": run_id, "step_key": "up/date 1"}
    url = "/api/v1/tuft/steps/plan"
    refused(api.http.put(url, params={**where, "first_seq_id": 3}, content=b"x"), 404)
    begin(api, run_id, "up/date 1")
    refused(api.http.get(url, params=where), 404)
    plan = bytes(range(256)) * 1000
    entry = ok(api.http.put(url, params={**where, "first_seq_id": 3}, content=plan))["entry"]
    assert entry["first_seq_id"] == 3
    again = ok(api.http.put(url, params={**where, "first_seq_id": 7}, content=b"other"))["entry"]
    assert again == entry
    answer = api.http.get(url, params=where)
    assert answer.content == plan
    assert answer.headers["content-type"] == "application/octet-stream"
    keys = {info.key for info in api.services.objects.list("ledger")}
    assert entry["plan_object"] in keys
    assert not any(api.services.objects.get(key) == b"other" for key in keys)
    attempt = {**where, "number": 1, "first_operation": 2, "first_seq_id": 9}
    shown = ok(api.post("tuft/steps/attempt", attempt))["entry"]
    assert shown == entry | {"attempts": [{"first_operation": 2, "first_seq_id": 9}]}
    ok(api.post("tuft/steps/finish", {**where, "result": "r"}))
    refused(api.http.get(url, params=where), 404)
    assert entry["plan_object"] in {thing.key for thing in api.store.disposal.due(time.time(), 99)}


def test_a_plan_has_the_limit_of_a_request(module_store: str, tmp_path: Path) -> None:
    with serving(config_of(tmp_path, max_request_bytes=2000), module_store) as api:
        run_id = api.run()
        begin(api, run_id, "k")
        params: dict[str, str | int] = {"scope": run_id, "step_key": "k", "first_seq_id": 1}
        put = api.http.put("/api/v1/tuft/steps/plan", params=params, content=b"x" * 2001)
        refused(put, 413)


@pytest.fixture
def with_tokenizer(module_store: str, tmp_path: Path) -> Iterator[Api]:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).write_text(json.dumps({"name": name}))
    config = config_of(tmp_path)
    model = config.supported_models[0].model_copy(update={"resolved_folder": folder})
    served = config.model_copy(update={"supported_models": [model]})
    with serving(served, module_store) as api:
        yield api


def test_the_tokenizer_as_an_archive(with_tokenizer: Api) -> None:
    path = f"tuft/models/{MODEL}/tokenizer"
    answer = with_tokenizer.get(path)
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["tokenizer.json", "tokenizer_config.json"]
        assert json.loads(archive.read("tokenizer.json")) == {"name": "tokenizer.json"}
    etag = answer.headers["etag"]
    assert with_tokenizer.get(path).content == answer.content
    same = with_tokenizer.get(path, **{"If-None-Match": etag})
    assert (same.status_code, same.content) == (304, b"")
    assert with_tokenizer.get(path, **{"If-None-Match": '"other"'}).status_code == 200


def test_a_tokenizer_that_changed(with_tokenizer: Api) -> None:
    path = f"tuft/models/{MODEL}/tokenizer"
    etag = with_tokenizer.get(path).headers["etag"]
    folder = with_tokenizer.services.config.supported_models[0].resolved_folder
    assert folder is not None
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert with_tokenizer.get(path).headers["etag"] != etag


def test_a_model_without_tokenizer_or_not_served(api: Api) -> None:
    refused(api.get(f"tuft/models/{MODEL}/tokenizer"), 404)
    assert MODEL in refused(api.get("tuft/models/other/tokenizer"))


def test_a_download_leaves_nothing_behind(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the client goes away in the middle of it: the disk is not filled by such."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run_id = api.run()
    write_checkpoint(api, run_id, "sampler_weights", "large", content=bytes(64 << 20))
    place = f"/api/v1/tuft/checkpoints/{run_id}/sampler_weights/large/files/"
    url = f"{place}adapter_model.safetensors"
    with api.http.stream("GET", url) as answer:
        assert int(answer.headers["content-length"]) == 64 << 20
        pieces = answer.iter_raw(1000)  # by a name: httpx ends the connection with its iterator
        next(pieces)
        assert _open_files(tmp_path), "it is being read"
    # Gone by now is the client.
    wait_until(lambda: not _open_files(tmp_path), 10, "the file is closed")
    assert list(tmp_path.iterdir()) == []


def _open_files(folder: Path) -> list[str]:
    """What this process, in which the api is, has open there; a removed file counts."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(os.readlink(descriptor))
    return [name for name in found if name.startswith(str(folder))]


def test_a_checkpoint_is_looked_at_and_its_files_are_read(api: Api) -> None:
    run_id = api.run()
    record = write_checkpoint(api, run_id, "sampler_weights", "p", step_key="update/0")
    seen = ok(api.get(f"tuft/checkpoints/{run_id}/sampler_weights/p"))
    assert (seen["path"], seen["base_model"]) == (record.manifest.path, MODEL)
    assert (seen["step"], seen["step_key"], seen["parent"]) == (3, "update/0", None)
    assert seen["lora"]["rank"] == 8
    assert seen["files"]["adapter_config.json"]["size"] == 2
    answer = api.get(f"tuft/checkpoints/{run_id}/sampler_weights/p/files/adapter_model.safetensors")
    assert (answer.status_code, answer.content) == (200, b"12345678")
    place = f"tuft/checkpoints/{run_id}/sampler_weights/p"
    refused(api.get(f"{place}/files/nothing"), 404)
    refused(api.get(f"{place}/files/..%2Fmanifest.json"), 404)
    refused(api.get(f"tuft/checkpoints/{run_id}/sampler_weights/q"), 404)
    refused(api.get(f"tuft/checkpoints/{run_id}/nothing/p"), 400)
    refused(api.get(place, **api.bob()), 404)
    refused(api.get(f"{place}/files/adapter_config.json", **api.bob()), 404)
    assert api.post(f"training_runs/{run_id}/checkpoints/sampler_weights/p/publish", {}).is_success
    assert ok(api.get(place, **api.bob()))["files"] == seen["files"]


def test_a_checkpoint_on_its_way_is_worth_another_try(api: Api) -> None:
    """A policy is acknowledged before it is in the object store."""
    run_id = api.run()
    write_checkpoint(api, run_id, "sampler_weights", "p")
    prefix = api.services.checkpoints.prefix_of(run_id, "sampler_weights", "p")
    api.services.objects.delete(f"{prefix}/manifest.json")
    refused(api.get(f"tuft/checkpoints/{run_id}/sampler_weights/p"), 503)

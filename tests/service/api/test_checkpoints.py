"""Training runs and checkpoints as resources; the index that a restart rebuilds."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.service.api.checkpoints import write_checkpoint
from tests.service.api.harness import (
    INFO,
    MODEL,
    Api,
    Trainer,
    config_of,
    create_model_body,
    ok,
    refused,
    serving,
)
from tuft.contracts.operations import CreateFromCheckpoint, LoadWeights, Operation
from tuft.contracts.records import CheckpointSettings
from tuft.errors import NotFound
from tuft.store import connect


def one(run_id: str, kind: str = "weights", name: str = "a") -> str:
    return f"/api/v1/training_runs/{run_id}/checkpoints/{kind}/{name}"


def test_a_training_run(api: Api) -> None:
    body = create_model_body(api.session()) | {"user_metadata": {"renderer_name": "x", "n": 1}}
    run_id = ok(api.post("create_model", body))["model_id"]
    training = write_checkpoint(api, run_id, "weights", "a")
    write_checkpoint(api, run_id, "sampler_weights", "old", created_at=1.0)
    write_checkpoint(api, run_id, "sampler_weights", "new", user_metadata={"k": "v"})
    run = ok(api.get(f"training_runs/{run_id}?access_scope=owned"))
    age = time.time() - datetime.fromisoformat(run.pop("last_request_time")).timestamp()
    assert abs(age) < 60
    assert run.pop("last_checkpoint") == {
        "checkpoint_id": "weights/a",
        "checkpoint_type": "training",
        "time": datetime.fromtimestamp(training.manifest.created_at, UTC).isoformat(),
        "tinker_path": f"tinker://{run_id}/weights/a",
        "size_bytes": 10,
        "public": False,
        "user_metadata": {},
        "expires_at": None,
    }
    sampler = run.pop("last_sampler_checkpoint")
    assert (sampler["checkpoint_id"], sampler["user_metadata"]) == (
        "sampler_weights/new",
        {"k": "v"},
    )
    assert run == {
        "training_run_id": run_id,
        "base_model": MODEL,
        "model_owner": "alice",
        "is_lora": True,
        "lora_rank": 8,
        "corrupted": False,
        "user_metadata": {"renderer_name": "x", "n": "1"},
    }


def test_pages_of_training_runs(fresh_api: Api) -> None:
    session_id = fresh_api.session()
    made = [fresh_api.run(session_id, number) for number in range(5)]
    page = ok(fresh_api.get("training_runs?limit=2&offset=1"))
    assert page["cursor"] == {"offset": 1, "limit": 2, "total_count": 5}
    ids = [run["training_run_id"] for run in page["training_runs"]]
    assert len(ids) == 2
    assert set(ids) < set(made)


def test_training_runs_of_a_project(fresh_api: Api) -> None:
    session_id = fresh_api.session()
    mine = fresh_api.run(session_id)
    fresh_api.run()
    put = fresh_api.http.put(f"/api/v1/sessions/{session_id}/project", json={"project_id": "p"})
    assert put.status_code == 204
    page = ok(fresh_api.get("training_runs?project_id=p"))
    assert [run["training_run_id"] for run in page["training_runs"]] == [mine]
    assert page["cursor"]["total_count"] == 1


def test_pages_of_checkpoints_newest_first(fresh_api: Api) -> None:
    run_id = fresh_api.run()
    for number in range(5):
        write_checkpoint(fresh_api, run_id, "weights", f"c{number}", created_at=float(number))
    page = ok(fresh_api.get("checkpoints?limit=2&offset=1"))
    assert [c["checkpoint_id"] for c in page["checkpoints"]] == ["weights/c3", "weights/c2"]
    assert page["cursor"] == {"offset": 1, "limit": 2, "total_count": 5}
    of_run = ok(fresh_api.get(f"training_runs/{run_id}/checkpoints"))["checkpoints"]
    assert [c["checkpoint_id"] for c in of_run] == [f"weights/c{n}" for n in (4, 3, 2, 1, 0)]


def test_deleting_a_checkpoint(api: Api) -> None:
    run_id = api.run()
    write_checkpoint(api, run_id, "weights", "a")
    assert api.http.delete(one(run_id)).status_code == 204
    assert list(api.services.objects.list(f"runs/{run_id}")) == []
    refused(api.http.delete(one(run_id)), 404)
    assert ok(api.get(f"training_runs/{run_id}/checkpoints")) == {"checkpoints": []}


def test_a_checkpoint_id_that_is_none(api: Api) -> None:
    run_id = api.run()
    assert "sampler_weights" in refused(api.http.delete(one(run_id, "odd")))
    refused(api.http.delete(one(run_id, "weights", "%2e%2e")), 400)


def test_publishing_is_kept_in_the_object_store(api: Api) -> None:
    run_id = api.run()
    write_checkpoint(api, run_id, "weights", "a")
    assert api.http.post(f"{one(run_id)}/publish").status_code == 204
    prefix = f"runs/{run_id}/weights/a"
    assert api.services.checkpoints.settings(prefix).public
    (shown,) = ok(api.get(f"training_runs/{run_id}/checkpoints"))["checkpoints"]
    assert shown["public"] is True


def test_a_time_to_live(api: Api) -> None:
    run_id = api.run()
    write_checkpoint(api, run_id, "weights", "a", settings=CheckpointSettings(public=True))
    assert api.http.put(f"{one(run_id)}/ttl", json={"ttl_seconds": 7200}).status_code == 204
    (shown,) = ok(api.get(f"training_runs/{run_id}/checkpoints"))["checkpoints"]
    left = datetime.fromisoformat(shown["expires_at"]).timestamp() - time.time()
    assert 7100 < left <= 7200
    assert shown["public"] is True
    refused(api.http.put(f"{one(run_id)}/ttl", json={"ttl_seconds": 10}))
    assert api.http.put(f"{one(run_id)}/ttl", json={"ttl_seconds": None}).status_code == 204
    (shown,) = ok(api.get(f"training_runs/{run_id}/checkpoints"))["checkpoints"]
    assert shown["expires_at"] is None


EXPIRED = CheckpointSettings(expires_at=1.0)
USES: dict[str, Callable[[Api, str], Any]] = {
    "info": lambda api, run_id: api.post(
        "weights_info", {"tinker_path": f"tinker://{run_id}/weights/a"}
    ),
    "load": lambda api, run_id: api.post(
        "load_weights",
        {
            "model_id": run_id,
            "seq_id": 1,
            "path": f"tinker://{run_id}/weights/a",
            "optimizer": False,
        },
    ),
    "delete": lambda api, run_id: api.http.delete(one(run_id)),
    "sample": lambda api, run_id: api.post(
        "create_sampling_session",
        {
            "session_id": api.session(),
            "sampling_session_seq_id": 0,
            "model_path": f"tinker://{run_id}/weights/a",
        },
    ),
}


@pytest.mark.parametrize("use", USES)
def test_an_expired_checkpoint_is_gone_for_good(api: Api, use: str) -> None:
    run_id = api.run()
    write_checkpoint(api, run_id, "weights", "a", settings=EXPIRED)
    refused(USES[use](api, run_id), 404)
    assert list(api.services.objects.list(f"runs/{run_id}")) == []
    with pytest.raises(NotFound):
        api.store.checkpoints.get(run_id, "weights", "a")


def test_lists_are_without_expired_checkpoints(fresh_api: Api) -> None:
    run_id = fresh_api.run()
    for number in range(6):
        settings = EXPIRED if number % 2 else CheckpointSettings()
        write_checkpoint(fresh_api, run_id, "weights", f"c{number}", settings=settings)
    page = ok(fresh_api.get("checkpoints?limit=2"))
    assert len(page["checkpoints"]) == 2
    assert ok(fresh_api.get("checkpoints"))["cursor"]["total_count"] == 3


def test_an_expired_name_is_free_again(api: Api) -> None:
    run_id = api.run()
    write_checkpoint(api, run_id, "weights", "a", settings=EXPIRED)
    ok(api.post("save_weights", {"model_id": run_id, "seq_id": 1, "path": "a"}))


def test_weights_info(api: Api) -> None:
    body = create_model_body(api.session(), rank=4, train_unembed=False)
    run_id = ok(api.post("create_model", body))["model_id"]
    path = write_checkpoint(api, run_id, "sampler_weights", "a").manifest.path
    assert ok(api.post("weights_info", {"tinker_path": path})) == {
        "base_model": MODEL,
        "is_lora": True,
        "lora_rank": 4,
        "train_unembed": False,
        "train_mlp": True,
        "train_attn": True,
        "optimizer_config": {"type": "adamw"},
    }


def test_get_info(api: Api) -> None:
    run_id = api.run()
    assert ok(api.post("get_info", {"model_id": run_id, "type": "get_info"})) == {
        "type": "get_info",
        "model_id": run_id,
        "model_data": {
            "arch": INFO.architecture,
            "model_name": MODEL,
            "tokenizer_id": INFO.tokenizer_id,
        },
        "is_lora": True,
        "lora_rank": 8,
        "model_name": MODEL,
        "optimizer_config": {"type": "adamw"},
    }


class TestLoading:
    def test_into_the_same_run(self, api: Api, trainer: Trainer) -> None:
        run_id = api.run()
        path = write_checkpoint(api, run_id, "weights", "a").manifest.path
        body = {"model_id": run_id, "seq_id": 1, "path": path, "optimizer": True}
        stub = ok(api.post("load_weights", body))
        operation = trainer.pending(run_id)[1]
        assert isinstance(operation, Operation)
        prefix = f"runs/{run_id}/weights/a"
        assert operation.body == LoadWeights(path=path, prefix=prefix, optimizer=True)
        # A repeat finds its place taken, and asks no more whether the checkpoint is there.
        assert api.http.delete(one(run_id)).status_code == 204
        assert ok(api.post("load_weights", body)) == stub

    def test_a_new_run(self, api: Api, trainer: Trainer) -> None:
        path = write_checkpoint(api, api.run(rank=4), "weights", "a").manifest.path
        session_id = api.session()
        body = {
            "session_id": session_id,
            "model_seq_id": 3,
            "path": path,
            "optimizer": True,
            "user_metadata": {"a": "b"},
        }
        stub = ok(api.post("load_weights", body))
        run_id = f"{session_id}:train:3"
        assert stub == {"request_id": f"{run_id}:0", "model_id": run_id}
        run = api.store.runs.get(run_id)
        assert (run.lora.rank, run.parent, run.user_metadata) == (4, path, {"a": "b"})
        (operation,) = trainer.pending(run_id)
        assert isinstance(operation, Operation)
        assert isinstance(operation.body, CreateFromCheckpoint)
        api.services.catalog.delete(api.services.catalog.find("alice", path))
        assert ok(api.post("load_weights", body)) == stub
        refused(api.post("load_weights", body | {"optimizer": False}))

    def test_a_samplers_checkpoint_can_not_be_trained(self, api: Api) -> None:
        path = write_checkpoint(api, api.run(), "sampler_weights", "a").manifest.path
        body = {"session_id": api.session(), "model_seq_id": 0, "path": path, "optimizer": False}
        assert "kind 'weights'" in refused(api.post("load_weights", body))

    def test_a_checkpoint_without_optimizer_state(self, api: Api) -> None:
        record = write_checkpoint(api, api.run(), "weights", "a", has_optimizer=False)
        body = {"session_id": api.session(), "model_seq_id": 0, "path": record.manifest.path}
        message = refused(api.post("load_weights", body | {"optimizer": True}))
        assert "no optimizer state" in message
        ok(api.post("load_weights", body | {"optimizer": False}))

    def test_another_adapter_does_not_fit_into_a_run(self, api: Api) -> None:
        path = write_checkpoint(api, api.run(rank=4), "weights", "a").manifest.path
        body = {"model_id": api.run(rank=8), "seq_id": 1, "path": path, "optimizer": False}
        assert "another adapter" in refused(api.post("load_weights", body))

    def test_another_seed_does(self, api: Api) -> None:
        path = write_checkpoint(api, api.run(), "weights", "a").manifest.path
        body = {"model_id": api.run(), "seq_id": 1, "path": path, "optimizer": False}
        ok(api.post("load_weights", body))

    def test_another_base_model(self, api: Api) -> None:
        path = write_checkpoint(api, api.run(), "weights", "a").manifest.path
        body = {"session_id": api.session(), "model_seq_id": 0, "path": path, "optimizer": False}
        assert "'other'" in refused(api.post("load_weights", body | {"base_model": "other"}))
        ok(api.post("load_weights", body | {"base_model": MODEL}))

    def test_a_rank_over_the_limit(self, api: Api, tmp_path: Path, module_store: str) -> None:
        path = write_checkpoint(api, api.run(rank=32), "weights", "a").manifest.path
        config = api.services.config
        lower = config.model_copy(
            update={"trainer": config.trainer.model_copy(update={"max_lora_rank": 16})}
        )
        with serving(lower, module_store) as strict:
            body = {"session_id": strict.session(), "model_seq_id": 0, "path": path}
            message = refused(strict.post("load_weights", body | {"optimizer": False}))
        assert "rank is 32" in message


class TestRestart:
    """The state is lost (persistence: disabled), the object store is there."""

    @pytest.fixture
    def restarted(self, valkey_url: str, tmp_path: Path) -> Callable[[], Any]:
        def restart() -> Any:
            connect(valkey_url).flushall()
            return serving(config_of(tmp_path), valkey_url)

        return restart

    def test_runs_and_checkpoints_are_back(self, restarted: Callable[[], Any]) -> None:
        with restarted() as api:
            run_id = api.run()
            write_checkpoint(api, run_id, "weights", "a", settings=CheckpointSettings(public=True))
        with restarted() as api:
            assert ok(api.get("checkpoints"))["cursor"]["total_count"] == 1
            (run,) = ok(api.get("training_runs"))["training_runs"]
            assert (run["training_run_id"], run["lora_rank"]) == (run_id, 8)
            assert run["last_checkpoint"]["public"] is True
            body = {"model_id": run_id, "seq_id": 1, "adam_params": {}}
            assert "checkpoints" in refused(api.post("optim_step", body))
            refused(api.post(f"tuft/runs/{run_id}/attach", {}))
            load = {"session_id": api.session(), "model_seq_id": 0, "optimizer": True}
            path = f"tinker://{run_id}/weights/a"
            ok(api.post("load_weights", load | {"path": path}))

    def test_a_damaged_manifest_stops_nothing(self, restarted: Callable[[], Any]) -> None:
        with restarted() as api:
            run_id = api.run()
            write_checkpoint(api, run_id, "weights", "good")
            api.services.objects.put(f"runs/{run_id}/weights/bad/manifest.json", b"{")
        with restarted() as api:
            (shown,) = ok(api.get("checkpoints"))["checkpoints"]
            assert shown["checkpoint_id"] == "weights/good"

    def test_the_state_of_another_process_is_kept(self, valkey_url: str, tmp_path: Path) -> None:
        with serving(config_of(tmp_path), valkey_url) as api:
            run_id = api.run()
            write_checkpoint(api, run_id, "weights", "a")
        with serving(config_of(tmp_path), valkey_url) as again:
            again.services.catalog.wait_until_complete()
            assert again.store.runs.get(run_id).live

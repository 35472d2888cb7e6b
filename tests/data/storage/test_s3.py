"""Object storage: moto's S3 server and s3fs, with the faults of a bad day; batches and weights stay the same."""

import threading
import time

import fsspec
import pytest
import torch
from made_corpus import good_corpus
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from chns.cli import main
from chns.data.dataset import CropBatches, SpeakerCrops
from chns.data.manifest import Manifest
from chns.data.packing import pack_shards
from chns.sampling import BatchShape, RandomSpeakerBatches

pytestmark = pytest.mark.slow
pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
serving = pytest.importorskip("werkzeug.serving")

BUCKET = "speech"
READ_TIMEOUT_SECONDS = 1
FAULTS = ("500", "503", "slow", "cut", "silent")


class BadDay:
    """An S3 server of which every third request for bytes goes wrong, each time otherwise."""

    def __init__(self, good):
        self.good, self.is_on, self.asked, self.faults = good, False, 0, []
        self._lock = threading.Lock()

    def _fault(self, environment):
        if not self.is_on or environment["REQUEST_METHOD"] != "GET" or "HTTP_RANGE" not in environment:
            return None
        with self._lock:
            self.asked += 1
            if self.asked % 3:
                return None
            self.faults.append(FAULTS[len(self.faults) % len(FAULTS)])
            return self.faults[-1]

    def __call__(self, environment, start_response):
        fault = self._fault(environment)
        if fault in ("500", "503"):
            code = {"500": "InternalError", "503": "SlowDown"}[fault]
            start_response(f"{fault} {code}", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>a bad day</Message></Error>".encode()]
        content = self.good(environment, start_response)
        if fault is None:
            return content
        return getattr(self, fault)(b"".join(content))

    @staticmethod
    def slow(content):
        """In ten pieces."""
        for first in range(0, len(content), len(content) // 10 + 1):
            time.sleep(0.02)
            yield content[first : first + len(content) // 10 + 1]

    @staticmethod
    def cut(content):
        """The connection ends in the middle."""
        yield content[: len(content) // 2]
        raise ConnectionError("a bad day")

    @staticmethod
    def silent(content):
        """Nothing comes until the client gives up."""
        time.sleep(2 * READ_TIMEOUT_SECONDS)
        yield content


class Quiet(serving.WSGIRequestHandler):
    def log(self, *words):
        pass


@pytest.fixture
def storage(monkeypatch):
    """The server, and a bucket that s3fs finds by fsspec's configuration, as a user states it."""
    application = BadDay(moto_server.DomainDispatcherApplication(moto_server.create_backend_app))
    server = serving.make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    options = {
        "endpoint_url": f"http://127.0.0.1:{server.port}", "key": "key", "secret": "secret",
        "config_kwargs": {"read_timeout": READ_TIMEOUT_SECONDS, "connect_timeout": 5},
    }  # fmt: skip
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    fsspec.filesystem("s3").mkdir(BUCKET)
    yield application
    application.is_on = False
    fsspec.filesystem("s3").rm(BUCKET, recursive=True)  # the server's memory is the process's
    server.shutdown()
    thread.join()
    server.server_close()


def uploaded(shards, storage):
    """Put the shards there, as `aws s3 sync` does; the URL. From here on, the day is a bad one."""
    fsspec.filesystem("s3").put([str(path) for path in sorted(shards.glob("*.tar"))], f"{BUCKET}/packed/")
    storage.is_on = True
    return f"s3://{BUCKET}/packed"


def batches_of(manifest, *, workers=0):
    crops = SpeakerCrops(manifest, crop_seconds=1.0, sample_rate_hz=16_000)
    sampler = RandomSpeakerBatches(manifest.speaker_labels, BatchShape(4, 2, steps_per_epoch=4))
    loader = DataLoader(crops, batch_sampler=CropBatches(sampler, seed=0, epoch=0), num_workers=workers)
    return [waveforms for waveforms, _ in loader]


def test_batches_from_s3_are_those_of_local_shards_on_a_bad_day(storage, tmp_path):
    local = pack_shards(good_corpus(tmp_path / "in", speakers=4).manifest, tmp_path / "out", jobs=1).manifest
    there = Manifest.read(tmp_path / "out" / "manifest.parquet", root=uploaded(tmp_path / "out", storage))
    for here, far in zip(batches_of(local), batches_of(there), strict=True):
        assert torch.equal(here, far)
    assert set(storage.faults) == set(FAULTS)


def test_a_training_from_s3_on_a_bad_day_ends_with_the_weights_of_local_shards(storage, hum_manifest, tmp_path):
    shards = tmp_path / "shards"
    assert main(["pack", str(hum_manifest), "--out", str(shards), "--shard-mb", "0.5", "--workers", "1"]) == 0
    words = [
        "train", "--config", "chns", "--config", "tiny", "--data.train", str(shards / "manifest.parquet"),
        "--data.held_out_speakers", "4", "--data.num_workers", "2", "--train.device", "cpu", "--out",
    ]  # fmt: skip
    assert main([*words, str(tmp_path / "here")]) == 0
    assert main([*words, str(tmp_path / "far"), "--data.root", uploaded(shards, storage)]) == 0
    here, far = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("here", "far"))
    assert all(torch.equal(far[name], weights) for name, weights in here.items())
    assert set(storage.faults) == set(FAULTS)
    assert len(storage.faults) > 50

"""Recordings below a URL are those of local shards; a server that fails or lies is named, not read without bound."""

import csv
import multiprocessing
import os
import pickle
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from aac_files import write_aac
from forked import SERVER
from fsspec.implementations.memory import MemoryFileSystem
from made_corpus import RATE, MadeCorpus, good_corpus, voice
from safetensors.torch import load_file
from small_models import LEAST
from torch.utils.data import DataLoader

from chns.cli import main
from chns.core import AudioError, ChnsError, ManifestError
from chns.data.audio import audio_info, read_audio
from chns.data.augmentation.effects import Augmenter, Gain, Speed
from chns.data.dataset import (
    CropBatches,
    CropRequest,
    SpeakerCrops,
    WholeUtterances,
    pad_waveforms,
    plain_worker_errors,
)
from chns.data.manifest import Manifest
from chns.data.packing import pack_shards
from chns.data.storage.packed import PackedRecording
from chns.data.storage.ranges import KEPT_CONNECTIONS, Patience
from chns.data.storage.remote import RemoteRecording, RemoteRoot
from chns.encoders import EcapaTdnn, SpeakerEncoder
from chns.evaluation.embedder import Embedder
from chns.features import LogMel
from chns.inference.hearing import Sounds, wanted_of
from chns.sampling import BatchShape, RandomSpeakerBatches

BRIEF = Patience(timeout_seconds=0.3, attempts=2, backoff_seconds=0.01)  # for servers that never come to an end
PATIENT = Patience(timeout_seconds=60.0, attempts=2, backoff_seconds=0.01)


class Handler(BaseHTTPRequestHandler):
    """Files of a folder, by ranges; ``server.fault`` may answer instead."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def setup(self):
        super().setup()
        self.server.connections += 1

    def do_GET(self):
        path = unquote(self.path).lstrip("/")
        first, last = (int(number) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
        self.server.requests.append((path, first, last + 1))
        file = self.server.folder / path
        if self.server.fault is not None and self.server.fault(self, first, last):
            return
        if not file.is_file():
            self.answer(404, b"no such file")
            return
        size = file.stat().st_size
        if first >= size:
            self.answer(416, b"")
            return
        last = min(last, size - 1)
        with file.open("rb") as opened:
            opened.seek(first)
            content = opened.read(last + 1 - first)
        self.answer(206, content, {"Content-Range": f"bytes {first}-{last}/{size}"})

    def answer(self, status, content, headers=None, *, length=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)
        if length is not None:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a handler that trickles on purpose is not waited for

    def reset(self, folder):
        self.folder, self.requests, self.connections, self.fault = folder, [], 0, None
        self.may_end = threading.Event()

    def handle_error(self, request, client_address):
        """A client that hangs up is not worth a trace."""


@pytest.fixture
def running_server():
    """One of its own for each test: a worker that a test left behind may still be asking its server."""
    server = Server(("127.0.0.1", 0), Handler)
    server.reset(None)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server(running_server, packed):
    running_server.reset(packed.root)
    yield running_server
    running_server.may_end.set()


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Every format, odd names, a part of a recording, and a recording that is not fetched whole."""
    corpus = MadeCorpus(tmp_path_factory.mktemp("corpus"))
    corpus.add("s0/flac", voice(0))
    corpus.add("s0/wav", np.stack([voice(1), voice(2)], axis=1), suffix=".wav")
    corpus.add("s1/vorbis", voice(3), suffix=".ogg", format="OGG", subtype="VORBIS")
    corpus.add("s1/opus", voice(4), suffix=".opus", format="OGG", subtype="OPUS")
    corpus.add("s2/mp3", voice(5), suffix=".mp3", format="MP3")
    corpus.add("s2/Zoë ж?#%41", voice(6, rate=8_000), rate=8_000, suffix=".wav")
    corpus.add("s3/long", voice(7, 140), suffix=".wav")
    corpus.row("s3/part", "long.wav", offset=100.0, duration=3.0)
    write_aac(corpus.root / "s4" / "aac.m4a", voice(8))
    corpus.row("s4/aac", "aac.m4a", duration=1.9)
    corpus.add("s4/flac", voice(9))
    out = tmp_path_factory.mktemp("packed") / "shards"
    return pack_shards(corpus.manifest, out, shard_bytes=200_000, jobs=1).manifest


def url_of(server):
    return f"http://127.0.0.1:{server.server_port}"


def remote(server, packed, patience=PATIENT):
    return Manifest(packed.table, root=RemoteRoot(url_of(server), patience))


def named(manifest, name):
    return next(each.path for each in manifest if each.name == name)


@pytest.mark.slow
def test_every_recording_is_bit_for_bit_that_of_the_local_shard(server, packed):
    for near, far in zip(packed, remote(server, packed), strict=True):
        assert isinstance(near.path, PackedRecording)
        assert isinstance(far.path, RemoteRecording)
        assert far[:2] + far[3:] == near[:2] + near[3:]
        assert far.path.suffix == near.path.suffix
        assert audio_info(far.path) == audio_info(near.path)
        for offset, duration in ((0.0, None), (0.25, 1.0), (near.offset_seconds, near.duration_seconds)):
            part = {"offset_seconds": offset, "duration_seconds": duration}
            np.testing.assert_array_equal(read_audio(far.path, **part), read_audio(near.path, **part))


def test_a_recording_costs_one_request_of_its_own_bytes_and_aac_two(server, packed):
    for each in remote(server, packed):
        server.requests.clear()
        if each.name.startswith("s3/"):
            continue
        read_audio(each.path)
        start, end = each.path.byte_offset - 512, each.path.byte_offset + each.path.byte_length
        assert server.requests == [(each.path.shard, start, end)] * (2 if each.name == "s4/aac" else 1)


def test_a_crop_of_a_long_recording_fetches_blocks_of_it(server, packed):
    long = named(remote(server, packed), "s3/part")
    read_audio(long, offset_seconds=100.0, duration_seconds=3.0)
    sizes = [end - start for _, start, end in server.requests]
    assert max(sizes) <= 2**18
    assert sum(sizes) < long.byte_length / 4
    assert all(start >= long.byte_offset - 512 for _, start, _ in server.requests)
    assert all(end <= long.byte_offset + long.byte_length for _, _, end in server.requests)


def batches(manifest, *, augmenter=None, **loader_settings):
    dataset = SpeakerCrops(manifest, crop_seconds=1.0, sample_rate_hz=RATE, augmenter=augmenter)
    sampler = RandomSpeakerBatches(manifest.speaker_labels, BatchShape(4, steps_per_epoch=2))
    requests = CropBatches(sampler, seed=3, epoch=0)
    with plain_worker_errors():
        return list(DataLoader(dataset, batch_sampler=requests, **loader_settings))


def assert_same_batches(left, right):
    for (crops, labels), (other_crops, other_labels) in zip(left, right, strict=True):
        assert torch.equal(crops, other_crops)
        assert torch.equal(labels, other_labels)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [{}, {"num_workers": 2, "multiprocessing_context": "fork"}])
def test_batches_from_a_url_are_those_from_local_shards(server, packed, workers):
    augmenter = Augmenter(
        speed=Speed(probability=0.5, factors=[0.9, 1.1]), gain=Gain(probability=1.0, min_gain_db=-6, max_gain_db=6)
    )
    for chosen in (None, augmenter):
        far = batches(remote(server, packed), augmenter=chosen, **workers)
        assert_same_batches(batches(packed, augmenter=chosen), far)


@pytest.mark.slow
def test_batches_from_a_url_are_the_same_in_workers_that_are_sent_all_they_need(server, packed):
    far = batches(remote(server, packed), num_workers=1, multiprocessing_context=SERVER)
    assert_same_batches(batches(packed), far)


def test_a_batch_is_one_request_an_utterance_many_at_once_over_kept_connections(tmp_path, server):
    local = pack_shards(good_corpus(tmp_path / "in").manifest, tmp_path / "out", jobs=1).manifest
    server.reset(local.root)
    crops = SpeakerCrops(remote(server, local), crop_seconds=1.0, sample_rate_hz=RATE)
    together = threading.Barrier(4, timeout=30)
    server.fault = lambda *_: together.wait() < 0  # goes on once four requests are under way
    crops.__getitems__([CropRequest(row, (row,)) for row in range(4)])
    assert len(server.requests) == 4
    server.fault = None
    for _ in range(3):
        crops.__getitems__([CropRequest(row % 4, (row,)) for row in range(20)])
    assert len(server.requests) == 64
    assert server.connections <= KEPT_CONNECTIONS


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_opens_connections_of_its_own(server, packed):
    recording = named(remote(server, packed), "s0/flac")
    read_audio(recording)
    before = server.connections
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if len(read_audio(recording)) == 2 * RATE else 1
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert server.connections == before + 1
    read_audio(recording)
    assert server.connections == before + 1


def test_embeddings_and_whole_utterances_are_those_of_local_shards(server, packed):
    short = packed.take([row for row, each in enumerate(packed) if each.name != "s3/long"])
    far = remote(server, short)
    torch.manual_seed(0)
    encoder = EcapaTdnn(num_mels=20, channels=16, aggregation_channels=32, res2net_scale=4, embedding_dim=8)
    model = SpeakerEncoder(LogMel(sample_rate_hz=RATE, num_mels=20), encoder)
    np.testing.assert_array_equal(Embedder(model=model).utterances(far), Embedder(model=model).utterances(short))
    whole = {"max_seconds": 5.0, "sample_rate_hz": RATE, "min_samples": 400}
    for near, other in zip(
        WholeUtterances(short, **whole).__getitems__([0, 3]),
        WholeUtterances(far, **whole).__getitems__([0, 3]),
        strict=True,
    ):
        assert torch.equal(near, other)
    assert pad_waveforms(WholeUtterances(far, **whole).__getitems__([0]))[1].tolist() == [2 * RATE]


def test_a_manifest_that_is_enrolled_or_identified_is_heard_from_a_url_as_from_local_shards(server, packed):
    def heard(manifest):
        return Sounds(wanted_of(manifest), sample_rate_hz=RATE, min_samples=400).__getitems__(range(len(manifest)))

    for near, far in zip(heard(packed), heard(remote(server, packed)), strict=True):
        assert (near.row, near.refused, near.quality) == (far.row, None, far.quality)
        assert len(near.windows) == len(far.windows) > 0
        for one, other in zip(near.windows, far.windows, strict=True):
            np.testing.assert_array_equal(one, other)


def trained(manifest, configs, out, *more):
    words = [
        "train", "--config", configs / "chns.yaml", "--config", configs / "tiny.yaml", "--config", LEAST,
        "--data.train", manifest,
        "--data.held_out_speakers", 4, "--train.epochs", 2, "--batches.steps_per_epoch", 2, "--train.device", "cpu",
        "--train.log_every_steps", 1, "--out", out, *more,
    ]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    with (out / "log.csv").open() as file:
        timed = ("elapsed_seconds", "segments_per_second", "data_wait_share", "encoder_seconds", "loss_seconds")
        log = [{name: value for name, value in row.items() if name not in timed} for row in csv.DictReader(file)]
    return log, load_file(out / "model" / "model.safetensors")


@pytest.mark.slow
def test_training_from_a_url_gives_the_log_and_the_weights_of_local_shards(hum_manifest, configs, server, tmp_path):
    shards = tmp_path / "shards"
    assert main(["pack", str(hum_manifest), "--out", str(shards), "--shard-mb", "0.5", "--workers", "1"]) == 0
    log, weights = trained(shards / "manifest.parquet", configs, tmp_path / "near")
    server.reset(shards)
    (tmp_path / "manifest.parquet").write_bytes((shards / "manifest.parquet").read_bytes())
    far = trained(tmp_path / "manifest.parquet", configs, tmp_path / "far", "--data.root", url_of(server))
    assert far[0] == log
    assert len(log) >= 4
    assert far[1].keys() == weights.keys()
    assert all(torch.equal(far[1][name], weights[name]) for name in weights)
    assert len(server.requests) > 4 * 12


# ----- what a server may do


def whole_file(handler, first, last):
    handler.answer(200, bytes(10_000_000))
    return True


def status(code, **headers):
    def fault(handler, first, last):
        handler.answer(code, b"", {name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return fault


def partial(content, *, shift=0, length=None):
    """An answer of status 206 with other bytes than those asked for."""

    def fault(handler, first, last):
        body = content(last + 1 - first)
        headers = {"Content-Range": f"bytes {first + shift}-{last + shift}/99999999"}
        handler.answer(206, body, headers, length=length(last + 1 - first) if length else None)
        return True

    return fault


def silent(handler, first, last):
    handler.server.may_end.wait(5)
    handler.close_connection = True
    return True


def trickling(handler, first, last):
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {first}-{last}/99999999")
    handler.send_header("Content-Length", str(last + 1 - first))
    handler.end_headers()
    while not handler.server.may_end.wait(0.05):
        handler.wfile.write(b"x")
    return True


UPLOAD_BOTH = "is cut off or not that of this manifest: upload both again"
PLACE = r"http://127\.0\.0\.1:\d+/shard-00000\.tar/s0/flac\.flac \(utterance s0/flac\)"
PERMANENT = {
    "whole file": (
        whole_file,
        rf"server must answer with the range .*got the whole file in {PLACE}.*knows HTTP ranges",
    ),
    "outside": (status(416), rf"must lie inside its shard, got status 416 for bytes .* in {PLACE}.*{UPLOAD_BOTH}"),
    "forbidden": (status(403), rf"shard must be readable, got status 403 for {PLACE}\. Check the URL and who may read"),
    "moved": (
        status(302, Location="http://169.254.169.254/x"),
        rf"root URL must be where the shards are, got status 302 that leads to 'http://169.*' in {PLACE}. Name that",
    ),
    "moved nowhere": (status(301), "status 301 that leads to 'nowhere'"),
    "other bytes": (
        partial(bytes, shift=512),
        rf"server must send bytes 512-\d+, got 'bytes 1024-\d+/9+' in {PLACE}.*{UPLOAD_BOTH}",
    ),
    "no range named": (status(206), rf"server must send bytes 512-\d+, got '' in {PLACE}"),
    "too much": (
        partial(lambda length: bytes(length + 1)),
        rf"server must send [\d,]+ bytes, got more in {PLACE}. Do not use",
    ),
    "other content": (partial(bytes), rf"shard must hold the recording at byte 1,024, got something else in {PLACE}"),
}


@pytest.mark.parametrize("kind", PERMANENT)
def test_an_answer_that_cannot_be_right_is_refused_at_once(server, packed, kind):
    server.fault, message = PERMANENT[kind]
    recording = named(remote(server, packed), "s0/flac")
    server.fault, recording = server.fault, moved_to(recording, byte_offset=1024)
    with pytest.raises(AudioError, match=message):
        read_audio(recording)
    assert len(server.requests) == 1


def moved_to(recording, **changes):
    fields = {name: getattr(recording, name) for name in RemoteRecording.__slots__}
    return RemoteRecording(**(fields | changes))


PASSING = {
    "server error": (status(503), r"got status 503 in"),
    "too many requests": (status(429), r"got status 429 in"),
    "truncated": (partial(lambda _: bytes(100), length=lambda n: n), r"got no whole answer \(.*IncompleteRead.*\) in"),
    "too short": (partial(lambda _: bytes(100)), r"got 100 of [\d,]+ bytes in"),
    "silent": (silent, r"got no whole answer (in 0\.3 s|\(.*Read timed out.*\)) in"),
    "trickling": (trickling, r"got (no whole answer in 0\.3 s|\d+ of [\d,]+ bytes in time) in"),
}


@pytest.mark.parametrize("kind", PASSING)
def test_trouble_that_may_pass_is_tried_again_and_then_named(server, packed, kind):
    server.fault, message = PASSING[kind]
    patience = BRIEF if server.fault in (silent, trickling) else PATIENT
    recording = named(remote(server, packed, patience), "s0/flac")
    whole = (
        rf"must be fetched within 2 attempts, {message} {PLACE}\. Check the network and the server, then start again"
    )
    with pytest.raises(AudioError, match=whole):
        read_audio(recording)
    assert len(server.requests) == 2


@pytest.mark.parametrize("kind", ["server error", "truncated"])
def test_a_second_attempt_that_succeeds_is_as_good_as_a_first(server, packed, kind):
    fault, _ = PASSING[kind]
    server.fault = lambda *request: len(server.requests) == 1 and fault(*request)
    waveform = read_audio(named(remote(server, packed), "s0/flac"))
    assert len(server.requests) == 2
    server.fault = None
    np.testing.assert_array_equal(waveform, read_audio(named(packed, "s0/flac")))


def test_an_answer_without_end_is_cut_off(server, packed):
    sent = []

    def endless(handler, first, last):
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{last}/99999999")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        sent.extend(handler.wfile.write(bytes(2**20)) for _ in range(1_000))
        return True

    server.fault = endless
    with pytest.raises(AudioError, match="bytes, got more in"):
        read_audio(named(remote(server, packed), "s0/flac"))
    assert len(sent) < 100


def test_a_server_that_is_not_there_is_named(packed, free_port):
    recording = Manifest(packed.table, root=RemoteRoot(f"http://127.0.0.1:{free_port}", PATIENT))[0].path
    with pytest.raises(AudioError, match=r"within 2 attempts, got no whole answer \(.*refused.*/shard-00000\.tar"):
        read_audio(recording)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_missing_shard_is_named_also_by_a_worker(server, packed, tmp_path, num_workers):
    server.folder = tmp_path
    others = multiprocessing.active_children()
    message = r"shard must be there, got status 404 for http.*/shard-0.*\(utterance s\d/.*\)\. Put the shards below"
    with pytest.raises(FileNotFoundError, match=message):
        batches(remote(server, packed), num_workers=num_workers)
    assert multiprocessing.active_children() == others


def test_an_error_in_the_middle_of_a_long_recording_is_raised_instead_of_less_speech(server, packed):
    for name, offset in (("s3/long", 0.0), ("s3/long", 100.0)):
        server.requests.clear()
        server.fault = lambda handler, first, last: len(server.requests) > 2 and status(403)(handler, first, last)
        with pytest.raises(AudioError, match=r"shard must be readable, got status 403 for .*utterance s3/long"):
            read_audio(named(remote(server, packed), name), offset_seconds=offset)
        assert len(server.requests) == 3


# ----- what a user and a manifest may name


@pytest.mark.parametrize(
    "url",
    ["https://", "https:///corpus", "http://h:port/x", "http://[::1/x", "https://h/x?token=1", "https://h/x#y",
     "https://h/a b", "filecache::s3://bucket/x", "HTTPS://h/x"],
)  # fmt: skip
def test_a_root_that_is_no_plain_url_is_refused(url):
    with pytest.raises(ValueError, match=r"root URL must read like https://.*without \? or #, got '"):
        RemoteRoot(url)


@pytest.mark.parametrize("url", ["https://user:secret@h/x", "https://token@h/x", "sftp://user:secret@h/x"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match=r"root URL must hold no credentials, .* got some for h") as caught:
        RemoteRoot(url)
    assert "secret" not in str(caught.value)
    assert "token" not in str(caught.value)


def test_a_scheme_that_nothing_reads_is_refused():
    with pytest.raises(ValueError, match=r"or one that fsspec has a driver for, like s3:// or gs://, got nothing://"):
        RemoteRoot("nothing://x/y")


@pytest.mark.parametrize(("url", "package"), [("https://h/x", "urllib3"), ("memory://x", "fsspec")])
def test_a_package_that_is_missing_is_named(url, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ChnsError, match=rf"need the package {package}, got none\. .*pip install 'chns\[remote\]'"):
        RemoteRoot(url)


def test_a_driver_that_is_missing_is_named(monkeypatch):
    def missing(scheme):
        raise ImportError(f"Install {scheme}fs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(ChnsError, match=r"below s3:// need fsspec's driver for it, got none \(Install s3fs\)"):
        RemoteRoot("s3://bucket/corpus")


def test_a_manifest_of_plain_files_must_be_packed_first(packed, tmp_path):
    root = RemoteRoot("https://bucket.example/corpus")
    plain = packed.table.drop_columns(["byte_offset", "byte_length"])
    message = r"must be in packed shards, got '{}.*' with the root https://bucket.example/corpus in .*`chns pack`"
    with pytest.raises(ManifestError, match=message.format("shard")):
        Manifest(plain, root=root)
    rows = packed.table.to_pylist()
    rows[1] |= {"path": "x.flac", "byte_offset": None, "byte_length": None}
    with pytest.raises(ManifestError, match=message.format("x.flac")):
        Manifest.from_rows(rows, root=root)
    Manifest(plain, root=tmp_path).write(tmp_path / "plain.parquet")
    with pytest.raises(ManifestError, match=message.format("shard")):
        Manifest.read(tmp_path / "plain.parquet", root=str(root))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://evil.example/shard.tar/x.flac", "path must be relative to the root .*, got the URL 'https://evil"),
        ("../shard.tar/x.flac", "path must be relative and stay inside the root"),
        ("/etc/shard.tar/x.flac", "path must be relative and stay inside the root"),
        ("a\\..\\shard.tar/x.flac", "path must be relative and stay inside the root"),
    ],
)
def test_a_path_that_leaves_the_root_is_refused(packed, path, message):
    rows = packed.table.to_pylist()
    rows[0]["path"] = path
    with pytest.raises(ManifestError, match=message):
        Manifest.from_rows(rows, root=RemoteRoot("https://bucket.example/corpus"))


def test_a_path_is_a_name_below_the_root_whatever_it_looks_like(server, tmp_path):
    server.reset(tmp_path)
    root = RemoteRoot(f"{url_of(server)}/corpus/", PATIENT)
    for path in ("%2e%2e/a.tar", "a?b#c.tar", "@evil.example/a.tar", "//evil.example/a.tar"):
        with pytest.raises(FileNotFoundError):
            root.fetch(path, 0, 1, place="here")
        assert server.requests[-1][0] == f"corpus/{path}"


def test_no_url_is_taken_from_a_manifest(packed, tmp_path):
    table = packed.table.replace_schema_metadata({b"chns.root": b"https://evil.example/corpus"})
    pa.parquet.write_table(table, tmp_path / "m.parquet")
    assert Manifest.read(tmp_path / "m.parquet").root == tmp_path / "https:/evil.example/corpus"


@pytest.mark.parametrize(("offset", "length"), [(511, 10), (512, 0), (512, 2**33), (512, 2**62)])
def test_an_impossible_place_is_refused_before_anything_is_asked_for(server, offset, length):
    recording = RemoteRecording(RemoteRoot(url_of(server)), "a.tar", "x.wav", offset, length, "x")
    with pytest.raises(AudioError, match="recording must lie behind a tar header and have 1 byte to 8 GiB, got"):
        read_audio(recording)
    assert server.requests == []


def test_what_needs_files_says_so(server, packed, tmp_path):
    far = remote(server, packed)
    with pytest.raises(ManifestError, match=r"root must be a folder here, got the URL http://127.*Copy the shards"):
        far.write(tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="root must be a folder here"):
        Manifest.merge([far, packed], prefixes=["a", "b"])
    with pytest.raises(ManifestError, match=r"to be packed must be in files or local shards, got http://127.*s0/flac"):
        pack_shards(far, tmp_path / "out")
    assert far.take([1, 0]).location == far.location
    with pytest.raises(ManifestError, match="root must be a folder here"):
        _ = far.root


def test_manifests_below_one_url_merge_and_below_two_do_not(server, packed):
    far = remote(server, packed)
    merged = Manifest.merge([far, far], prefixes=["a", "b"])
    assert merged.location == far.location
    assert merged.column("path") == far.column("path") * 2
    other = Manifest(packed.table, root=RemoteRoot("https://bucket.example/corpus"))
    with pytest.raises(ManifestError, match="root must be a folder here, got the URL http"):
        Manifest.merge([far, other], prefixes=["a", "b"])


def test_a_place_can_be_sent_to_another_process(server, packed):
    place = remote(server, packed)[0].path
    assert pickle.loads(pickle.dumps(place)) == place


# ----- through fsspec


@pytest.fixture
def memory(packed):
    """The shards in fsspec's memory, below a bucket."""
    storage = fsspec.filesystem("memory")
    for shard in packed.root.glob("*.tar"):
        storage.pipe_file(f"/bucket/corpus/{shard.name}", shard.read_bytes())
    yield storage
    storage.rm("/bucket", recursive=True)


def test_recordings_through_a_driver_are_those_of_local_shards(memory, packed):
    far = Manifest(packed.table, root=RemoteRoot("memory://bucket/corpus/"))
    for near, other in zip(packed, far, strict=True):
        part = {"offset_seconds": near.offset_seconds, "duration_seconds": near.duration_seconds}
        np.testing.assert_array_equal(read_audio(other.path, **part), read_audio(near.path, **part))
    assert_same_batches(batches(packed), batches(far))


def test_what_a_driver_fails_at_is_named(memory, packed, monkeypatch):
    recording = named(Manifest(packed.table, root=RemoteRoot("memory://bucket/corpus")), "s0/flac")
    place = r"memory://bucket/corpus/shard-00000\.tar/s0/flac\.flac \(utterance s0/flac\)"
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: b"short")
    with pytest.raises(AudioError, match=rf"storage must send [\d,]+ bytes, got 5 in {place}.*{UPLOAD_BOTH}"):
        read_audio(recording)

    def refuse(*_, **__):
        raise PermissionError("who\nare you")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse)
    with pytest.raises(AudioError, match=rf"got an error for {place} \(PermissionError: who are you\)\. Check the URL"):
        read_audio(recording)
    monkeypatch.undo()
    memory.rm("/bucket/corpus/shard-00000.tar")
    with pytest.raises(FileNotFoundError, match=rf"shard must be there, got none for {place}\. Put the shards below"):
        read_audio(recording)
    memory.pipe_file("/bucket/corpus/shard-00000.tar", b"")

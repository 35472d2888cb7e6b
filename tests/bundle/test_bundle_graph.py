"""A bundle's graph: the model without torch, of these weights and no others, and harmless whoever made it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small_models import SHALLOW_ECAPA, lived_in

from chns.bundle import bundle_graph
from chns.bundle import graph as untrusted_graph
from chns.bundle.bundle import Architecture, load_bundle, save_bundle
from chns.bundle.bundle_graph import ExportError, GraphBundle, add_graph, add_graph_if_possible, load_graph_bundle
from chns.bundle.graph import read_untrusted_graph
from chns.cli import main
from chns.core import ChnsError, ModelFileError
from chns.data.audio import write_audio
from chns.inference.verifier import Verifier
from chns.store.voiceprints import VoiceprintStore

THIN = Architecture(
    encoder="chns.encoders.ThinResNet",
    encoder_settings={"channels": [8, 8, 16, 16], "blocks": [1, 1, 1, 1], "embedding_dim": 16},
    features="chns.features.DecibelMel",
)
METRICS = {"validation": {"eer": 0.1, "threshold": 0.5}}
RATE = 16_000


def speech_like(seed, seconds):
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * seed + 20 * np.sin(2 * np.pi * 3 * times)) / RATE
    harmonics = sum(np.sin(number * phase) / number for number in range(1, 15))
    return (0.1 * harmonics + 0.01 * rng.normal(size=len(times))).astype(np.float32)


def with_graph(folder, architecture):
    save_bundle(folder, lived_in(architecture), architecture, training={}, metrics=METRICS)
    add_graph(folder, load_bundle(folder).model)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return with_graph(tmp_path_factory.mktemp("made") / "model", SHALLOW_ECAPA)


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "model")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    paths = []
    for seed, seconds in enumerate([0.1, 0.5, 1.37, 3, 29.9, 41]):
        paths.append(folder / f"{seed}.flac")
        write_audio(paths[-1], speech_like(seed, seconds), sample_rate_hz=RATE)
    return paths


def described(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def graph_of(*nodes, weights=(), opset=18, **model):
    """Waveforms to embeddings through these nodes, as bytes."""
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", axis])
        for name, axis in (("waveforms", "samples"), ("embeddings", "dim"))
    )
    graph = helper.make_graph(list(nodes), "graph", [given], [made], list(weights))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("strange", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **model)


IDENTITY = helper.make_node("Identity", ["waveforms"], ["embeddings"])


def external(name="w"):
    tensor = numpy_helper.from_array(np.ones((1, 4), np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(SHALLOW_ECAPA, id="ecapa"), pytest.param(THIN, id="thin-resnet", marks=pytest.mark.slow)],
)
def test_graph_and_torch_give_the_same_embeddings_and_scores_for_any_length(architecture, made, tmp_path, recordings):
    folder = made if architecture is SHALLOW_ECAPA else with_graph(tmp_path / "thin", architecture)
    graph, network = (Verifier.load(folder, backend=backend) for backend in ("onnx", "torch"))
    usable = recordings if architecture is SHALLOW_ECAPA else recordings[1:]  # three stages halve the frames
    one, other = (verifier.embed_files(usable).embeddings for verifier in (graph, network))
    assert list(one) == usable
    for path in usable:
        assert one[path].vector @ other[path].vector > 1 - 1e-5
        assert one[path].magnitude == pytest.approx(other[path].magnitude, rel=1e-3)
        scores = [verifier.verify(path, usable[2]).score for verifier in (graph, network)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert (graph.model_digest, graph.dim, graph.threshold) == (network.model_digest, network.dim, network.threshold)


def test_a_batch_of_the_graph_gives_what_each_utterance_does(made):
    run = load_graph_bundle(made).run
    batch = np.stack([speech_like(seed, 1) for seed in range(3)])
    np.testing.assert_allclose(run(batch), np.concatenate([run(row[None]) for row in batch]), rtol=1e-4, atol=1e-5)


def test_the_backend_is_the_graph_if_there_is_one(made, tmp_path, monkeypatch):
    monkeypatch.setattr("chns.inference.verifier.load_bundle", lambda *_, **__: pytest.fail("weights were loaded"))
    Verifier.load(made)
    monkeypatch.undo()
    monkeypatch.setattr("chns.inference.verifier.load_graph_bundle", lambda *_: pytest.fail("the graph was loaded"))
    Verifier.load(made, backend="torch")
    monkeypatch.undo()
    bare = shutil.copytree(made, tmp_path / "bare", ignore=shutil.ignore_patterns("model.onnx"))
    assert Verifier.load(bare).model_digest == load_bundle(made).digest
    with pytest.raises(ValueError, match=r"model must have a graph for the backend onnx, got none in .*--into-bundle"):
        Verifier.load(bare, backend="onnx")
    with pytest.raises(ValueError, match="backend must be one of auto, onnx, torch, got 'tflite'"):
        Verifier.load(made, backend="tflite")
    with pytest.raises(ValueError, match="device must be cpu for a graph, got 'cuda'"):
        Verifier.load(made, backend="onnx", device="cuda")


def test_a_graph_of_other_weights_is_refused(bundle, tmp_path):
    other = tmp_path / "other"
    torch.manual_seed(1)
    save_bundle(other, SHALLOW_ECAPA.build(), SHALLOW_ECAPA, training={}, metrics={})
    shutil.copy(bundle / "model.onnx", other)
    assert load_graph_bundle(other) is None  # nothing says that it has one
    described(other, graph=json.loads((bundle / "config.json").read_text())["graph"])
    with pytest.raises(ModelFileError, match=r"graph must be of the bundle's weights_sha256, .* Write it anew with"):
        load_graph_bundle(other)


def test_a_changed_graph_is_refused(bundle):
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"graph must have the digest that config\.json states, got another"):
        Verifier.load(bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": [1]}, r"graph must be described by its sha256, got \[1\]"),
        ({"graph": {"sha256": "0"}}, "frame_samples must be an integer between 1 and 2048, got None"),
        ({"graph": {"sha256": "0", "frame_samples": 10**9}}, "frame_samples must be an integer .* got 1000000000"),
        ({"sample_rate_hz": 10**9}, "sample_rate_hz must be an integer between 4000 and 48000, got 1000000000"),
    ],
)
def test_a_description_of_the_graph_that_is_none_is_refused(bundle, changes, message):
    described(bundle, **changes)
    with pytest.raises(ModelFileError, match=message):
        load_graph_bundle(bundle)


def test_a_graph_of_another_rate_is_refused(bundle):
    described(bundle, sample_rate_hz=8_000)
    with pytest.raises(ModelFileError, match="graph must be of the bundle's sample_rate_hz, 8000, got 16000"):
        load_graph_bundle(bundle)


def test_a_graph_that_is_too_large_is_not_read(bundle, monkeypatch):
    monkeypatch.setattr(bundle_graph, "LARGEST_GRAPH_BYTES", 1_000)
    with pytest.raises(ModelFileError, match="graph must be at most 1,000 bytes, got more"):
        load_graph_bundle(bundle)
    monkeypatch.setattr(untrusted_graph, "LARGEST_GRAPH_BYTES", 1_000)
    with pytest.raises(ModelFileError, match="graph must be at most 1,000 bytes, got more in m"):
        read_untrusted_graph(bytes(1_001), source="m")


def branch():
    then = helper.make_graph([], "then", [], [helper.make_tensor_value_info("waveforms", TensorProto.FLOAT, None)])
    return helper.make_node("If", ["yes"], ["embeddings"], then_branch=then, else_branch=then)


def sparse():
    ones = numpy_helper.from_array(np.ones(1, np.float32))
    tensor = helper.make_sparse_tensor(ones, numpy_helper.from_array(np.zeros(1, np.int64)), [2**40])
    return helper.make_node("Constant", [], ["s"], sparse_value=tensor)


def with_sparse_weight():
    model = graph_of(IDENTITY)
    model.graph.sparse_initializer.append(sparse().attribute[0].sparse_tensor)
    return model


FUNCTION = helper.make_function("strange", "F", ["a"], ["b"], [IDENTITY], [helper.make_opsetid("", 18)])
HOSTILE = {
    "external weights": (graph_of(IDENTITY, weights=[external()]), "hold all its weights, got some in another file"),
    "an external constant": (
        graph_of(helper.make_node("Constant", [], ["c"], value=external("")), IDENTITY),
        "hold all its weights, got some in another file",
    ),
    "a custom operator": (
        graph_of(helper.make_node("Shell", ["waveforms"], ["embeddings"], domain="strange")),
        "use standard operators only, got one of b'strange'",
    ),
    "one of Microsoft's": (
        graph_of(helper.make_node("FusedConv", ["waveforms"], ["embeddings"], domain="com.microsoft")),
        "use standard operators only, got one of b'com.microsoft'",
    ),
    "a function": (graph_of(IDENTITY, functions=[FUNCTION]), "hold no functions or training graphs, got one"),
    "a branch": (graph_of(branch()), "have no loops or branches, got 'If'"),
    "a sparse constant": (graph_of(sparse(), IDENTITY), "hold no sparse tensors, got one"),
    "a sparse weight": (with_sparse_weight(), "hold no sparse tensors, got one"),
    "an old opset": (graph_of(IDENTITY, opset=1), "be of one opset from 13 to 24, got 1"),
    "an absurd opset": (graph_of(IDENTITY, opset=10**6), "be of one opset from 13 to 24, got 1000000"),
    "many nodes": (graph_of(*[IDENTITY] * 20_001), "have at most 20,000 nodes, got 20,001"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_graph_is_refused_before_onnxruntime_sees_it(case, monkeypatch):
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("it was loaded"))
    model, rule = HOSTILE[case]
    with pytest.raises(ModelFileError, match=f"graph must {rule} in m"):
        read_untrusted_graph(model.SerializeToString(), source="m")


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"{}", b"\x3a\xff\xff\xff\xff\x0f", b"\x38\x01", b"\x0b"])
def test_what_is_no_onnx_file_is_refused(content):
    with pytest.raises(ModelFileError, match=r"graph must be (an ONNX file|of one opset)"):
        read_untrusted_graph(content, source="m")


def test_a_file_of_endless_fields_is_given_up(monkeypatch):
    monkeypatch.setattr(untrusted_graph, "_MOST_FIELDS", 1_000)
    with pytest.raises(ModelFileError, match="one of too many parts: m"):
        read_untrusted_graph(b"\x08\x01" * 1_001, source="m")


def test_what_onnxruntime_cannot_run_is_an_error_of_the_model_file():
    node = helper.make_node("Nonsense", ["waveforms"], ["embeddings"])
    with pytest.raises(ModelFileError, match=r"graph must be one that onnxruntime .* can run, got an error in m"):
        read_untrusted_graph(graph_of(node).SerializeToString(), source="m")


def test_a_graph_of_other_inputs_is_refused():
    model = graph_of(IDENTITY)
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    with pytest.raises(ModelFileError, match=r"graph must take waveforms \(batch, samples\) and give embeddings"):
        read_untrusted_graph(model.SerializeToString(), source="m")


ALLOCATING = """
try:
    run(np.zeros((1, 16_000), np.float32))
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand"])
def test_a_gigantic_allocation_fails_without_being_made(tmp_path, memory_of, operator):
    size = numpy_helper.from_array(np.array([3_000_000_000, 1], np.int64), "size")
    given = ["size"] if operator == "ConstantOfShape" else ["waveforms", "size"]
    nodes = [helper.make_node(operator, given, ["big"]), helper.make_node("Add", ["waveforms", "big"], ["embeddings"])]
    (tmp_path / "m.onnx").write_bytes(graph_of(*nodes, weights=[size]).SerializeToString())
    loaded = "import numpy as np\nfrom chns.bundle.graph import read_untrusted_graph\n"
    loaded += "run = read_untrusted_graph(path.read_bytes(), source='m').run"
    growth = memory_of(ALLOCATING, path=tmp_path / "m.onnx", before=loaded)
    assert growth.held < 200
    assert "vailable memory" in growth.printed or "allocate" in growth.printed


def test_a_run_that_fails_is_an_error_of_the_model_file(made):
    def fail(waveforms):
        raise RuntimeError("no memory")

    verifier = Verifier(GraphBundle(fail, RATE, 400, "d", METRICS))
    with pytest.raises(ModelFileError, match=r"model must be able to embed 16000 samples, got an error \(no memory\)"):
        verifier.embed(speech_like(0, 1), RATE)
    verifier = Verifier(GraphBundle(lambda _: np.zeros((3, 4), np.float32), RATE, 400, "d", METRICS))
    with pytest.raises(ModelFileError, match=r"model must give one embedding a recording, got .* \(3, 4\)"):
        verifier.embed(speech_like(0, 1), RATE)


def test_a_graph_that_computes_something_else_leaves_the_bundle_as_it_was(bundle, monkeypatch):
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    other = SHALLOW_ECAPA.build().eval()
    monkeypatch.setattr(bundle_graph, "model_graph", lambda _: lambda x: other(torch.from_numpy(x)).detach().numpy())
    with pytest.raises(ExportError, match="cosine distance of the exported graph to the model must be below"):
        add_graph(bundle, load_bundle(bundle).model)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_the_graph_of_another_model_is_not_put_into_a_bundle(bundle):
    with pytest.raises(ModelFileError, match="weights must be those that the graph was made from, got others"):
        add_graph(bundle, SHALLOW_ECAPA.build())


def test_missing_packages_end_in_a_warning_and_a_bundle_without_graph(tmp_path, monkeypatch, caplog):
    save_bundle(tmp_path / "m", SHALLOW_ECAPA.build(), SHALLOW_ECAPA, training={}, metrics={})
    monkeypatch.setattr("chns.bundle.bundle_graph.add_graph", add_graph)
    monkeypatch.setattr("chns.bundle.bundle_graph.find_spec", lambda name: None if name == "onnxscript" else name)
    add_graph_if_possible(tmp_path / "m", load_bundle(tmp_path / "m").model)
    (said,) = caplog.messages
    assert "m gets no graph, so that using it takes torch: onnxscript must be installed for ONNX" in said
    assert f"`chns export {tmp_path / 'm'} --into-bundle` writes one." in said
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]


def test_an_exporter_of_unsuitable_versions_is_an_error_of_one_line(bundle, monkeypatch):
    def fail(*_, **__):
        raise AttributeError("module 'onnxscript' has no attribute 'values'")

    monkeypatch.setattr(bundle_graph, "_exported", fail)
    with pytest.raises(ChnsError, match=r"installed versions can write as ONNX.*'values'.* with torch \d.*onnxscript"):
        add_graph(bundle, load_bundle(bundle).model)


def test_the_command_replaces_the_graph_of_the_bundle_and_keeps_what_was_known(bundle, capsys, monkeypatch):
    before = json.loads((bundle / "config.json").read_text())
    (bundle / "model.onnx").write_bytes(b"another")
    monkeypatch.setattr("chns.bundle.bundle_graph.add_graph", add_graph)
    assert main(["export", str(bundle), "--into-bundle", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["distance"] < 1e-5
    after = json.loads((bundle / "config.json").read_text())
    assert {**before, "graph": None} == {**after, "graph": None}
    assert sorted(path.name for path in bundle.iterdir()) == ["config.json", "model.onnx", "model.safetensors"]
    assert Verifier.load(bundle, backend="onnx").dim == 16
    file = onnx.load(bundle / "model.onnx")
    assert {entry.key: entry.value for entry in file.metadata_props}["weights_sha256"] == before["weights_sha256"]
    for words in (["--into-bundle", "--format", "onnx", "--out", "m.onnx"], [], ["--format", "onnx"]):
        assert main(["export", str(bundle), *words]) == 2
        assert "either --format and --out must be given, or --into-bundle" in capsys.readouterr().err


WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

BLOCKED = {"torch", "scipy", "pyarrow", "lightning_fabric", "lightning", "jsonargparse", "faiss", "yaml"}
sys.meta_path.insert(0, Blocked())
from chns.cli import main
code = main(sys.argv[1:])
assert not BLOCKED & {name.partition(".")[0] for name in sys.modules}, sorted(sys.modules)
sys.exit(code)
"""


def without_torch(*words):
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.slow
def test_verify_enrol_and_identify_run_without_torch(made, recordings, tmp_path):
    one, other = recordings[3:5]
    verified = without_torch("verify", made, one, one, "--json")
    assert (verified.returncode, verified.stderr) == (0, "")
    assert json.loads(verified.stdout)["score"] == pytest.approx(1)
    different = without_torch("verify", made, one, other, "--threshold", "1", "--json")
    assert different.returncode == 1
    expected = Verifier.load(made, backend="torch").verify(one, other).score
    assert json.loads(different.stdout)["score"] == pytest.approx(expected, abs=1e-4)
    store = tmp_path / "people.store"
    for name, file in (("anna", one), ("bert", other)):
        enrolled = without_torch("enrol", made, store, name, file)
        assert (enrolled.returncode, enrolled.stderr) == (0, "")
    identified = without_torch("identify", made, store, other, "--json")
    assert json.loads(identified.stdout)["identified"] == "bert"
    with VoiceprintStore.open_existing(store) as opened:
        assert opened.names() == ["anna", "bert"]
    asked_for = without_torch("verify", made, one, other, "--backend", "torch")
    assert asked_for.returncode == 2
    assert (
        "must be installed for `chns verify`, got no such package. Run `pip install 'chns[train]'`." in asked_for.stderr
    )

"""Commands that pass a model on: ``export``, ``import`` and ``push``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chns.cli import command_parser
from chns.cli.options import add_trust_option

if TYPE_CHECKING:
    from chns.bundle import Bundle, Graph
    from chns.core import Float32Array
    from chns.data import Manifest
    from chns.evaluation import Trials

_EXPORT_EXAMPLES = """  chns export runs/chns/model --format onnx --out model.onnx --check a.wav b.wav
  chns export runs/chns/model --format torch-export --out model.pt2
  chns export runs/chns/model --into-bundle
  chns export runs/chns/model --format onnx --out model.onnx --int8 --manifest test.parquet --trials trials.txt
  chns export runs/chns/model --format sherpa-onnx --out speaker.onnx --check a.wav

formats:
  onnx (FILE.onnx), torch-export (.pt2)
                 waveforms (batch, samples) in [-1, 1] to embeddings (batch, dim)
  sherpa-onnx (FILE.onnx)
                 the 80 mels that sherpa-onnx computes, to embeddings
The file is loaded again and compared with the model before it gets its name; if a cosine distance reaches 1e-4 there is
no file, and the exit code is 2. --int8 writes a second file beside it, model.int8.onnx."""


def export_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("export", examples=_EXPORT_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model: a folder, or hf://owner/name")
    parser.add_argument("--format", choices=["onnx", "torch-export", "sherpa-onnx"], help="see below")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the graph goes")
    parser.add_argument(
        "--into-bundle", action="store_true", help="put the graph that makes torch needless into the model's own folder"
    )
    parser.add_argument("--int8", action="store_true", help="also write the ONNX file with 8-bit weights")
    parser.add_argument(
        "--check",
        type=Path,
        nargs="+",
        default=[],
        metavar="AUDIO",
        help="recordings to compare on (default: a built-in synthetic signal)",
    )
    parser.add_argument("--trials", type=Path, metavar="TRIALS", help="also compare error rates on this trial list")
    parser.add_argument("--manifest", type=Path, metavar="M.parquet", help="where the utterances of the trials are")
    add_trust_option(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run_export(arguments: argparse.Namespace) -> None:
    """Export, check, quantise and measure, and print what came out."""
    if (arguments.trials is None) != (arguments.manifest is None):
        raise ValueError("--trials and --manifest must be given together, got only one of them.")
    if arguments.int8 and not arguments.format.endswith("onnx"):
        raise ValueError(f"--int8 must go with an ONNX format, got --format {arguments.format}.")

    if [arguments.format is None, arguments.out is None] != [arguments.into_bundle] * 2:
        raise ValueError("either --format and --out must be given, or --into-bundle, got neither or both.")

    from chns.bundle import built_in_signal, load_bundle
    from chns.inference import check_recordings

    bundle = load_bundle(arguments.model, trusted_packages=arguments.trust)
    if arguments.into_bundle:
        _write_into_bundle(arguments, bundle)
        return
    check = check_recordings(arguments.check, bundle.model) if arguments.check else built_in_signal(bundle.model)
    summary: dict[str, Any] = {
        "model": arguments.model,
        "weights_sha256": bundle.digest,
        "format": arguments.format,
        "checked_on": [str(path) for path in arguments.check] or "built-in synthetic signal",
    }
    measured_on = _labelled_trials(arguments)
    graphs = _export(arguments, bundle, check, summary)
    if measured_on is not None:
        summary["trials"] = _error_rates(bundle, graphs, *measured_on)
    print(json.dumps(summary) if arguments.json else _export_in_words(summary))


def _write_into_bundle(arguments: argparse.Namespace, bundle: Bundle) -> None:
    from chns.bundle import GRAPH_FILE, add_graph, require_local

    require_local(arguments.model)
    distance = add_graph(Path(arguments.model), bundle.model)
    path = Path(arguments.model) / GRAPH_FILE
    summary = {"model": arguments.model, "weights_sha256": bundle.digest, "graph": str(path), "distance": distance}
    text = f"{path}: {path.stat().st_size / 1e6:.2f} MB, cosine distance at most {distance:.1e}"
    print(json.dumps(summary) if arguments.json else text)


def _export(
    arguments: argparse.Namespace, bundle: Bundle, check: list[Float32Array], summary: dict[str, Any]
) -> dict[str, Graph]:
    """Write the files, describe them in the summary, and give back the graphs by name, the model's first."""
    from chns.bundle import model_graph
    from chns.inference import FORMS, export_for_sherpa, export_int8, export_model, sherpa_graph

    def load(path: Path) -> Graph:
        if arguments.format == "sherpa-onnx":
            return sherpa_graph(path, bundle.model.sample_rate_hz)
        return FORMS[arguments.format].load(path)

    if arguments.format == "sherpa-onnx":
        comment = f"chns {bundle.digest[:16]}"
        exported, front_end = export_for_sherpa(
            bundle.model, bundle.architecture, arguments.out, check=check, comment=comment
        )
        summary["distance_to_own_features"] = front_end
    else:
        exported = export_model(bundle.model, arguments.out, form=arguments.format, check=check)
    files = {arguments.format: exported}
    graphs = {"PyTorch": model_graph(bundle.model), arguments.format: load(exported.path)}
    if arguments.int8:
        path = arguments.out.with_suffix(f".int8{arguments.out.suffix}")
        files["int8"] = export_int8(arguments.out, path, load=load, check=check)
        graphs["int8"] = load(path)
    summary["files"] = {name: {**vars(file), "path": str(file.path)} for name, file in files.items()}
    return graphs


def _labelled_trials(arguments: argparse.Namespace) -> tuple[Trials, Manifest] | None:
    """Read before anything is written, so that a mistake in them is known at once."""
    from chns.data import Manifest
    from chns.evaluation import read_trials

    if arguments.trials is None:
        return None
    trials = read_trials(arguments.trials)
    if trials.is_target is None:
        raise ValueError(f"--trials must have labels to compare error rates, got none in {arguments.trials}.")
    return trials, Manifest.read(arguments.manifest)


def _error_rates(bundle: Bundle, graphs: dict[str, Graph], trials: Trials, manifest: Manifest) -> dict[str, Any]:
    from chns.evaluation import resolve
    from chns.inference import evaluate_graphs

    assert trials.is_target is not None
    enrolment, test = resolve(trials, manifest)
    results = evaluate_graphs(graphs, bundle.model, manifest, enrolment, test, trials.is_target)
    return {
        name: {**result.metrics.to_json(), "real_time_factor": result.real_time_factor}
        for name, result in results.items()
    }


def _export_in_words(summary: dict[str, Any]) -> str:
    checked_on = summary["checked_on"]
    lines = [f"checked on: {checked_on if isinstance(checked_on, str) else f'{len(checked_on)} recordings'}"]
    for name, file in summary["files"].items():
        opset = f", opset {file['opset']}" if file["opset"] else ""
        size = f"{file['num_bytes'] / 1e6:.2f} MB{opset}"
        lines.append(f"{file['path']}: {name}, {size}, cosine distance at most {file['distance']:.1e}")
    if "distance_to_own_features" in summary:
        distance = summary["distance_to_own_features"]
        lines.append(f"with sherpa-onnx's features instead of the model's own: cosine distance at most {distance:.1e}")
    for name, rates in summary.get("trials", {}).items():
        costs = ", ".join(f"minDCF (p_target {p}) {cost:.4f}" for p, cost in rates["min_dcf"].items())
        lines.append(
            f"{name:<12} EER {100 * rates['eer']:.2f} %, {costs}, real-time factor {rates['real_time_factor']:.4f}"
        )
    return "\n".join(lines)


_IMPORT_EXAMPLES = """  chns import hf://speechbrain/spkrec-ecapa-voxceleb --out models/ecapa
  chns import downloaded/folder --out models/ecapa
  chns import wespeaker-resnet34 avg_model.pt --out models/resnet34     # a state dict alone: say whose it is

then, for instance:
  chns calibrate models/ecapa dev.parquet --trials dev.txt
  chns verify models/ecapa a.wav b.wav

Only to use a model no import is needed: every command takes hf://owner/name, and the folders and files of other
toolkits. What is imported is a folder of your own, which `chns calibrate` can write into.

The toolkit need not be installed. Widths are read off the shapes; features and dilations stand in the YAML beside the
weights. With a TOOLKIT there is no YAML: they are taken to be those of its VoxCeleb recipe, and for a model trained
with others the import succeeds, but embeddings are not what the toolkit computes."""


def import_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("import", examples=_IMPORT_EXAMPLES)
    parser.add_argument(
        "toolkit",
        nargs="?",
        choices=["speechbrain", "wespeaker-ecapa", "wespeaker-resnet34", "3d-speaker-campplus"],
        help="whose model it is, for a state dict alone",
    )
    parser.add_argument("model", metavar="MODEL", help="hf://owner/name, a folder, or with TOOLKIT the file of weights")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="folder that the model goes to")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run_import(arguments: argparse.Namespace) -> None:
    """Write the bundle, and print what it is."""
    if arguments.toolkit is None:
        from chns.bundle import own_copy

        bundle = own_copy(arguments.model, arguments.out)
    else:
        from chns.bundle import import_model

        bundle = import_model(arguments.toolkit, Path(arguments.model), arguments.out)
    parameters = sum(parameter.numel() for parameter in bundle.model.parameters())
    if arguments.json:
        summary = {"model": str(arguments.out), "parameters": parameters, "weights_sha256": bundle.digest}
        print(json.dumps({**summary, **bundle.training}))
        return
    architecture = bundle.architecture
    print(f"{arguments.out}: {architecture.encoder} on {architecture.features}, {parameters / 1e6:.2f} M parameters")


_PUSH_EXAMPLES = """\
  chns push runs/chns/model me/voice --licence mit --training-data "our own recordings" --dry-run folder
  chns push runs/chns/model me/voice --licence mit --training-data "our own recordings" --private

The repository gets config.json, model.safetensors, the graph model.onnx if the model has one, and a README.md made from
them. config.json holds the settings of the training, names of files among them: look at it with --dry-run before you
publish. Log in first: `hf auth login`."""


def push_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("push", examples=_PUSH_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model's folder")
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository on the Hub; made if there is none")
    parser.add_argument(
        "--licence", required=True, metavar="ID", help="the Hub's name of it: apache-2.0, cc-by-4.0, ..."
    )
    parser.add_argument(
        "--training-data", required=True, metavar="TEXT", help="which recordings it was trained on, under which terms"
    )
    parser.add_argument("--intended-use", metavar="TEXT", help="what it is for (default: a general text)")
    parser.add_argument("--language", metavar="CODE", help="language of the training data, such as en")
    parser.add_argument("--private", action="store_true", help="a new repository is only for its owner")
    parser.add_argument(
        "--dry-run", type=Path, metavar="FOLDER", help="write what would be uploaded here, and upload nothing"
    )
    add_trust_option(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run_push(arguments: argparse.Namespace) -> None:
    """Write the repository's content, upload it unless told not to, and print where it is."""
    from chns.inference import Publication, push_to_hub, write_repository

    own_text = {} if arguments.intended_use is None else {"intended_use": arguments.intended_use}
    publication = Publication(
        licence=arguments.licence, training_data=arguments.training_data, language=arguments.language, **own_text
    )
    summary = {"repository": arguments.repository}
    if arguments.dry_run:
        write_repository(
            arguments.model,
            arguments.dry_run,
            repository=arguments.repository,
            publication=publication,
            trusted_packages=arguments.trust,
        )
        summary["folder"] = str(arguments.dry_run)
    else:
        summary["commit"] = push_to_hub(
            arguments.model,
            arguments.repository,
            publication,
            private=arguments.private,
            trusted_packages=arguments.trust,
        )
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(f"{summary['folder']}: nothing uploaded" if arguments.dry_run else summary["commit"])

"""A stand-in for the Hugging Face Hub: an HTTP server that answers what ``huggingface_hub`` asks, from memory."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote


class Repository:
    """Commits by hash, each a dictionary of files; branches and tags by name."""

    def __init__(self):
        self.commits, self.names = {}, {}
        self.is_gated = self.private = False

    def commit(self, files, name="main"):
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[sha], self.names[name] = dict(files), sha
        return sha

    def sha(self, revision):
        return self.names.get(revision, revision if revision in self.commits else None)


class HubServer:
    """The repositories, and every request that came in, as ``METHOD path``."""

    def __init__(self):
        self.repositories, self.requests, self.status = {}, [], None

    def repository(self, name):
        return self.repositories.setdefault(name, Repository())

    def fetched(self):
        """Names of the files that were downloaded."""
        return [path.rpartition("/")[2] for path in self.requests if path.startswith("GET") and "/resolve/" in path]


class Handler(BaseHTTPRequestHandler):
    """The addresses of the Hub that reading and writing one small model needs."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self):
        return self.server.hub

    def log_message(self, *words):
        pass

    def answer(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.hub.status:
            return self.answer(self.hub.status)
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/?]+)(?:\?.*)?", self.path)
        if match is not None:
            return self.list_tree(self.files(match[1], unquote(match[2]))[0])
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if match is None:
            return self.answer(404)
        files, sha = self.files(match[1], unquote(match[2]))
        if files is None:
            return None
        if self.hub.repositories[match[1]].is_gated:
            return self.answer(403, X_Error_Code="GatedRepo")
        name = unquote(match[3])
        if name not in files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        content = files[name]
        return self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=sha)

    do_HEAD = do_GET  # noqa: N815 - the base class calls it by that name

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.hub.status:
            return self.answer(self.hub.status)
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(paths-info|preupload|commit)/([^/]+)", self.path)
        files, _ = self.files(match[1], unquote(match[3]))
        if files is None:
            return None
        if match[2] == "paths-info":
            return self.list_paths(files, parse_qs(body.decode())["paths"])
        if match[2] == "preupload":
            return self.accept_all(json.loads(body)["files"])
        return self.commit(match[1], files, body)

    def files(self, name, revision):
        """The files of a commit and its hash; none if an error was answered."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            self.answer(404, X_Error_Code="RepoNotFound")
        elif repository.sha(revision) is None:
            self.answer(404, X_Error_Code="RevisionNotFound")
        else:
            return repository.commits[repository.sha(revision)], repository.sha(revision)
        return None, None

    def create(self, wish):
        name = f"{wish['organization']}/{wish['name']}" if wish.get("organization") else wish["name"]
        if name not in self.hub.repositories:
            self.hub.repository(name).private = bool(wish.get("private")) or wish.get("visibility") == "private"
            self.hub.repository(name).commit({})
        return self.answer(200, {"url": f"http://{self.headers['Host']}/{name}"})

    def list_paths(self, files, wanted):
        present = [path for path in wanted if path in files]
        return self.answer(
            200, [{"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40} for path in present]
        )

    def list_tree(self, files):
        if files is None:
            return None
        folders = {path.partition("/")[0] for path in files if "/" in path}
        entries = [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)]
        top = [path for path in files if "/" not in path]
        entries += [{"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40} for path in top]
        return self.answer(200, entries)

    def accept_all(self, files):
        modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
        return self.answer(200, {"files": modes})

    def commit(self, name, files, body):
        values = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
        added = {value["path"]: base64.b64decode(value["content"]) for value in values}
        sha = self.hub.repository(name).commit({**files, **added})
        return self.answer(200, {"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{sha}", "commitOid": sha})


@contextmanager
def running_hub():
    """The stand-in with nothing in it, at ``address`` until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = HubServer()
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield SimpleNamespace(
            hub=server.hub, address=f"http://127.0.0.1:{server.server_port}", stop=server.server_close
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A small server that speaks the part of the Hub's API that publishing and loading use, for the real client."""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import constants


TOKEN = "hf_writer"
READER_TOKEN = "hf_reader"
LFS_LIMIT = 1024  # Smaller files travel inside the commit.
PART_SIZE = 2**25  # Larger files travel in parts of this size.
KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}


class Hub(ThreadingHTTPServer):
    """Repositories in memory: `files[repo][path]`, where `repo` carries the prefix of its kind."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}  # By SHA-256.
        self.parts: dict[tuple[str, int], bytes] = {}  # Of large files that are still incomplete.
        self.uploads: list[str] = []  # Paths of what was put, in order.
        self.max_uploads: int | None = None  # Connections break off after so many.
        # By pattern of `METHOD /path`: the status of a refusal, the content of an answer, or None to break off.
        self.answers: dict[str, int | bytes | None] = {}
        self.requests: list[str] = []  # `METHOD /path`, in order.
        self.commits: list[str] = []
        self.ranges: list[tuple[str, int]] = []  # Name and bytes of each part of a file that was asked for.
        self.url = f"http://127.0.0.1:{self.server_port}"

    def head(self, repo: str) -> str:
        return hashlib.sha1(f"{repo} {len(self.commits)}".encode()).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A server on a free port, until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


@contextmanager
def connected_hub(monkeypatch) -> Iterator[Hub]:
    """A running server, and the client of this process pointed at it, with a token that may write."""
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, value, *, status=200, headers=()):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {
            "Content-Length": str(len(content)),
            "Content-Type": "application/json",
            **dict(headers),
        }.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status, code, message):
        self.reply(
            {"error": message}, status=status, headers={"X-Error-Code": code, "X-Error-Message": message}.items()
        )

    def is_answered(self) -> bool:
        """Whether the test chose the answer to this request, which is then given."""
        request = f"{self.command} {self.path}"
        self.server.requests.append(request)
        chosen = [answer for pattern, answer in self.server.answers.items() if re.search(pattern, request)]
        if not chosen:
            return False
        self.body()
        if chosen[0] is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif isinstance(chosen[0], bytes):
            self.reply(chosen[0], headers={"Content-Type": "text/html"}.items())
        else:
            self.refuse(chosen[0], "", "As the test wants it.")
        return True

    def may_write(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == TOKEN:
            return True
        if token == READER_TOKEN:
            self.refuse(403, "", "You have no right to write here.")
        else:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        return False

    def do_POST(self):
        if self.is_answered():
            return None
        path, body = urlsplit(self.path).path, self.body()
        if path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/lfs-complete/(\w+)", path):
            return self.complete(match[1], json.loads(body))
        if not self.may_write():
            return None
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if match := re.fullmatch(r"/api/(\w+)/(.+)/preupload/[^/]+", path):
            return self.preupload(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.lfs_batch(json.loads(body))
        if match := re.fullmatch(r"/api/(\w+)/(.+)/commit/[^/]+", path):
            return self.commit(KINDS[match[1]] + match[2], body)
        return self.reply({"verified": True})

    def create(self, request):
        kind = request.get("type", "model") + "s"
        owner = request.get("organization") or "me"
        repo = KINDS[kind] + f"{owner}/{request['name']}"
        if repo in self.server.files:
            url = f"{self.server.url}/{repo}"
            return self.reply({"error": "You already created this repo", "url": url}, status=409)
        self.server.files[repo] = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        return self.reply({"url": f"{self.server.url}/{repo}", "name": repo, "id": "0"})

    def preupload(self, request):
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] > LFS_LIMIT else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in request["files"]
        ]
        self.reply({"files": files})

    def lfs_batch(self, request):
        objects = [item | self.actions(item) for item in request["objects"]]
        self.reply({"transfer": "multipart" if "multipart" in request["transfers"] else "basic", "objects": objects})

    def actions(self, item):
        """Where an object goes, whole or in parts; nothing for one that is there already."""
        url, oid = self.server.url, item["oid"]
        if oid in self.server.large:
            return {}
        upload = {"href": f"{url}/lfs/{oid}", "header": {}}
        if item["size"] > PART_SIZE:
            count = -(-item["size"] // PART_SIZE)
            parts = {str(number): f"{url}/lfs-part/{oid}/{number}" for number in range(1, count + 1)}
            upload = {"href": f"{url}/lfs-complete/{oid}", "header": {"chunk_size": str(PART_SIZE), **parts}}
        return {"actions": {"upload": upload, "verify": {"href": f"{url}/lfs-verify", "header": {}}}}

    def do_PUT(self):
        if self.is_answered():
            return None
        if self.server.max_uploads is not None and len(self.server.uploads) >= self.server.max_uploads:
            self.close_connection = True
            return self.connection.close()
        content = self.body()
        self.server.uploads.append(self.path)
        if match := re.fullmatch(r"/lfs-part/(\w+)/(\d+)", self.path):
            self.server.parts[match[1], int(match[2])] = content
        else:
            self.keep(self.path.rsplit("/", 1)[1], content)
        return self.reply(b"", headers={"ETag": f'"{etag(content)}"'}.items())

    def complete(self, oid, request):
        numbers = [part["partNumber"] for part in request["parts"]]
        assert numbers == list(range(1, len(numbers) + 1))
        self.keep(oid, b"".join(self.server.parts.pop((oid, number)) for number in numbers))
        self.reply({})

    def keep(self, oid, content):
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.large[oid] = content

    def commit(self, repo, body):
        files = self.server.files[repo]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif line["key"] == "header":
                self.server.commits.append(value["summary"])
        oid = self.server.head(repo)
        url = f"{self.server.url}/{repo}/commit/{oid}"
        self.reply({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": "", "pullRequestUrl": None})

    def do_GET(self):
        if self.is_answered():
            return None
        parts = urlsplit(self.path)
        if parts.path == "/api/whoami-v2":
            return self.reply({"name": "me", "type": "user", "orgs": [], "auth": {}})
        if re.fullmatch(r"/api/\w+/[^/]+/[^/]+/auth-check/write", parts.path):
            return self.may_write() and self.reply({})
        if match := re.fullmatch(r"/api/(\w+)/([^/]+/[^/]+)/tree/[^/]+(/.*)?", parts.path):
            return self.tree(KINDS[match[1]] + match[2], (match[3] or "").strip("/"), parse_qs(parts.query))
        if match := re.fullmatch(r"/api/(\w+)/([^/]+/[^/]+)(/revision/.+)?", parts.path):
            return self.info(KINDS[match[1]] + match[2], match[2])
        if match := re.fullmatch(r"/((?:datasets/|spaces/)?[^/]+/[^/]+)/resolve/[^/]+/(.+)", parts.path):
            return self.resolve(match[1], unquote(match[2]))
        return self.refuse(404, "RepoNotFound", "Repository not found")

    do_HEAD = do_GET

    def tree(self, repo, folder, query):
        if repo not in self.server.files:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        start, entries = f"{folder}/" if folder else "", {}
        for name, content in self.server.files[repo].items():
            rest = name.removeprefix(start)
            if not name.startswith(start):
                continue
            if "/" in rest and query.get("recursive", ["false"]) == ["false"]:
                path = start + rest.split("/")[0]
                entries[path] = {"type": "directory", "path": path, "size": 0, "oid": etag(path.encode())}
            else:
                entries[name] = {"type": "file", "path": name, "size": len(content), "oid": etag(content)}
        if folder and not entries:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        return self.reply(list(entries.values()))

    def info(self, repo, repo_id):
        if repo not in self.server.files:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        siblings = [{"rfilename": name} for name in self.server.files[repo]]
        self.reply(
            {"id": repo_id, "modelId": repo_id, "sha": self.server.head(repo), "siblings": siblings, "tags": []}
        )

    def resolve(self, repo, name):
        if repo not in self.server.files:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        if name not in self.server.files[repo]:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        content = self.server.files[repo][name]
        headers = {"ETag": f'"{etag(content)}"', "X-Repo-Commit": self.server.head(repo)}
        headers |= {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if not (asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))):
            return self.reply(content, headers=headers.items())
        part = content[int(asked[1]) : int(asked[2]) + 1]
        self.server.ranges.append((name, len(part)))
        place = f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(content)}"
        return self.reply(part, status=206, headers=(headers | {"Content-Range": place}).items())


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()

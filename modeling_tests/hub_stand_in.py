"""A Hub on this machine: enough of the Hub's protocol for the unmodified `huggingface_hub` client.

Repositories of models can be made, committed to (regular files and LFS), looked at (info, tree) and resolved (etags,
ranges, redirects to where large files are). Faults can be switched on: uploads and downloads that break off, uploads that
arrive with other bytes. What the real one has besides (Xet storage, pull requests, other kinds of repositories) is not
here: clients are told to use LFS by `HF_HUB_DISABLE_XET=1`.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Repository:
    """Commits, newest last: (id, title, path -> content, or the SHA-256 of what is in LFS)."""

    private: bool = False
    commits: list[tuple[str, str, dict[str, bytes | str]]] = field(default_factory=list)

    def commit(self, title: str, files: dict[str, bytes | str]) -> str:
        commit = hashlib.sha1(f"{len(self.commits)} {title} {sorted(files)}".encode()).hexdigest()
        self.commits.append((commit, title, files))
        return commit

    def at(self, revision: str) -> tuple[str, str, dict[str, bytes | str]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((found for found in self.commits if found[0] == revision), None)


class Hub:
    """
    Args:
        tokens: token -> the user it belongs to; a user may read and write `user/...` and `org/...`.
    """

    def __init__(self, tokens: dict[str, str] | None = None):
        self.tokens = {"hf_test": "user"} if tokens is None else tokens
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}  # LFS, by SHA-256
        self.requests: list[tuple[str, str]] = []  # method, path
        self.broken_uploads = 0  # so many more break off
        self.broken_downloads = 0
        self.garbled_uploads = 0  # so many more arrive with other bytes
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Any, token: str | None = "hf_test") -> dict[str, str]:
        """What a client process needs, with caches of its own in `home`."""
        settings = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
        return settings | ({} if token is None else {"HF_TOKEN": token})


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str):
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    _ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/whoami-v2", "who"),
        ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", "info"),
        ("GET", r"/api/models/([^/]+/[^/]+)/commits/([^/]+)", "history"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", "tree"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/objects/([0-9a-f]{64})", "receive"),
        ("POST", r"/objects/([0-9a-f]{64})/verify", "verify"),
        ("GET", r"/objects/([0-9a-f]{64})", "send_object"),
        ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
    )

    def log_message(self, *_: Any) -> None:
        pass

    def _dispatch(self) -> None:
        parts = urlsplit(self.path)
        self.query, path = parse_qs(parts.query), parts.path
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if self.command == "POST" else b""
        self.hub.requests.append((self.command, path))
        method = "GET" if self.command == "HEAD" else self.command
        try:
            for wanted, pattern, name in self._ROUTES:
                if wanted == method and (match := re.fullmatch(pattern, path)):
                    return getattr(self, f"_{name}")(*(group and unquote(group) for group in match.groups()))
            raise _Refused(404, "NotFound", f"no {method} {path} here")
        except _Refused as error:
            self._answer({"error": error.message}, error.status, {"X-Error-Code": error.code})

    do_GET = do_HEAD = do_POST = do_PUT = _dispatch

    def _answer(self, document: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(document).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # --- who may ---------------------------------------------------------------------------------------------------

    @property
    def _user(self) -> str | None:
        return self.hub.tokens.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def _writer(self, repo_id: str) -> None:
        if self._user is None:
            raise _Refused(401, "", "Invalid username or password.")
        if repo_id.split("/")[0] not in (self._user, "org"):
            raise _Refused(403, "", f"{self._user} may not write to {repo_id}.")

    def _repository(self, repo_id: str) -> Repository:
        found = self.hub.repositories.get(repo_id)
        if found is None or (found.private and self._user is None):
            status = 401 if self._user is None else 404  # as the real one, which does not say what is there
            raise _Refused(status, "RepoNotFound", "Repository not found")
        return found

    def _files(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes | str]]:
        found = self._repository(repo_id).at(revision)
        if found is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found[0], found[2]

    # --- repositories ----------------------------------------------------------------------------------------------

    def _create(self) -> None:
        asked = json.loads(self.body)
        repo_id = f"{asked.get('organization') or self._user}/{asked['name']}"
        self._writer(repo_id)
        document = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id, "id": repo_id}
        if repo_id in self.hub.repositories:
            return self._answer({"error": "You already created this model repo", **document}, 409)
        private = bool(asked.get("private") or asked.get("visibility") == "private")
        self.hub.repositories[repo_id] = repository = Repository(private)
        repository.commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self._answer(document)

    def _validate(self) -> None:
        self._answer({"errors": [], "warnings": []})

    def _who(self) -> None:
        if self._user is None:
            raise _Refused(401, "", "Invalid user token.")
        self._answer({"type": "user", "name": self._user, "orgs": [{"name": "org"}], "auth": {}})

    def _info(self, repo_id: str, revision: str | None) -> None:
        commit, files = self._files(repo_id, revision or "main")
        self._answer(
            {
                "id": repo_id,
                "modelId": repo_id,
                "sha": commit,
                "private": self._repository(repo_id).private,
                "tags": [],
            }
            | {"siblings": [{"rfilename": path} for path in sorted(files)], "downloads": 0, "likes": 0}
            | {"author": repo_id.split("/")[0], "lastModified": DATE, "createdAt": DATE, "gated": False}
        )

    def _history(self, repo_id: str, revision: str) -> None:
        last, _ = self._files(repo_id, revision)
        commits = self._repository(repo_id).commits
        until = [commit for commit, *_ in commits].index(last)
        rows = [{"id": commit, "title": title, "message": ""} for commit, title, _ in commits[until::-1]]
        self._answer([row | {"authors": [], "date": DATE} for row in rows])

    def _tree(self, repo_id: str, revision: str, folder: str | None) -> None:
        _, files = self._files(repo_id, revision)
        entries = []
        for path, content in sorted(files.items()):
            if folder and not path.startswith(f"{folder}/"):
                continue
            large = {"oid": content, "size": self._size(content), "pointerSize": 134}
            entry = {"type": "file", "path": path, "oid": _etag(content)[:40], "size": self._size(content)}
            entries.append(entry | ({"lfs": large} if isinstance(content, str) else {}))
        self._answer(entries)

    def _size(self, content: bytes | str) -> int:
        return len(content if isinstance(content, bytes) else self.hub.objects[content])

    # --- committing ------------------------------------------------------------------------------------------------

    def _preupload(self, repo_id: str, revision: str) -> None:
        self._writer(repo_id)
        _, files = self._files(repo_id, revision)
        modes = []
        for file in json.loads(self.body)["files"]:
            large = file["path"].endswith(".safetensors") or file["size"] > 10_000_000
            known = files.get(file["path"])
            mode = {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "path": file["path"]}
            modes.append(mode | ({} if known is None else {"oid": known if large else _etag(known)}))
        self._answer({"files": modes})

    def _batch(self, repo_id: str) -> None:
        self._writer(repo_id)
        objects = []
        for one in json.loads(self.body)["objects"]:
            place = f"{self.hub.url}/objects/{one['oid']}"
            actions = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
            objects.append(one | ({} if one["oid"] in self.hub.objects else {"actions": actions}))
        self._answer({"transfer": "basic", "objects": objects})

    def _receive(self, oid: str) -> None:
        size = int(self.headers["Content-Length"])
        if self.hub.broken_uploads:
            self.hub.broken_uploads -= 1
            self.rfile.read(size // 2)
            self.close_connection = True
            return self.connection.close()
        content = self.rfile.read(size)
        if self.hub.garbled_uploads:
            self.hub.garbled_uploads -= 1
            content = content[:-1] + bytes([content[-1] ^ 255])
        if hashlib.sha256(content).hexdigest() != oid:
            raise _Refused(400, "", "The content has another hash than it is stored by.")
        self.hub.objects[oid] = content
        self._answer({})

    def _verify(self, oid: str) -> None:
        asked = json.loads(self.body)
        if len(self.hub.objects.get(oid, b"")) != asked["size"]:
            raise _Refused(404, "", f"{oid} was not received.")
        self._answer({})

    def _commit(self, repo_id: str, revision: str) -> None:
        self._writer(repo_id)
        _, files = self._files(repo_id, revision)
        files, title = dict(files), ""
        for line in self.body.decode().splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise _Refused(400, "", f"{value['path']} points to an object that was not uploaded.")
                files[value["path"]] = value["oid"]
            elif key == "deletedFile":
                files.pop(value["path"], None)
        commit = self._repository(repo_id).commit(title, files)
        self._answer({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{commit}"})

    # --- files -----------------------------------------------------------------------------------------------------

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        commit, files = self._files(repo_id, revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound", f"Entry not found: {path}")
        content, headers = files[path], {"X-Repo-Commit": commit}
        if isinstance(content, str):
            linked = {"X-Linked-Etag": f'"{content}"', "X-Linked-Size": str(self._size(content))}
            # Another host, which is why clients do not follow when they ask for etags.
            place = f"http://localhost:{self.hub.server.server_port}/objects/{content}"
            return self._send(b"", 302, headers | linked | {"Location": place})
        self._content(content, headers | {"ETag": f'"{_etag(content)}"'})

    def _send_object(self, oid: str) -> None:
        self._content(self.hub.objects[oid], {"ETag": f'"{oid}"'})

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        """Content or the range of it that is asked for; half of it if downloads are broken."""
        status, total = 200, len(content)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(match[1]), min(int(match[2] or total - 1), total - 1)
            if first >= total:
                return self._send(b"", 416, {"Content-Range": f"bytes */{total}"})
            content, status = content[first : last + 1], 206
            headers = headers | {"Content-Range": f"bytes {first}-{last}/{total}"}
        if self.hub.broken_downloads and self.command == "GET":
            self.hub.broken_downloads -= 1
            headers = headers | {"Content-Length": str(len(content))}
            content, self.close_connection = content[: len(content) // 2], True
        self._send(content, status, {"Accept-Ranges": "bytes", **headers})


def _etag(content: bytes | str) -> str:
    """As git names a blob; LFS files are named by their SHA-256."""
    if isinstance(content, str):
        return content
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

"""A W&B server on this machine, of the few answers that wandb 0.31 cannot do without, which keeps what is sent to it."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API_KEY = "x" * 40
PROJECT = {"id": "project", "name": "disentangled-ml", "entity": {"id": "entity", "name": "team"}}


class WandbServer:
    """Answer GraphQL and file streams on a port of 127.0.0.1.

    Attributes:
        configs: What each run has said of its configuration, as ``{"key": value}``.
        history: Lines of each run's history, by their number.
        finished: Ids of the runs that said they were complete.
        requests: Names of the GraphQL requests, in order.
        sweep: Configuration of the sweep that was created, YAML.
        commands: What an agent is told, one at a heartbeat without a running run; then to end.
        stop_after: Lines of history with a validation after which an agent is told to stop the run; None: never.
        status: HTTP status of all answers.
    """

    def __init__(self, port: int = 0, status: int = 200):
        self.configs: dict[str, dict[str, Any]] = defaultdict(dict)
        self.history: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        self.finished: list[str] = []
        self.requests: list[str] = []
        self.sweep: str | None = None
        self.commands: list[dict[str, Any]] = []
        self.stop_after: int | None = None
        self.status = status
        self.connections: list[socket.socket] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", port), handler(self))
        self.http.handle_error = lambda *_: None  # a client that went away
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """Give what a process needs to take this for W&B."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.port}", "WANDB_API_KEY": API_KEY}

    def stop(self) -> None:
        """Go away, with all connections."""
        self.http.shutdown()
        self.http.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def values(self, run_id: str, key: str) -> list[Any]:
        """Give the values of a key in the history of a run."""
        return [line[key] for _, line in sorted(self.history[run_id].items()) if key in line]

    def graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answer a request by its name."""
        name = re.search(r"(?:query|mutation)\s+(\w+)", query).group(1)
        self.requests.append(name)
        if name == "Viewer":
            viewer = {"id": "user", "entity": "team", "username": "user", "email": "", "flags": "{}"}
            return {"viewer": {**viewer, "teams": {"edges": []}}}
        if name == "UpsertBucket":
            new = given["name"] not in self.configs
            config = json.loads(given["config"] or "{}")
            self.configs[given["name"]].update({key: entry["value"] for key, entry in config.items()})
            return {"upsertBucket": {"bucket": self.run(given["name"]), "inserted": new}}
        if name == "RunResumeStatus":
            known = given["name"] in self.configs
            return {"model": {**PROJECT, "bucket": self.run(given["name"]) if known else None}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"http://127.0.0.1:{self.port}/{file}"} for file in given["files"]]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        if name == "UpsertSweep":
            self.sweep = given["config"]
            return {"upsertSweep": {"sweep": {"name": "sweep1", "project": PROJECT}, "configValidationWarnings": []}}
        if name == "SweepWithRuns":
            return {"project": {"sweep": {"id": "id", "name": "sweep1", "config": self.sweep, "runs": {"edges": []}}}}
        if name == "CreateAgent":
            return {"createAgent": {"agent": {"id": "agent"}}}
        if name == "Heartbeat":
            told = json.dumps(self.told(list(json.loads(given["runState"]))))
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": told}}
        return {}

    def run(self, run_id: str) -> dict[str, Any]:
        """Describe a run as it stands here, for one that would go on with it."""
        lines = self.history[run_id]
        last = lines[max(lines)] if lines else {}
        return {
            **{"id": f"id-{run_id}", "name": run_id, "displayName": run_id, "description": None, "project": PROJECT},
            **{"config": "{}", "wandbConfig": '{"t": 1}', "sweepName": None, "tags": [], "summaryMetrics": "{}"},
            **{"historyLineCount": len(lines), "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]"},
            "historyTail": json.dumps([json.dumps(last)] if last else []),
        }

    def told(self, running: list[str]) -> list[dict[str, Any]]:
        """Choose what an agent is told."""
        if not running:
            return [self.commands.pop(0) if self.commands else {"type": "exit"}]
        validations = self.values(running[0], "val/triplet_accuracy/mean")
        if self.stop_after is not None and len(validations) >= self.stop_after:
            return [{"type": "stop", "run_id": running[0]}]
        return []

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        """Keep what comes of a run's history."""
        content = sent.get("files", {}).get("wandb-history.jsonl")
        if content:
            lines = enumerate(map(json.loads, content["content"]), start=content["offset"])
            self.history[run_id].update(lines)
        if sent.get("complete"):
            self.finished.append(run_id)


def handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    """Make the class that ``http.server`` wants."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            server.connections.append(self.connection)

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            reply: dict[str, Any] = {}
            if server.status != 200:
                reply = {"errors": [{"message": f"refused with {server.status}"}]}
            elif self.path == "/graphql":
                request = json.loads(body)
                reply = {"data": server.graphql(request["query"], request.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body))
            content = json.dumps(reply).encode()
            self.send_response(server.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *_: Any) -> None:
            pass

    return Handler

"""A worker: takes files from /work/queue, one at a time, and sleeps as many seconds as each says.

What Baton asks of it, on 127.0.0.1 alone: /health, /inflight, POST /drain, POST /resume.
"""

import json
import pathlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORK = pathlib.Path("/work")
draining = threading.Event()
inflight = 0


class Answers(BaseHTTPRequestHandler):
    def answer(self, what):
        body = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"inflight": inflight})

    def do_POST(self):
        draining.set() if self.path == "/drain" else draining.clear()
        self.answer({"draining": draining.is_set()})

    def log_message(self, *args):
        pass


def take():
    """The next job, moved so that no other worker has it."""
    for job in sorted((WORK / "queue").iterdir()):
        try:
            return job.rename(WORK / "running" / job.name)
        except FileNotFoundError:
            continue
    return None


for folder in ("queue", "running", "done"):
    (WORK / folder).mkdir(parents=True, exist_ok=True)
threading.Thread(target=ThreadingHTTPServer(("127.0.0.1", 8080), Answers).serve_forever, daemon=True).start()
while True:
    # Counted before it is taken: a drain that sees 0 in flight sees nothing half taken.
    inflight = 0 if draining.is_set() else 1
    job = take() if inflight and not draining.is_set() else None
    if job:
        time.sleep(float(job.read_text() or 1))
        job.rename(WORK / "done" / job.name)
    inflight = 0
    time.sleep(0.1)

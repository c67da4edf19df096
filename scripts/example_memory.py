#!/usr/bin/env python3
"""A complete memory server: in each scope, the tips of the best episodes.

Usage: example_memory.py [PORT]. It prints its address, for memory.http.url. The protocol is
described in memory/strategies/http.go.
"""
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

episodes = {}  # by id: an episode that is learnt again counts once

def learn(episode): episodes[episode["id"]] = episode

def recall(scope, state, k, seed):
    best = sorted((e for e in episodes.values() if e["scope"] == scope and e["tip"]), key=lambda e: -e["return"])
    return {"tips": [{"text": e["tip"], "score": e["return"]} for e in best[:k]]}

class Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps(recall(**body) if self.path == "/recall" else learn(body) or {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *args): pass

if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()

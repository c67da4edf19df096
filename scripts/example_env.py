#!/usr/bin/env python3
"""A complete environment server in 40 lines: guess a number from 1 to 8.

Usage: example_env.py [PORT]. It prints its address. The protocol is described in
envs/remote/remote.go.
"""
import json, random, sys, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ABOUT = {"protocol": "empo2-env", "version": 1, "instruction": "Find the secret number. Answer with one number."}
episodes = {}

class Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def do_GET(self): self.answer(200, ABOUT)
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/reset":
            id = uuid.uuid4().hex
            episodes[id] = {"secret": random.Random(body["seed"]).randint(1, 8), "left": 4}
            return self.answer(200, {"id": id, "observation": "The secret is one of 1 to 8. 4 guesses left."})
        if body["id"] not in episodes or self.path not in ("/step", "/close"):
            return self.answer(404, {"error": "no such episode or path"})
        if self.path == "/close": return self.answer(200, {"closed": bool(episodes.pop(body["id"]))})
        game, guess = episodes[body["id"]], body["action"].strip()
        game["left"] -= 1
        won, lost = guess == str(game["secret"]), game["left"] == 0
        low = guess.isdecimal() and int(guess[:9]) < game["secret"]
        feedback = "Right!" if won else "Too low." if low else "Too high, or no number."
        if won or lost: del episodes[body["id"]]
        self.answer(200, {"observation": {"feedback": feedback, "state": f"{game['left']} guesses left."},
                          "reward": float(won), "terminated": won, "truncated": lost and not won,
                          "info": {"success": won}})
    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args): pass

server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8000), Handler)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()

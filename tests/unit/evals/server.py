"""A small server in OpenAI's form that misbehaves on demand."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Misbehaving:
    """``plan`` gives, for the number of a request, what goes wrong: 429, 500, 401, half, nothing, nonsense, or None."""

    def __init__(self, plan, *, logprobs: bool = True, answer: str = "Correct"):
        self.plan, self.logprobs, self.answer = plan, logprobs, answer
        self.requests, self.prompts, self.lock = 0, Counter(), threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.reply(200, {"data": [{"id": "toy"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    number = outer.requests
                    outer.requests += 1
                trouble = outer.plan(number)
                if trouble in (429, 500, 401):
                    self.reply(trouble, {"error": "no"})
                elif trouble == "half":
                    self.send_response(200)
                    self.send_header("Content-Length", "500")
                    self.end_headers()
                    self.wfile.write(b'{"choices": [')
                    self.close_connection = True
                elif trouble == "nothing":
                    self.close_connection = True
                elif trouble == "nonsense":
                    self.reply(200, {"hello": ["world"]})
                elif trouble == "no logprobs" and "logprobs" in body:
                    self.reply(400, {"error": "logprobs is unknown"})
                else:
                    content = body["messages"][0]["content"]
                    with outer.lock:
                        outer.prompts[json.dumps(content)[-200:]] += 1
                    self.reply(200, outer.good(body))

            def reply(self, code: int, body: dict):
                data = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def good(self, body: dict) -> dict:
        choice = {"message": {"content": self.answer}}
        if self.logprobs and "logprobs" in body:
            top = [
                {"token": " Correct", "logprob": -0.5},
                {"token": "In", "logprob": -2.0},
                {"token": "x", "logprob": -3},
            ]
            choice["logprobs"] = {"content": [{"token": " Correct", "logprob": -0.5, "top_logprobs": top}]}
        return {"choices": [choice], "usage": {"total_tokens": 7}}

    def close(self):
        self.server.shutdown()
        self.server.server_close()

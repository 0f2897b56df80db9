"OpenAI-compatible servers for the tests of the language model judge: one that follows a script, one with a model behind it."

import contextlib
import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LINES = (
    "Number of clinically significant errors by type: [(A, {}), (B, {}), (C, {}), (D, {}), (E, {}), (F, {})]\n"
    "Number of clinically insignificant errors by type: [(A, {}), (B, {}), (C, {}), (D, {}), (E, {}), (F, {})]"
)


def answer(significant="000000", insignificant="000000"):
    "A good reply, from the counts of the six types as digits."
    return LINES.format(*significant, *insignificant)


def completion(text, usage=(900, 80), finish="stop", **message):
    "A chat completion around a reply; further fields of its message by name."
    body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
    body["choices"] = [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}]
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return json.dumps(body)


class Server:
    """Serves while the block lasts. `behave(candidate, number, request)` says what happens to the number-th request on a candidate report:
    a text is the reply of a good completion; a dict may hold status, body (or raw bytes), headers, cut (bytes sent before the line drops)
    and hang (an event waited for)."""

    def __init__(self, behave):
        self.behave, self.lock = behave, threading.Lock()
        self.asked, self.answered = Counter(), Counter()  # candidate -> requests, and whole completions sent
        self.requests, self.at_once, self.most_at_once = [], 0, 0

    def __enter__(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    server.serve(self)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.http.server_port}/v1"
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()

    def serve(self, handler):
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        candidate = "".join(re.findall(r'Candidate[^"]*"""(.*?)"""', request["messages"][-1]["content"], re.S)[-1:])
        with self.lock:
            self.requests.append((handler.path, handler.headers.get("Authorization"), request))
            self.asked[candidate] += 1
            number, self.at_once = self.asked[candidate], self.at_once + 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            done = self.behave(candidate, number, request)
            done = {"body": completion(done)} if isinstance(done, str) else done
            if "hang" in done and not done["hang"].wait(60):
                return
            whole = done.get("raw") or done.get("body", "{}").encode()
            sent = whole[: done.get("cut", len(whole))]
            handler.send_response(done.get("status", 200))
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(whole)), **done.get("headers", {})}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(sent)
            handler.wfile.flush()
            if sent != whole:
                handler.close_connection = True
            elif done.get("status", 200) == 200:
                with self.lock:
                    self.answered[candidate] += 1
        finally:
            with self.lock:
                self.at_once -= 1


class ModelServer(Server):
    "Serves a causal language model of transformers: `encode` takes messages and gives token ids, `decode` the other way round."

    def __init__(self, model, encode, decode):
        self.model, self.encode, self.decode, self.replies = model, encode, decode, []
        super().__init__(self.generate)

    def generate(self, candidate, number, request):
        import torch

        with self.lock, torch.inference_mode():
            ids = torch.tensor([self.encode(request["messages"])])
            started = time.time()
            out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=request["max_tokens"], do_sample=False)
            new = out[0, ids.shape[1] :].tolist()
            text = self.decode(new)
            self.replies.append((text, time.time() - started))
        finish = "length" if len(new) == request["max_tokens"] else "stop"
        return {"body": completion(text, (ids.shape[1], len(new)), finish)}

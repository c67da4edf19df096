#!/usr/bin/env python3
"""mem0 as the memory of a run: memory.strategy = "http" with the address that this prints.

Usage: mem0_memory.py [PORT] [CONFIG.json]. It needs the package mem0ai (tried with 2.2.1). CONFIG.json is
a configuration of mem0 with your models; its language model then extracts memories from each tip.
Without it, tips are stored as they are, in a temporary folder, and compared by their words: no model,
no network.
"""
import hashlib, json, os, sys, tempfile, threading
from http.server import ThreadingHTTPServer

os.environ.setdefault("MEM0_TELEMETRY", "False")
import example_memory
from mem0 import Memory
from mem0.embeddings.base import EmbeddingBase

WORDS = 256

class Words(EmbeddingBase):
    """The signed hashes of a text's words, as a vector."""
    def embed(self, text, memory_action=None):
        vector = [0.0] * WORDS
        for word in text.lower().replace(",", " ").replace(".", " ").split():
            h = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
            vector[h % WORDS] += 1 if h >> 63 else -1
        return vector

def local():
    memory = Memory.from_config({
        "vector_store": {"provider": "qdrant", "config": {"path": tempfile.mkdtemp(), "collection_name": "tips",
                                                          "embedding_model_dims": WORDS}},
        "embedder": {"provider": "openai", "config": {"api_key": "unused", "embedding_dims": WORDS}},
        "llm": {"provider": "openai", "config": {"api_key": "unused"}}, "history_db_path": ":memory:"})
    memory.embedding_model = Words()
    return memory

lock, given = threading.Lock(), len(sys.argv) > 2
with_models = Memory.from_config(json.load(open(sys.argv[2]))) if given else None
memory, learnt = with_models or local(), set()

def learn(episode):
    with lock:
        if episode["tip"] and episode["id"] not in learnt:  # an episode that is learnt again counts once
            memory.add(episode["tip"], user_id=episode["scope"], infer=given, metadata={"return": episode["return"]})
        learnt.add(episode["id"])

def recall(scope, state, k, seed):
    with lock:
        found = memory.search(state, top_k=k, filters={"user_id": scope})["results"]
    return {"tips": [{"text": m["memory"], "score": m["metadata"]["return"]} for m in found]}

if __name__ == "__main__":
    example_memory.learn, example_memory.recall = learn, recall
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), example_memory.Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
